"""Learning what a shared model leaves: a task adapts to how it differs from all others."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.learners.parts import inside, plain_loss, query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task has of its own.

    Attributes:
      inner: the wrapped learner's state.
      profile: the task's profile, which the shared model reads.
    """

    inner: PyTree
    profile: PyTree


def unchanged(label: jax.Array, base: jax.Array) -> jax.Array:
    """The label (N,) as it is, for a learner that compares it with a threshold or encodes it."""
    del base
    return label


def residual(
    learner: MetaLearner,
    offset: Model,
    *,
    shown: Callable[[jax.Array, jax.Array], jax.Array] = jnp.subtract,
) -> MetaLearner:
    """The learner of ``score = offset(x) + learner(x)``, trained together with the offset.

    In recommendation the offset is what holds for every user, such as the mean rating of an item.
    The parameters become ``{"learner": ..., "offset": ...}``; the offset does not adapt.

    Args:
      learner: one whose outer loss is the plain loss on the query.
      offset: a model of scores, of the shape that the learner's have.
      shown: (label (N,), offset (N,)) -> the labels that the learner adapts to. By default what
        the offset leaves, which is right for a learner that minimizes a loss of
        ``score - label``; `unchanged` for one that reads labels in another way.

    Raises:
      UserError: the learner has an outer loss of its own.
    """
    loss = plain_loss(learner, "residual")

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_learner, key_offset = jax.random.split(key)
        own = offset.init(key_offset, episode.profile, episode.support.inputs)
        return {"learner": learner.init(key_learner, episode), "offset": own}

    def start(params: PyTree, profile: PyTree) -> State:
        return State(learner.start(params["learner"], profile), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        base = offset.apply(params["offset"], state.profile, examples.inputs)
        examples = examples._replace(label=shown(examples.label, base))
        inner = learner.adapt(params["learner"], state.inner, examples, key)
        return state._replace(inner=inner)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        base = offset.apply(params["offset"], state.profile, inputs)
        return base + learner.predict(params["learner"], state.inner, inputs)

    return learner._replace(
        init=init,
        start=start,
        adapt=adapt,
        predict=predict,
        loss=query_loss(start, adapt, predict, loss),
        adapted=inside(learner.adapted),
    )
