"""Warm-up of new items by the users they met, content standing in while there are none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.warmup import init_base
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class Met(NamedTuple):
    """What an item remembers under `dropout_net`: the users that it met.

    Attributes:
      shared: the meta-parameters, the same for all items.
      total: (D,) sum of label times user vector.
      weight: () number of users.
      profile: the item's content.
    """

    shared: PyTree
    total: jax.Array
    weight: jax.Array
    profile: PyTree


def dropout_net(
    base: Model,
    user: Model,
    num_embedding: int,
    share: float = 0.5,
    *,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """DropoutNet: an item's preference input is the mean over the users it met, or missing.

    The embedding is the mean of the users' vectors, each times its label; an item without users has
    0. While training it is dropped from a share of the items, so that the base learns to do with
    content. Nothing adapts by gradient.

    Args:
      base: the model, trained here.
      user: a model whose ``apply`` gives user vectors (N, ``num_embedding``); frozen.
      num_embedding: D.
      share: probability that a training item is met without its users.
      loss: (scores, label, mask) -> scalar.

    References: Volkovs, Yu, Poutanen, "DropoutNet: addressing cold start in recommender systems",
    NeurIPS 2017.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_user = jax.random.split(key)
        return {
            "base": init_base(base, key_base, episode, num_embedding),
            "user": user.init(key_user, episode.profile, episode.support.inputs),
        }

    def start(params: PyTree, profile: PyTree) -> Met:
        return Met(params, jnp.zeros(num_embedding), jnp.zeros(()), profile)

    def adapt(state: Met, examples: Examples, key: jax.Array) -> Met:
        del key
        frozen = jax.lax.stop_gradient(state.shared["user"])
        user_NxD = user.apply(frozen, state.profile, examples.inputs)
        told_NxD = jnp.where(examples.mask[:, None] > 0, examples.label[:, None] * user_NxD, 0.0)
        total, weight = state.total + told_NxD.sum(axis=0), state.weight + (examples.mask > 0).sum()
        return state._replace(total=total, weight=weight)

    def predict(state: Met, inputs: PyTree) -> jax.Array:
        embedding = state.total / jnp.maximum(state.weight, 1.0)
        return base.apply(state.shared["base"], (state.profile, embedding), inputs)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        before = start(params, episode.profile)
        after = adapt(before, episode.support, key)
        state = tree.where(jax.random.bernoulli(key, share), before, after)
        query = episode.query
        value = loss(predict(state, query.inputs), query.label, query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)
