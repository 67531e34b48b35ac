"""Layers of which the small networks here are built: stacked linear ones, averaged embeddings."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.types import Model, PyTree

Activation = Callable[[jax.Array], jax.Array]


def stack(rngs: nnx.Rngs, widths: Sequence[int]) -> nnx.List:
    """n linear layers of the widths (D_0, D_1, ..., D_n), of which D_0 is that of the input."""
    return nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])


def activate_between(layers: Iterable[nnx.Linear], x: jax.Array) -> jax.Array:
    """The output (..., D_n) of the layers for x (..., D_0), with a ReLU between any two of them."""
    for i, layer in enumerate(layers):
        x = layer(jax.nn.relu(x) if i else x)
    return x


def activate_after(
    layers: Iterable[nnx.Linear], x: jax.Array, act: Activation = jax.nn.relu
) -> jax.Array:
    """The output (..., D_n) of the layers for x (..., D_0), with the activation after each."""
    for layer in layers:
        x = act(layer(x))
    return x


def added(known: Callable[[PyTree], jax.Array | float], model: Model) -> Model:
    """What is known of the inputs plus what the model gives for them; the parameters are its own.

    Args:
      known: inputs -> what has no parameters, such as stored means, of the shape of the scores.
    """

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        return known(inputs) + model.apply(params, profile, inputs)

    return Model(model.init, apply)


def mean_embedding(table: nnx.Embed, index: jax.Array) -> jax.Array:
    """The mean (..., D) of the embeddings of those indices (..., W) that are not 0; 0 if none."""
    present = (index > 0)[..., None]
    total = jnp.sum(jnp.where(present, table(index), 0.0), axis=-2)
    return total / jnp.maximum(jnp.sum(present, axis=-2), 1)
