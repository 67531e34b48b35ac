"""Large tables: an outer step that touches only the rows its tasks use.

A dense gradient of a table with a million rows costs a hundred times what a batch of tasks costs.
Here the rows of a batch are gathered once, the outer loss is differentiated with respect to them,
and the optimizer moves them and their moments alone.

>>> import jax, jax.numpy as jnp, optax
>>> table = Rows.of(jnp.zeros((1000, 4)))
>>> unique = distinct(jnp.array([7, 3, 7]), capacity=4, num_rows=1000)
>>> unique.rows
Array([   3,    7, 1000, 1000], dtype=int32)
>>> unique.place
Array([1, 0, 1], dtype=int32)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import PyTree


class Rows(NamedTuple):
    """A table and Adam's moments of its rows.

    Attributes:
      value: (I, D) the rows.
      mean, square: (I, D) moments of the gradient.
      count: (I,) how often each row has been updated.
    """

    value: jax.Array
    mean: jax.Array
    square: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, value: jax.Array) -> "Rows":
        """The table as it is before the first step."""
        zeros = lambda: jnp.zeros(value.shape, value.dtype)
        return cls(value, zeros(), zeros(), jnp.zeros(value.shape[0], jnp.int32))


class Distinct(NamedTuple):
    """The rows that a batch uses.

    Attributes:
      rows: (U,) their numbers from small to large, filled up with the number of rows of the table,
        which is no row.
      place: where in ``rows`` each index of the batch stands; shaped as the indices.
    """

    rows: jax.Array
    place: jax.Array


def distinct(index: jax.Array, capacity: int, num_rows: int) -> Distinct:
    """The distinct rows among indices of any shape.

    Args:
      capacity: U, at least as many as can occur: the number of indices is always enough. With less,
        the rows beyond it would be lost.
    """
    flat = index.reshape(-1)
    order = jnp.argsort(flat)
    ordered = flat[order]
    is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    number = jnp.cumsum(is_new) - 1
    rows = jnp.full(capacity, num_rows, jnp.int32)
    rows = rows.at[number].set(ordered.astype(jnp.int32), mode="drop")
    place = jnp.zeros(flat.shape, jnp.int32).at[order].set(number.astype(jnp.int32))
    return Distinct(rows, place.reshape(index.shape))


def gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows (U, D) of a table (I, D); rows that are none are 0."""
    return table.at[rows].get(mode="fill", fill_value=0)


def lazy_adam(
    table: Rows,
    rows: jax.Array,
    gradient: jax.Array,
    rate: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Rows:
    """The table after one step of Adam on some of its rows.

    Moments are *lazy*: a row that is not touched keeps its moments as they are, where the usual
    Adam lets them fade and goes on moving the row. Each row's bias is corrected by the number of
    its own updates. The first step of a row is the usual one exactly. Donate the table: nothing
    of its size is then copied.

    Args:
      rows: (U,) distinct; a number that is no row is left out.
      gradient: (U, D) of those rows.
    """
    count = gather(table.count, rows) + 1
    mean = b1 * gather(table.mean, rows) + (1 - b1) * gradient
    square = b2 * gather(table.square, rows) + (1 - b2) * gradient**2
    corrected = lambda moment, b: moment / (1 - b ** count.astype(moment.dtype))[:, None]
    change = -rate * corrected(mean, b1) / (jnp.sqrt(corrected(square, b2)) + eps)
    put = dict(mode="drop", unique_indices=False, indices_are_sorted=True)
    return Rows(
        table.value.at[rows].add(change, **put),
        table.mean.at[rows].set(mean, **put),
        table.square.at[rows].set(square, **put),
        table.count.at[rows].set(count, **put),
    )


def value_and_gradient(
    loss: Callable[[jax.Array, PyTree, jax.Array], jax.Array],
    table: jax.Array,
    params: PyTree,
    index: jax.Array,
    capacity: int | None = None,
) -> tuple[jax.Array, PyTree, Distinct, jax.Array]:
    """A loss with its gradients to the parameters and to the touched rows of a table.

    Args:
      loss: (rows (U, D), params, place) -> scalar; ``rows[place]`` are the rows of the indices.
      index: the indices into the table, of any shape.
      capacity: see `distinct`; the number of indices by default.

    Returns:
      The loss, the gradient to ``params``, the touched rows and the gradient (U, D) to them.
    """
    touched = distinct(index, capacity or index.size, table.shape[0])
    rows = gather(table, touched.rows)
    both = jax.value_and_grad(loss, (0, 1))
    value, (to_rows, to_params) = both(rows, params, touched.place)
    return value, to_params, touched, to_rows
