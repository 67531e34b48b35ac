"""Adaptation by one forward pass: a network reads the support set and conditions another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.parts import query_loss, real_sum
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task remembers: the sum and number of its encoded examples.

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
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A conditional neural process: the mean code of the examples conditions the decoder.

    The code of a task without examples is zero. Adapting twice is adapting once on both sets
    together, and the order of examples does not matter. It gives the mean of the predictive
    distribution only; its loss is that of the other learners, not a likelihood.

    Args:
      encode: a model of the inputs ``(inputs, label)`` whose ``apply`` gives codes (N, D), for
        instance `models.features.labeled_features`.
      decode: a model that is called with the profile ``(profile, code)``, for instance
        `models.features.conditioned_mlp`.
      num_code: D.
      loss: the outer loss on the query set.

    References: Garnelo et al., "Conditional neural processes", ICML 2018.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_encode, key_decode = jax.random.split(key)
        profile, support = episode.profile, episode.support
        code = jnp.zeros(num_code)
        return {
            "encode": encode.init(key_encode, profile, (support.inputs, support.label)),
            "decode": decode.init(key_decode, (profile, code), support.inputs),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros(num_code), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        pairs = (examples.inputs, examples.label)
        code_NxD = encode.apply(params["encode"], state.profile, pairs)
        total, number = real_sum(code_NxD, examples.mask)
        return state._replace(total=state.total + total, weight=state.weight + number)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        code = state.total / jnp.maximum(state.weight, 1.0)
        return decode.apply(params["decode"], (state.profile, code), inputs)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
