"""Optimizers of embedding tables, which update the rows in use: OGD, AdaGrad, FTRL-proximal.

The gradients of a round are all taken at the table as it stood before the round. A row that occurs
twice gets the sum of both, and AdaGrad and FTRL count each event's square by itself, so that a
round of one event is the textbook's step.

What an optimizer keeps of a weight lies beside it, in one array for the whole table: one read and
one write of a row are then all that an event costs, which is four times as fast as two arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

FEW = 64
"""Rows of a round up to which repeats are found by comparing all pairs, and beyond by sorting."""


class Rows(NamedTuple):
    """An optimizer of a table (N, D).

    Attributes:
      init: table -> slots (N, K D), what is kept of each row.
      read: (slots, index (B,)) -> weights (B, D).
      step: (slots, index (B,), grads (B, D), apart) -> slots. Gradients of 0 change nothing.
        ``apart`` promises that no row occurs twice, and saves looking for repeats.

    An index must be that of a row of the table: nobody looks.
    """

    init: Callable[[jax.Array], jax.Array]
    read: Callable[[jax.Array, jax.Array], jax.Array]
    step: Callable[..., jax.Array]


def _rows(
    init: Callable[[jax.Array], jax.Array],
    weights: Callable[[jax.Array], jax.Array],
    moved: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Rows:
    """The optimizer of a rule for one row.

    Args:
      init: table (N, D) -> slots (N, K D).
      weights: slots (B, K D) of rows -> weights (B, D).
      moved: (slots (B, K D), sums of gradients, sums of their squares (B, D)) -> slots after them.
    """

    def step(
        slots: jax.Array, index: jax.Array, grads: jax.Array, apart: bool = False
    ) -> jax.Array:
        total, squares = (grads, grads * grads) if apart else _sums(index, grads)
        rows = moved(_at(slots, index), total, squares)  # equal where a row is repeated
        return slots.at[index].set(rows, unique_indices=apart, mode="promise_in_bounds")

    return Rows(init, lambda slots, index: weights(_at(slots, index)), step)


def _at(slots: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of the slots, without looking whether they exist: that would double the time."""
    return slots.at[index].get(mode="promise_in_bounds")


def _sums(index: jax.Array, grads: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums over all rows of the same index: of gradients and of their squares, each (B, D)."""
    both = jnp.concatenate([grads, grads * grads], axis=1)
    if len(index) <= FEW:
        first = jnp.argmax(index[:, None] == index[None], axis=1)
    else:
        order = jnp.argsort(index)
        part = jnp.cumsum(jnp.diff(index[order], prepend=-1) != 0) - 1
        first = jnp.zeros_like(part).at[order].set(part, unique_indices=True)
    total = jnp.zeros_like(both).at[first].add(both, mode="promise_in_bounds")
    of_grads, of_squares = jnp.split(total.at[first].get(mode="promise_in_bounds"), 2, axis=1)
    return of_grads, of_squares


def ogd(rate: float | jax.Array) -> Rows:
    """Online gradient descent (OGD), ``w <- w - rate g``; slots (N, D) are the table.

    References: Zinkevich, "Online convex programming and generalized infinitesimal gradient
    ascent", ICML 2003.
    """
    return _rows(lambda table: table, lambda row: row, lambda row, g, _: row - rate * g)


def adagrad(rate: float | jax.Array, start: float = 0.0, eps: float = 1e-8) -> Rows:
    """AdaGrad, ``n <- n + g^2; w <- w - rate g / (sqrt(n) + eps)``; slots (N, 2 D) are w and n.

    Args:
      rate: step size.
      start: initial value of the sums of squares; above 0 the first steps are no larger than
        ``rate g / sqrt(start)``.
      eps: against division by 0.

    References: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011.
    """

    def init(table: jax.Array) -> jax.Array:
        return jnp.concatenate([table, jnp.full_like(table, start)], axis=1)

    def moved(row: jax.Array, total: jax.Array, squares: jax.Array) -> jax.Array:
        weights, before = jnp.split(row, 2, axis=1)
        after = before + squares
        return jnp.concatenate([weights - rate * total / (jnp.sqrt(after) + eps), after], axis=1)

    return _rows(init, lambda row: jnp.split(row, 2, axis=1)[0], moved)


def ftrl(rate: float | jax.Array, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0) -> Rows:
    """FTRL-proximal: the minimizer of ``g_{1:t} w + sum_s sigma_s / 2 (w - w_s)^2 + penalties``.

    ``sigma_s`` is the growth of ``sqrt(n) / rate``; the penalties are ``l1 |w| + l2 / 2 w^2`` and,
    with weight ``beta / rate``, half the squared distance from where the table began. (The paper
    begins at 0; from there factors of users and items would never leave it.) Slots (N, 2 D) are
    the linear terms and n, the sums of squared gradients.

    References: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013.
    """

    def init(table: jax.Array) -> jax.Array:
        linear = -table * (beta / rate + l2) - l1 * jnp.sign(table)
        return jnp.concatenate([linear, jnp.zeros_like(table)], axis=1)

    def weights(row: jax.Array) -> jax.Array:
        linear, squares = jnp.split(row, 2, axis=1)
        shrunk = jnp.sign(linear) * jnp.maximum(jnp.abs(linear) - l1, 0.0)
        return -shrunk / ((beta + jnp.sqrt(squares)) / rate + l2)

    def moved(row: jax.Array, total: jax.Array, squares: jax.Array) -> jax.Array:
        linear, before = jnp.split(row, 2, axis=1)
        after = before + squares
        sigma = (jnp.sqrt(after) - jnp.sqrt(before)) / rate
        return jnp.concatenate([linear + total - sigma * weights(row), after], axis=1)

    return _rows(init, weights, moved)
