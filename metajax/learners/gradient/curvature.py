"""Hessian-vector products of an inner loss, by forward-over-reverse differentiation.

The outer gradient needs ``v -> d/dx <v, dL/dphi>`` for every x that the inner loss L depends on.
Reverse over reverse mode transposes a program twice. Since the derivatives of L commute, the same
numbers are the directional derivative of the whole gradient of L along v in phi: one forward
derivative of one reverse pass (Pearlmutter, "Fast exact multiplication by the Hessian", Neural
Computation 1994). Its matrix products keep the layout of the ordinary gradient's.
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
      value: a function of its two arguments alone: arrays that it closes over get no gradient.
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


def reverse_gradient(
    value: Callable[[PyTree, PyTree], jax.Array], fast: PyTree, given: PyTree
) -> PyTree:
    """The same gradient by `jax.grad` alone: its derivative in reverse mode is its transpose."""
    return jax.grad(value)(fast, given)
