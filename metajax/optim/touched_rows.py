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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import PyTree


class Rows(NamedTuple):
    """A table with Adam's moments of each of its rows.

    The moments and the count of a row are stored side by side: in a table of hundreds of megabytes
    the time goes into reaching each row in memory, not into reading it.

    Attributes:
      value: (I, D) the rows.
      memory: (I, 2 D + 1) first moments, second moments, and how often the row has been updated.
    """

    value: jax.Array
    memory: jax.Array

    @classmethod
    def of(cls, value: jax.Array) -> "Rows":
        """A table (I, D) before its first step: moments and counts are 0."""
        return cls(value, jnp.zeros((value.shape[0], 2 * value.shape[1] + 1), value.dtype))

    @property
    def mean(self) -> jax.Array:
        """(I, D) first moments."""
        return self.memory[:, : self.value.shape[1]]

    @property
    def square(self) -> jax.Array:
        """(I, D) second moments."""
        return self.memory[:, self.value.shape[1] : -1]

    @property
    def updates(self) -> jax.Array:
        """(I,) how often each row has been updated."""
        return self.memory[:, -1].astype(jnp.int32)


class Distinct(NamedTuple):
    """The rows that a batch uses.

    Attributes:
      rows: (U,) their numbers in ascending order, padded with I, the number of rows of the table.
      place: for each index of the batch its position in ``rows``; of the shape of the indices.
    """

    rows: jax.Array
    place: jax.Array


def distinct(index: jax.Array, capacity: int, num_rows: int) -> Distinct:
    """The distinct rows (U,) among indices of any shape.

    Args:
      capacity: U; the number of indices is always enough. If more distinct rows occur, the rows
        beyond it are lost without an error.
      num_rows: I of the table.
    """
    flat = index.reshape(-1).astype(jnp.int32)
    ordered = jnp.sort(flat)
    is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    rows = jnp.sort(jnp.where(is_new, ordered, num_rows))  # sorts: scatters are slow on a CPU
    rows = jnp.pad(rows, (0, max(capacity - flat.size, 0)), constant_values=num_rows)[:capacity]
    place = jnp.searchsorted(rows, flat).astype(jnp.int32)
    return Distinct(rows, place.reshape(index.shape))


def gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows (U, D) of a table (I, D); a row number outside 0..I-1 (padding) gives zeros."""
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

    Moments are *lazy*: a row without a gradient keeps its moments and its values, where the usual
    Adam decays the moments and goes on moving the row. Bias is corrected by the number of updates
    of each row, so that a row's first step is the usual one. Donate the table to the jitted step
    (``donate_argnums``), and nothing of its size is copied.

    Args:
      rows: (U,) distinct; a number outside 0..I-1 is padding.
      gradient: (U, D) of those rows.
      rate, b1, b2, eps: as of ``optax.adam``.
    """
    before = Rows(gather(table.value, rows), gather(table.memory, rows))
    count = before.memory[:, -1:] + 1
    mean = b1 * before.mean + (1 - b1) * gradient
    square = b2 * before.square + (1 - b2) * gradient**2
    corrected = lambda moment, b: moment / (1 - b**count)
    change = -rate * corrected(mean, b1) / (jnp.sqrt(corrected(square, b2)) + eps)
    put = lambda whole, part: whole.at[rows].set(part, mode="drop", indices_are_sorted=True)
    memory = jnp.concatenate([mean, square, count], axis=1)
    return Rows(put(table.value, before.value + change), put(table.memory, memory))


class RowGradient(NamedTuple):
    """The gradient with respect to the touched rows of a table, in place of one to all its rows.

    Attributes:
      rows: (U,) distinct; a number outside 0..I-1 is padding.
      gradient: (U, D) of those rows.
    """

    rows: jax.Array
    gradient: jax.Array


class Tabled(NamedTuple):
    """Parameters, or their gradients, some of which are large tables.

    Attributes:
      tables: name -> (I, D); of a gradient, name -> `RowGradient`.
      rest: all other parameters.
    """

    tables: dict[str, Any]
    rest: PyTree


def row_gradient(
    loss: Callable[[dict[str, jax.Array], dict[str, jax.Array], PyTree, Any, jax.Array], Any],
    index: Callable[[Any], dict[str, jax.Array]],
) -> Callable[[Tabled, Any, jax.Array], tuple[Tabled, dict[str, jax.Array]]]:
    """A ``gradient_fn`` of `training.loop` for `Tabled` parameters, with a `RowGradient` per table.

    Args:
      loss: (rows by name (U, D), places by name, rest, batch, key) -> (scalar, info);
        ``rows[name][places[name]]`` are the rows that ``index`` asked for.
      index: batch -> name -> the indices into that table, of any shape.
    """

    def gradient(params: Tabled, batch: Any, key: jax.Array):
        asked = index(batch)
        touched = {
            name: distinct(asked[name], asked[name].size, table.shape[0])
            for name, table in params.tables.items()
        }
        rows = {name: gather(params.tables[name], found.rows) for name, found in touched.items()}
        place = {name: found.place for name, found in touched.items()}
        both = jax.value_and_grad(
            lambda rows, rest: loss(rows, place, rest, batch, key), (0, 1), has_aux=True
        )
        (value, info), (to_rows, to_rest) = both(rows, params.rest)
        of_tables = {name: RowGradient(touched[name].rows, to_rows[name]) for name in touched}
        return Tabled(of_tables, to_rest), {"loss": value, **info}

    return gradient
