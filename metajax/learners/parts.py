"""Pieces that learners are put together from: the outer loss of most, sums, linear layers."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax import losses
from metajax.types import Episode, Examples, Params, PyTree

OuterLoss = Callable[[Params, Episode, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def query_loss(
    start: Callable[[Params, PyTree], PyTree],
    adapt: Callable[[PyTree, Examples, jax.Array], PyTree],
    predict: Callable[[PyTree, PyTree], jax.Array],
    loss: losses.Loss,
) -> OuterLoss:
    """The outer loss that most learners have: ``loss`` on the query after adapting on the support.

    Args:
      start, adapt, predict: the learner's own.
      loss: (scores, label, mask) -> scalar.
    """

    def outer_loss(params: Params, episode: Episode, key: jax.Array):
        state = adapt(start(params, episode.profile), episode.support, key)
        scores = predict(state, episode.query.inputs)
        value = loss(scores, episode.query.label, episode.query.mask)
        return value, {"query_loss": value}

    return outer_loss


def real_sum(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum (...) over the real rows of an array (N, ...), and their number ().

    What stands in masked rows does not matter, not even NaN.
    """
    real = mask > 0
    rows = real.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(rows, x, 0.0), axis=0), jnp.sum(real)


def constant_gradient(
    value: Callable[[PyTree, PyTree], jax.Array], fast: PyTree, given: PyTree
) -> PyTree:
    """What `curvature.inner_gradient` gives, but a constant to the outer gradient: first order."""
    return jax.lax.stop_gradient(jax.grad(value)(fast, given))


def linear_layer(key: jax.Array, num_inputs: int, num_outputs: int) -> dict[str, jax.Array]:
    """A kernel (num_inputs, num_outputs) that keeps the scale of its inputs, and a bias of 0."""
    kernel = jax.random.normal(key, (num_inputs, num_outputs)) / num_inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(num_outputs)}


def linear(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """What a `linear_layer` makes of a vector (num_inputs,)."""
    return x @ layer["kernel"] + layer["bias"]


def gated_weights(weights: PyTree, layer: Mapping[str, jax.Array], code: jax.Array) -> PyTree:
    """The weights, each entry times the sigmoid of its own output of the layer for a code (C,)."""
    flat, unravel = ravel_pytree(weights)
    return unravel(flat * jax.nn.sigmoid(linear(layer, code)))
