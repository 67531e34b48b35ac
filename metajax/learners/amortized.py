"""Amortized adaptation: an encoder network reads the support and conditions a decoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.parts import query_loss, real_sum
from metajax.models.towers import identity
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task has of its own: the sum and number of its encoded examples.

    Attributes:
      total: (D,) sum of codes.
      weight: () number of examples.
      profile: the task's profile.
    """

    total: jax.Array
    weight: jax.Array
    profile: PyTree


def neural_process(
    encode: Model,
    decode: Model,
    num_code: int,
    *,
    embed: Model | None = None,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A conditional neural process: the mean code of the examples conditions the decoder.

    ``score = decode(embed(x), mean of encode(embed(x_i), label_i))``. The code of a task without
    examples is zero. Adapting twice is the same as adapting once on both sets together, and the
    order of examples does not matter. Unlike the paper's, it predicts a mean without a variance,
    and its loss is that of the other learners, not a likelihood.

    Args:
      encode: a model of the inputs ``(features, label)`` whose ``apply`` gives codes (N, D), for
        instance `models.features.labeled_features`.
      decode: a model of features that is called with the profile ``(profile, code)``, for instance
        `models.features.conditioned_mlp`.
      num_code: D.
      embed: a model whose ``apply`` gives the features (N, E) that both read, by default the inputs
        themselves. It gets a gradient through the decoder only.
      loss: the outer loss on the query set.

    References: Garnelo et al., "Conditional neural processes", ICML 2018.
    """
    embed = identity() if embed is None else embed

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_encode, key_decode = jax.random.split(key, 3)
        profile, (inputs, label, _) = episode.profile, episode.support
        embedding = embed.init(key_embed, profile, inputs)
        x_NxE = embed.apply(embedding, profile, inputs)
        return {
            "embed": embedding,
            "encode": encode.init(key_encode, profile, (x_NxE, label)),
            "decode": decode.init(key_decode, (profile, jnp.zeros(num_code)), x_NxE),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros(num_code), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x_NxE = embed.apply(params["embed"], state.profile, examples.inputs)
        pairs = (jax.lax.stop_gradient(x_NxE), examples.label)
        code_NxD = encode.apply(params["encode"], state.profile, pairs)
        total, number = real_sum(code_NxD, examples.mask)
        return state._replace(total=state.total + total, weight=state.weight + number)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        code = state.total / jnp.maximum(state.weight, 1.0)
        x_NxE = embed.apply(params["embed"], state.profile, inputs)
        return decode.apply(params["decode"], (state.profile, code), x_NxE)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
