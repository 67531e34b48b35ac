"""A learner of residuals: a shared model predicts, and each task adapts to what remains."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.learners.parts import QueryLoss, inside, query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree, UserError


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

    In recommendation the offset is shared by all users, such as the mean rating of an item. The
    parameters become ``{"learner": ..., "offset": ...}``; the offset does not adapt.

    Args:
      learner: any. An outer loss that is not the plain loss on the query (`parts.QueryLoss`) is
        computed on an episode whose labels are the residuals ``label - offset``.
      offset: a model of scores, of the shape of the learner's scores.
      shown: (label (N,), offset (N,)) -> the labels that the learner adapts to. By default the
        residuals, which is right for a learner that minimizes a loss of ``score - label``; use
        `unchanged` for one that reads labels in another way.

    Raises:
      UserError: the learner has an outer loss of its own, and ``shown`` is not the residual.
    """
    if not isinstance(learner.loss, QueryLoss) and shown is not jnp.subtract:
        raise UserError(
            "residual: this learner has an outer loss of its own, which has to see what the offset "
            "leaves of the labels; use residual without the argument shown"
        )

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

    def own_loss(params: PyTree, episode: Episode, key: jax.Array):
        left = lambda part: _left(offset, params["offset"], episode.profile, part)
        episode = episode._replace(support=left(episode.support), query=left(episode.query))
        return learner.loss(params["learner"], episode, key)

    loss = own_loss
    if isinstance(learner.loss, QueryLoss):
        loss = query_loss(start, adapt, predict, learner.loss.loss)
    functions = (init, start, adapt, predict, loss)
    return MetaLearner(*functions, learner.num_gradients, inside(learner.adapted))


def _left(offset: Model, params: PyTree, profile: PyTree, examples: Examples) -> Examples:
    """The examples with what the offset leaves of their labels."""
    base = offset.apply(params, profile, examples.inputs)
    return examples._replace(label=examples.label - base)
