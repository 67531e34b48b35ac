"""The meta-gradient of a small network in one kernel: a task's whole inner loop stays on chip.

A step of a small network on many tasks is a hundred programs of a graphics card that each take
less time than their start. Here a program of a Pallas (Triton) grid reads one task and the
weights, differentiates through all inner steps by JAX's own ``grad`` inside the kernel, and writes
the gradient of the task. Weights and rows are padded with zeros to powers of two, which changes no
number: a unit of zeros stays zero. On any other platform the same is computed by ``vmap``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from metajax.types import Episode, Examples, PyTree

from .on_chip import product

LEAST = 16
"""The least side of a matrix product."""
INTERPRET = False
"""Whether the kernel is interpreted on a processor, which a test asks for."""


def _power(size: int) -> int:
    return max(LEAST, 1 << (size - 1).bit_length())


def _padded(x: jax.Array, *shape: int) -> jax.Array:
    """The array with zeros behind; leading axes as they are."""
    lead = x.ndim - len(shape)
    return jnp.pad(
        x, [(0, 0)] * lead + [(0, n - s) for n, s in zip(shape, x.shape[lead:], strict=True)]
    )


def _flat(params: PyTree, width: int) -> list[jax.Array]:
    """The weights of a perceptron with one input and two hidden layers, as padded matrices."""
    first, second = params["body"]["0"], params["body"]["1"]
    row = lambda x: _padded(x.reshape(1, -1), 1, width)
    return [
        row(first["kernel"]),
        row(first["bias"]),
        _padded(second["kernel"], width, width),
        row(second["bias"]),
        row(params["head"]["kernel"]),
        params["head"]["bias"].reshape(1, 1),
    ]


def _nested(found: list[jax.Array], params: PyTree) -> PyTree:
    """The gradients without their padding, as the weights are nested."""
    a, b = params["body"]["1"]["kernel"].shape
    first, second, last = params["body"]["0"], params["body"]["1"], params["head"]
    one = lambda x, n, like: x[0, :n].reshape(like.shape)
    return {
        "body": {
            "0": {
                "kernel": one(found[0], a, first["kernel"]),
                "bias": one(found[1], a, first["bias"]),
            },
            "1": {"kernel": found[2][:a, :b], "bias": one(found[3], b, second["bias"])},
        },
        "head": {
            "kernel": one(found[4], b, last["kernel"]),
            "bias": found[5].reshape(last["bias"].shape),
        },
    }


def _loss(weights: list[jax.Array], x: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean squared error of rows (K, 1) where the mask (K, 1) is 1."""
    kernel, bias, middle, shift, last, end = weights
    hidden = jnp.maximum(x * kernel + bias, 0.0)
    hidden = jnp.maximum(product(hidden, middle) + shift, 0.0)
    score = jnp.sum(hidden * last, axis=1)[:, None] + end
    return jnp.sum(mask * (score - label) ** 2) / jnp.sum(mask)


def _task(
    rate: float, num_steps: int, second_order: bool, weights: list[jax.Array], *parts: jax.Array
) -> jax.Array:
    """The outer loss of one task; support and query are three arrays each."""
    fast = weights
    for _ in range(num_steps):
        grads = jax.grad(_loss)(fast, *parts[:3])
        grads = grads if second_order else jax.lax.stop_gradient(grads)
        fast = [w - rate * g for w, g in zip(fast, grads, strict=True)]
    return _loss(fast, *parts[3:])


def gradient(
    rate: float, num_steps: int, second_order: bool, warps: int = 4
) -> Callable[[PyTree, Episode, Any], tuple[PyTree, dict[str, jax.Array]]]:
    """An `outer_gradient.GradientFn` of a perceptron 1-F-F-1 on (K, 1) and squared errors."""

    def of_batch(params: PyTree, episodes: Episode, key: Any):
        del key
        width = _power(params["body"]["1"]["kernel"].shape[0])
        weights = _flat(params, width)
        parts = [*_columns(episodes.support), *_columns(episodes.query)]
        task = functools.partial(_task, rate, num_steps, second_order)
        each = jax.value_and_grad(task)

        def plain(weights: list[jax.Array], *parts: jax.Array) -> list[jax.Array]:
            values, grads = jax.vmap(each, (None, *[0] * len(parts)))(weights, *parts)
            return [values[:, None, None], *grads]

        def card(weights: list[jax.Array], *parts: jax.Array) -> list[jax.Array]:
            return list(_on_card(each, weights, parts, warps))

        if INTERPRET:
            found = card(weights, *parts)
        else:
            found = jax.lax.platform_dependent(weights, *parts, cuda=card, default=plain)
        values, *grads = [jnp.mean(x, axis=0) for x in found]
        return _nested(grads, params), {"loss": values[0, 0], "query_loss": values[0, 0]}

    return of_batch


def _columns(examples: Examples) -> list[jax.Array]:
    """Inputs, labels and mask (T, K, 1), K a power of two."""
    rows = _power(examples.mask.shape[1])
    column = lambda x: _padded(x.reshape(*examples.mask.shape, 1), rows, 1)
    return [column(x) for x in (examples.inputs, examples.label, examples.mask)]


def _on_card(each: Callable, weights: list[jax.Array], parts: tuple[jax.Array, ...], warps: int):
    """Losses (T, 1, 1) and gradients (T, ...) of the tasks, a program of the grid for each."""
    num_tasks, rows = len(parts[0]), len(weights)

    def kernel(*refs) -> None:
        given, out = refs[: rows + len(parts)], refs[rows + len(parts) :]
        loss, grads = each([ref[...] for ref in given[:rows]], *[ref[0] for ref in given[rows:]])
        for ref, value in zip(out, [loss.reshape(1, 1), *grads], strict=True):
            ref[0] = value

    whole = lambda x: pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim)
    a_task = lambda shape: pl.BlockSpec((1, *shape), lambda t: (t, *[0] * len(shape)))
    shapes = [(1, 1), *(w.shape for w in weights)]
    return pl.pallas_call(
        kernel,
        grid=(num_tasks,),
        in_specs=[*map(whole, weights), *(a_task(p.shape[1:]) for p in parts)],
        out_specs=[a_task(shape) for shape in shapes],
        out_shape=[jax.ShapeDtypeStruct((num_tasks, *s), jnp.float32) for s in shapes],
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=INTERPRET,
    )(*weights, *parts)
