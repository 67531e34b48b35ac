"""DropoutNet: new items are represented by their users' vectors, and by content without users."""

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.amortized import State
from metajax.learners.item_warm_up.meta_embedding import init_base
from metajax.learners.parts import real_sum
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def dropout_net(
    base: Model,
    user: Model,
    num_embedding: int,
    share: float = 0.5,
    *,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """DropoutNet: an item's embedding is the mean over its users' vectors, each times its label.

    An item without users has the embedding 0. In training a share of the items has it too, so that
    the base learns to predict from content alone. Nothing adapts by gradient: the state is the sum
    of labeled user vectors.

    Args:
      base: the model, trained here.
      user: a model whose ``apply`` gives user vectors (N, ``num_embedding``); frozen.
      num_embedding: D.
      share: probability that a training item has the embedding 0.
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

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros(num_embedding), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        frozen = jax.lax.stop_gradient(params["user"])
        user_NxD = user.apply(frozen, state.profile, examples.inputs)
        total, number = real_sum(examples.label[:, None] * user_NxD, examples.mask)
        return state._replace(total=state.total + total, weight=state.weight + number)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        embedding = state.total / jnp.maximum(state.weight, 1.0)
        return base.apply(params["base"], (state.profile, embedding), inputs)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        before = start(params, episode.profile)
        after = adapt(params, before, episode.support, key)
        state = tree.where(jax.random.bernoulli(key, share), before, after)
        query = episode.query
        value = loss(predict(params, state, query.inputs), query.label, query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)
