"""Optimizers of embedding tables, which update the rows in use: OGD, AdaGrad, FTRL-proximal.

The gradients of a round are all taken at the table as it stood before the round, and then added
up; a row that occurs twice gets both. AdaGrad and FTRL count each event's square by itself, so
that a round of one event is the textbook's step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
    """An optimizer of a table (N, D).

    Attributes:
      init: table -> slots: the table (or what it follows from) and the optimizer's statistics.
      read: (slots, index (B,)) -> rows (B, D).
      step: (slots, index (B,), grads (B, D)) -> slots. Gradients of 0 change nothing.
    """

    init: Callable[[jax.Array], Any]
    read: Callable[[Any, jax.Array], jax.Array]
    step: Callable[[Any, jax.Array, jax.Array], Any]


def ogd(rate: float | jax.Array) -> Rows:
    """Online gradient descent (OGD), ``w <- w - rate g``.

    References: Zinkevich, "Online convex programming and generalized infinitesimal gradient
    ascent", ICML 2003.
    """

    def step(table: jax.Array, index: jax.Array, grads: jax.Array) -> jax.Array:
        return table.at[index].add(-rate * grads)

    return Rows(lambda table: table, lambda table, index: table[index], step)


class AdaGrad(NamedTuple):
    """A table and the sums of its squared gradients, each (N, D)."""

    table: jax.Array
    squares: jax.Array


def adagrad(rate: float | jax.Array, start: float = 0.0, eps: float = 1e-8) -> Rows:
    """AdaGrad, ``n <- n + g^2; w <- w - rate g / (sqrt(n) + eps)``.

    Args:
      rate: step size.
      start: initial value of the sums of squares; above 0 the first steps are no larger than
        ``rate g / sqrt(start)``.
      eps: against division by 0.

    References: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011.
    """

    def init(table: jax.Array) -> AdaGrad:
        return AdaGrad(table, jnp.full_like(table, start))

    def step(slots: AdaGrad, index: jax.Array, grads: jax.Array) -> AdaGrad:
        squares = slots.squares.at[index].add(grads * grads)
        move = -rate * grads / (jnp.sqrt(squares[index]) + eps)
        return AdaGrad(slots.table.at[index].add(move), squares)

    return Rows(init, lambda slots, index: slots.table[index], step)


class Ftrl(NamedTuple):
    """The slots of FTRL: linear terms and sums of squared gradients, each (N, D)."""

    linear: jax.Array
    squares: jax.Array


def ftrl(rate: float | jax.Array, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0) -> Rows:
    """FTRL-proximal: the minimizer of ``g_{1:t} w + sum_s sigma_s / 2 (w - w_s)^2 + penalties``.

    ``sigma_s`` is the growth of ``sqrt(n) / rate``; the penalties are ``l1 |w| + l2 / 2 w^2`` and,
    with weight ``beta / rate``, half the squared distance from where the table began. (The paper
    begins at 0; from there factors of users and items would never leave it.)

    References: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013.
    """

    def solved(linear: jax.Array, squares: jax.Array) -> jax.Array:
        shrunk = jnp.sign(linear) * jnp.maximum(jnp.abs(linear) - l1, 0.0)
        return -shrunk / ((beta + jnp.sqrt(squares)) / rate + l2)

    def init(table: jax.Array) -> Ftrl:
        return Ftrl(-table * (beta / rate + l2) - l1 * jnp.sign(table), jnp.zeros_like(table))

    def read(slots: Ftrl, index: jax.Array) -> jax.Array:
        return solved(slots.linear[index], slots.squares[index])

    def step(slots: Ftrl, index: jax.Array, grads: jax.Array) -> Ftrl:
        before = slots.squares[index]
        weights = solved(slots.linear[index], before)
        squares = slots.squares.at[index].add(grads * grads)
        sigma = (jnp.sqrt(squares[index]) - jnp.sqrt(before)) / rate
        linear = slots.linear.at[index].add(grads)
        # once per row, however often it occurs: equal values are set in its place
        linear = linear.at[index].set(linear[index] - sigma * weights)
        return Ftrl(linear, squares)

    return Rows(init, read, step)
