"""MLPs on plain vectors: to features, from labeled examples to codes, and given a context."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.types import Model, PyTree


class _Features(nnx.Module):
    """Layers with ReLU between them."""

    def __init__(self, rngs: nnx.Rngs, widths: Sequence[int]):
        self.layers = mlp.stack(rngs, widths)

    def __call__(self, profile: PyTree, inputs: PyTree) -> jax.Array:
        del profile
        return self.forward(inputs)

    def forward(self, x_NxD: jax.Array) -> jax.Array:
        return mlp.activate_between(self.layers, x_NxD)


class _Labeled(_Features):
    """Layers on inputs joined with their label."""

    def __call__(self, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile
        x_NxD, label = inputs
        return self.forward(jnp.concatenate([x_NxD, label.astype(x_NxD.dtype)[:, None]], axis=1))


class _Conditioned(_Features):
    """Layers on inputs joined with the context of their task, to one score."""

    def __call__(self, profile: tuple[PyTree, jax.Array], inputs: jax.Array) -> jax.Array:
        _, context = profile
        context_NxC = jnp.broadcast_to(context, (inputs.shape[0], context.shape[0]))
        return self.forward(jnp.concatenate([inputs, context_NxC], axis=1))[:, 0]


def vector_features(widths: Sequence[int] = (40, 40)) -> Model:
    """Features (N, ``widths[-1]``) of vector inputs (N, D); ReLU between layers, linear output."""
    return from_nnx(lambda rngs, profile, inputs: _Features(rngs, (inputs.shape[-1], *widths)))


def labeled_features(widths: Sequence[int] = (40, 40)) -> Model:
    """Codes (N, ``widths[-1]``) of labeled examples, the pair (inputs (N, D), label (N,))."""
    return from_nnx(
        lambda rngs, profile, inputs: _Labeled(rngs, (inputs[0].shape[-1] + 1, *widths))
    )


def conditioned_mlp(hidden: Sequence[int] = (40, 40)) -> Model:
    """Scores (N,) of inputs (N, D) joined with a context: the profile is a pair ``(_, (C,))``."""

    def make(rngs: nnx.Rngs, profile: tuple[PyTree, jax.Array], inputs: jax.Array) -> nnx.Module:
        width = inputs.shape[-1] + profile[1].shape[0]
        return _Conditioned(rngs, (width, *hidden, 1))

    return from_nnx(make)
