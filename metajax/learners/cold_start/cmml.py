"""Adaptation by modulation: a context read off the support steers every layer of a network."""

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.amortized import State
from metajax.learners.parts import query_loss, real_sum
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def modulated(
    embed: Model,
    encode: Model,
    decode: Model,
    num_context: int,
    *,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """CMML: the mean code of the examples is a context that modulates the decoder; no inner steps.

    ``score = decode(embed(x), context)``. Encoder and decoder read the same embedding;
    through the encoder no gradient reaches it, as published. The context of a task without examples
    is zero; adapting twice is adapting once on both sets together.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      encode: a model of the inputs ``(features, label)`` whose codes are (N, ``num_context``), for
        instance `models.features.labeled_features`.
      decode: a model of features that is called with the profile ``(profile, context)``, for
        instance `models.modulated.film_mlp`, for which ``num_context`` must be E.
      num_context: length of the context.
      loss: the outer loss on the query set.

    References: Feng et al., "CMML: contextual modulation meta learning for cold-start
    recommendation", CIKM 2021.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_encode, key_decode = jax.random.split(key, 3)
        profile, (inputs, label, _) = episode.profile, episode.support
        embedding = embed.init(key_embed, profile, inputs)
        x_NxE = embed.apply(embedding, profile, inputs)
        return {
            "embed": embedding,
            "encode": encode.init(key_encode, profile, (x_NxE, label)),
            "decode": decode.init(key_decode, (profile, jnp.zeros(num_context)), x_NxE),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros(num_context), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        profile = state.profile
        x_NxE = jax.lax.stop_gradient(embed.apply(params["embed"], profile, examples.inputs))
        code_NxC = encode.apply(params["encode"], profile, (x_NxE, examples.label))
        total, number = real_sum(code_NxC, examples.mask)
        return state._replace(total=state.total + total, weight=state.weight + number)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        profile = state.profile
        context = state.total / jnp.maximum(state.weight, 1.0)
        x_NxE = embed.apply(params["embed"], profile, inputs)
        return decode.apply(params["decode"], (profile, context), x_NxE)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
