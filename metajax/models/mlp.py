"""Stacks of linear layers, the part that most small networks here are made of."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
from flax import nnx

Activation = Callable[[jax.Array], jax.Array]


def stack(rngs: nnx.Rngs, widths: Sequence[int]) -> nnx.List:
    """Linear layers between widths (D_0, D_1, ..., D_n): n layers, the input's width first."""
    return nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])


def between(layers: Iterable[nnx.Linear], x: jax.Array) -> jax.Array:
    """What the layers make of x (..., D_0), with a ReLU between them: (..., D_n)."""
    for i, layer in enumerate(layers):
        x = layer(jax.nn.relu(x) if i else x)
    return x


def behind(layers: Iterable[nnx.Linear], x: jax.Array, act: Activation = jax.nn.relu) -> jax.Array:
    """What the layers make of x (..., D_0), with the activation behind each: (..., D_n)."""
    for layer in layers:
        x = act(layer(x))
    return x
