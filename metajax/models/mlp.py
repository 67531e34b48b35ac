"""Stacks of linear layers, from which the small networks here are built."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
from flax import nnx

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
