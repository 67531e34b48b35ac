"""From a gradient to the next parameters: optax for all of them, or lazy Adam for touched rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.optim.touched_rows import Rows, Tabled, lazy_adam
from metajax.types import Params, PyTree


class Update(NamedTuple):
    """How a gradient changes parameters.

    Attributes:
      init: params -> the state of the optimizer.
      apply: (params, optimizer state, gradient) -> (params, optimizer state) one step on.
    """

    init: Callable[[Params], Any]
    apply: Callable[[Params, Any, PyTree], tuple[Params, Any]]


def optimizer(tx: optax.GradientTransformation) -> Update:
    """An optax optimizer as an update."""

    def apply(params: Params, state: optax.OptState, grads: PyTree) -> tuple[Params, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return Update(tx.init, apply)


class RowsState(NamedTuple):
    """The optimizer state of `touched_rows`.

    Attributes:
      count: () steps done.
      settings: of the rate.
      rest: the state of ``tx``.
      memory: table -> (I, 2 D + 1), see `touched_rows.Rows`.
    """

    count: jax.Array
    settings: tuple[jax.Array, ...]
    rest: optax.OptState
    memory: dict[str, jax.Array]


def touched_rows(
    tx: optax.GradientTransformation, rate: Callable[..., Any], *settings: float
) -> Update:
    """An update of `Tabled` parameters that changes only those table rows that have a gradient.

    Args:
      tx: for the parameters outside the tables, without a learning rate, such as
        ``optax.scale_by_adam()``. Tables are updated by `lazy_adam`.
      rate: (steps done, *settings) -> the learning rate.
      settings: numbers kept in the state, so that one compiled program serves all their values.
    """

    def init(params: Tabled) -> RowsState:
        memory = {name: Rows.of(table).memory for name, table in params.tables.items()}
        numbers = tuple(jnp.float32(x) for x in settings)
        return RowsState(jnp.zeros((), jnp.int32), numbers, tx.init(params.rest), memory)

    def apply(params: Tabled, state: RowsState, grads: Tabled) -> tuple[Tabled, RowsState]:
        now = rate(state.count, *state.settings)
        moved = {
            name: lazy_adam(
                Rows(params.tables[name], state.memory[name]), found.rows, found.gradient, now
            )
            for name, found in grads.tables.items()
        }
        direction, rest = tx.update(grads.rest, state.rest, params.rest)
        others = jax.tree.map(lambda p, d: p - now * d, params.rest, direction)
        tables = {name: rows.value for name, rows in moved.items()}
        memory = {name: rows.memory for name, rows in moved.items()}
        return Tabled(tables, others), RowsState(state.count + 1, state.settings, rest, memory)

    return Update(init, apply)
