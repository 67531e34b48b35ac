"""Metric learning: a class is the mean of its embedded examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task remembers: the sum and number of embedded examples of each class.

    Attributes:
      total: (C, D) sum of embeddings per class.
      weight: (C,) number of examples per class.
      profile: the task's profile.
    """

    total: jax.Array
    weight: jax.Array
    profile: PyTree


def prototypes(
    embed: Model,
    num_classes: int,
    num_features: int,
    *,
    loss: losses.Loss = losses.class_cross_entropy,
) -> MetaLearner:
    """A learner that scores a class by minus the squared distance to the mean of its examples.

    ``predict`` gives scores (N, C); labels are class indices. A class without examples has its
    prototype at the origin, so that a task without examples scores all classes the same. Adapting
    twice is the same as adapting once on both sets together.

    Args:
      embed: a model whose ``apply`` gives features (N, ``num_features``).
      num_classes: C.
      num_features: D.
      loss: the outer loss on the query set, (scores (N, C), label (N,), mask (N,)) -> scalar.

    References: Snell et al., "Prototypical networks for few-shot learning", NeurIPS 2017.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        return {"embed": embed.init(key, episode.profile, episode.support.inputs)}

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros((num_classes, num_features)), jnp.zeros(num_classes), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x_NxD = embed.apply(params["embed"], state.profile, examples.inputs)
        x_NxD = jnp.where(examples.mask[:, None] > 0, x_NxD, 0.0)
        member_NxC = jax.nn.one_hot(examples.label.astype(jnp.int32), num_classes)
        member_NxC = jnp.where(examples.mask[:, None] > 0, member_NxC, 0.0)
        own_CxD = jnp.matmul(member_NxC.T, x_NxD, precision="highest")
        return state._replace(
            total=state.total + own_CxD,
            weight=state.weight + jnp.sum(member_NxC, axis=0),
        )

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        center_CxD = state.total / jnp.maximum(state.weight, 1.0)[:, None]
        x_NxD = embed.apply(params["embed"], state.profile, inputs)
        return -jnp.sum((x_NxD[:, None, :] - center_CxD[None, :, :]) ** 2, axis=-1)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
