"""Buffers of past tasks, of a fixed capacity and with a policy of what is kept: pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import PyTree


class Kept(NamedTuple):
    """The contents of a buffer.

    Attributes:
      tasks: the tasks in it, leaves (C, ...) for a capacity of C.
      count: () how many tasks were added so far; the first ``min(count, C)`` places are filled.
    """

    tasks: PyTree
    count: jax.Array


class Buffer(NamedTuple):
    """A buffer of tasks: its capacity, and its policy of what is kept.

    Attributes:
      capacity: C, the most tasks that it holds.
      init: one task -> an empty `Kept` for tasks of its shape.
      add: (kept, tasks (B, ...), mask (B,)) -> kept. Padding changes nothing.
    """

    capacity: int
    init: Callable[[PyTree], Kept]
    add: Callable[[Kept, PyTree, jax.Array], Kept]


def _empty(capacity: int) -> Callable[[PyTree], Kept]:
    def init(task: PyTree) -> Kept:
        room = lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x))
        return Kept(jax.tree.map(room, task), jnp.zeros((), jnp.int32))

    return init


def newest(capacity: int) -> Buffer:
    """Keeps the last ``capacity`` tasks."""

    def add(kept: Kept, tasks: PyTree, mask: jax.Array) -> Kept:
        real = mask > 0
        rank, total = jnp.cumsum(real) - 1, jnp.sum(real).astype(jnp.int32)
        stays = real & (rank >= total - capacity)
        place = jnp.where(stays, (kept.count + rank) % capacity, capacity)
        put = lambda table, new: table.at[place].set(new, mode="drop")
        return Kept(jax.tree.map(put, kept.tasks, tasks), kept.count + total)

    return Buffer(capacity, _empty(capacity), add)


def reservoir(capacity: int, seed: int = 0) -> Buffer:
    """Keeps a uniform sample of all tasks so far: each is in it with equal probability.

    Args:
      capacity: of the sample, in tasks; as long as all tasks fit, all are kept.
      seed: of the draws.

    References: Vitter, "Random sampling with a reservoir", ACM TOMS 1985.
    """

    def one(kept: Kept, new: tuple[PyTree, jax.Array]):
        task, mask = new
        key = jax.random.fold_in(jax.random.key(seed), kept.count)
        drawn = jax.random.randint(key, (), 0, kept.count + 1)
        place = jnp.where(kept.count < capacity, kept.count, drawn)
        place = jnp.where(mask > 0, place, capacity)
        place = jnp.stack([place, jnp.full_like(place, capacity)])  # two: updated where it is
        put = lambda table, x: table.at[place].set(jnp.stack([x, x]), mode="drop")
        count = kept.count + (mask > 0).astype(jnp.int32)
        return Kept(jax.tree.map(put, kept.tasks, task), count), None

    def add(kept: Kept, tasks: PyTree, mask: jax.Array) -> Kept:
        return jax.lax.scan(one, kept, (tasks, mask))[0]

    return Buffer(capacity, _empty(capacity), add)


def draw(kept: Kept, key: jax.Array, count: int) -> tuple[PyTree, jax.Array]:
    """Tasks drawn uniformly with replacement, leaves (count, ...), and their mask (count,).

    The mask is 1, or 0 everywhere if the buffer is empty.
    """
    capacity = jax.tree.leaves(kept.tasks)[0].shape[0]
    filled = jnp.minimum(kept.count, capacity)
    index = jax.random.randint(key, (count,), 0, jnp.maximum(filled, 1))
    mask = jnp.full((count,), (filled > 0).astype(jnp.float32))
    return jax.tree.map(lambda x: x[index], kept.tasks), mask
