"""Adaptation by modulation: a context read off the support steers every layer of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task remembers: the sum and number of its encoded examples.

    Attributes:
      shared: the meta-parameters, the same for all tasks.
      total: (C,) sum of codes.
      weight: () number of examples.
      profile: the task's profile.
    """

    shared: PyTree
    total: jax.Array
    weight: jax.Array
    profile: PyTree


def modulated(
    embed: Model,
    encode: Model,
    decode: Model,
    offset: Model,
    num_context: int,
    *,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """CMML: the mean code of the examples is a context that modulates the decoder; no inner steps.

    ``score = offset(x) + decode(embed(x), context)``. Encoder and decoder read the same embedding;
    through the encoder no gradient reaches it, as published. The context of a task without examples
    is zero; adapting twice is adapting once on both sets together.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      encode: a model of the inputs ``(features, label)`` whose codes are (N, ``num_context``), for
        instance `models.features.labeled_features`.
      decode: a model of features that is called with the profile ``(profile, context)``, for
        instance `models.modulated.film_mlp`, for which ``num_context`` must be E.
      offset: a model of scores (N,) that all tasks share.
      num_context: length of the context.
      loss: the outer loss on the query set.

    References: Feng et al., "CMML: contextual modulation meta learning for cold-start
    recommendation", CIKM 2021.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_encode, key_decode, key_offset = jax.random.split(key, 4)
        profile, (inputs, label, _) = episode.profile, episode.support
        embedding = embed.init(key_embed, profile, inputs)
        x_NxE = embed.apply(embedding, profile, inputs)
        return {
            "embed": embedding,
            "encode": encode.init(key_encode, profile, (x_NxE, label)),
            "decode": decode.init(key_decode, (profile, jnp.zeros(num_context)), x_NxE),
            "offset": offset.init(key_offset, profile, inputs),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        return State(params, jnp.zeros(num_context), jnp.zeros(()), profile)

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        del key
        shared, profile = state.shared, state.profile
        x_NxE = jax.lax.stop_gradient(embed.apply(shared["embed"], profile, examples.inputs))
        code_NxC = encode.apply(shared["encode"], profile, (x_NxE, examples.label))
        code_NxC = jnp.where(examples.mask[:, None] > 0, code_NxC, 0.0)
        return state._replace(
            total=state.total + jnp.sum(code_NxC, axis=0),
            weight=state.weight + jnp.sum(examples.mask > 0),
        )

    def predict(state: State, inputs: PyTree) -> jax.Array:
        shared, profile = state.shared, state.profile
        context = state.total / jnp.maximum(state.weight, 1.0)
        x_NxE = embed.apply(shared["embed"], profile, inputs)
        base = offset.apply(shared["offset"], profile, inputs)
        return base + decode.apply(shared["decode"], (profile, context), x_NxE)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        state = adapt(start(params, episode.profile), episode.support, key)
        scores = predict(state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)
