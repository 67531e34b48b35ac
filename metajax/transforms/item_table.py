"""A table over items that is learned with a learner and shared by all tasks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, PyTree


def item_table(
    learner: MetaLearner,
    name: str,
    shape: tuple[int, ...],
    seen: Callable[[jax.Array, PyTree], PyTree],
) -> MetaLearner:
    """The learner with a table over items among its parameters; a task does not adapt the table.

    The parameters become ``{"learner": ..., name: table}``; the table is 0 at first. The outer loss
    is the squared error on the query.

    Args:
      shape: of the table, items first.
      seen: (table, inputs) -> the inputs that the learner reads.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        return {"learner": learner.init(key, episode), name: jnp.zeros(shape)}

    def adapt(params: PyTree, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        known = examples._replace(inputs=seen(params[name], examples.inputs))
        return learner.adapt(params["learner"], state, known, key)

    def predict(params: PyTree, state: PyTree, inputs: PyTree) -> jax.Array:
        return learner.predict(params["learner"], state, seen(params[name], inputs))

    start = lambda params, profile: learner.start(params["learner"], profile)
    loss = query_loss(start, adapt, predict, losses.squared_error)
    return MetaLearner(init, start, adapt, predict, loss, learner.num_gradients)
