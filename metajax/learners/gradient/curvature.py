"""Derivatives of an inner gradient, taken forward over reverse.

The outer gradient needs ``v -> d/dx <v, dL/dphi>`` for every x that the inner loss L depends on.
Reverse mode over reverse mode gets it by transposing a transposed program. The derivatives of L
commute, so the same numbers are the change of the whole gradient of L when phi moves along v: one
forward derivative of one reverse pass (Pearlmutter, "Fast exact multiplication by the Hessian",
Neural Computation 1994). Its matrix products keep the layout of the ordinary gradient's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.types import PyTree


def inner_gradient(
    value: Callable[[PyTree, PyTree], jax.Array], fast: PyTree, given: PyTree
) -> PyTree:
    """The gradient of ``value(fast, given)`` with respect to ``fast``.

    It can be differentiated in reverse mode with respect to both arguments, and not in forward
    mode.

    Args:
      value: a function of its two arguments alone: what it takes from outside gets no gradient.
      fast: floating-point leaves.
      given: any leaves.
    """
    leaves, shape = jax.tree.flatten(given)
    smooth = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]
    split = lambda wanted: [x for x, s in zip(leaves, smooth, strict=True) if s == wanted]

    def loss(fast: PyTree, floats: list, others: list) -> jax.Array:
        from_floats, from_others = iter(floats), iter(others)
        joined = [next(from_floats) if s else next(from_others) for s in smooth]
        return value(fast, jax.tree.unflatten(shape, joined))

    @jax.custom_vjp
    def gradient(fast: PyTree, floats: list, others: list) -> PyTree:
        return jax.grad(loss)(fast, floats, others)

    def forward(fast: PyTree, floats: list, others: list):
        whole = lambda fast: jax.grad(loss, (0, 1))(fast, floats, others)
        (grads, _), along = jax.linearize(whole, fast)
        return grads, along

    def backward(along: Callable, direction: PyTree):
        return (*along(direction), None)

    gradient.defvjp(forward, backward)
    return gradient(fast, split(True), split(False))
