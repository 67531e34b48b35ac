"""Interactions on the device in compressed sparse rows (CSR): offsets by user, items, labels.

A log of n events takes 8 n bytes and is never padded: the support and query of a task are gathered
and padded to fixed sizes inside the compiled training step.

>>> import numpy as np
>>> log = Log.of(np.array([0, 3, 5]), np.array([7, 8, 9, 4, 5]), np.array([1, 0, 1, 0, 1]))
>>> task = window(log, person=0, cut=2, shots=1, num_support=2, num_query=2)
>>> task.support.inputs, task.support.mask
(Array([8, 0], dtype=int32), Array([1., 0.], dtype=float32))
>>> task.query.inputs, task.query.mask
(Array([9, 0], dtype=int32), Array([1., 0.], dtype=float32))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Episode, Examples, UserError


class Log(NamedTuple):
    """A log in compressed sparse rows.

    Attributes:
      offsets: (U + 1,) int32; person u has the events ``offsets[u]`` to ``offsets[u + 1]``.
      items: (n,) int32, each person's from the oldest to the newest.
      labels: (n,) ratings or clicks, of any numeric type; int8 saves memory.
    """

    offsets: jax.Array
    items: jax.Array
    labels: jax.Array

    @classmethod
    def of(cls, offsets: np.ndarray, items: np.ndarray, labels: np.ndarray) -> "Log":
        """The log on the device, from host arrays (U + 1,), (n,) and (n,).

        Raises:
          UserError: lengths and offsets disagree, or n needs 64 bits: use `histories.stream`.
        """
        if len(items) != len(labels) or offsets[0] != 0 or offsets[-1] != len(items):
            raise UserError("offsets must run from 0 to the number of events, items and labels")
        if len(items) >= 2**31:
            raise UserError(f"{len(items)} events are too many for one device; stream the log")
        index = lambda x: jnp.asarray(np.asarray(x, np.int32))
        return cls(index(offsets), index(items), jnp.asarray(np.asarray(labels)))

    @property
    def num_people(self) -> int:
        """U."""
        return self.offsets.shape[0] - 1


def gather(log: Log, start: jax.Array, count: jax.Array, width: int) -> Examples:
    """The events [start, start + count) of the log, both (), padded to (``width``,)."""
    place = jnp.arange(width)
    real = place < count
    row = jnp.where(real, start + place, 0)
    label = jnp.where(real, log.labels[row], 0).astype(jnp.float32)
    return Examples(jnp.where(real, log.items[row], 0), label, real.astype(jnp.float32))


def window(
    log: Log,
    person: jax.Array | int,
    cut: jax.Array | int,
    shots: jax.Array | int,
    num_support: int,
    num_query: int,
) -> Episode:
    """The task of a person at a cut in time: events before it are support, those after it query.

    Both are in time order, padded on the right: (``num_support``,) and (``num_query``,). The
    profile () is the person's index.

    Args:
      cut: number of the person's events before the query.
      shots: newest events before the cut that are known; at most all of them.
      num_support, num_query: the sizes padded to.
    """
    first, last = log.offsets[person], log.offsets[person + 1]
    at = first + cut
    known = jnp.minimum(jnp.minimum(shots, cut), num_support)
    return Episode(
        jnp.asarray(person, jnp.int32),
        gather(log, at - known, known, num_support),
        gather(log, at, jnp.minimum(last - at, num_query), num_query),
    )


def draw(log: Log, key: jax.Array, num_support: int, num_query: int) -> Episode:
    """The task of a random person with a random cut and number of shots.

    At least one event is after the cut. Shots are uniform in 0..num_support, as far as the person
    has them: a learner trained on long supports alone is poor with short ones.
    """
    key_person, key_cut, key_shots = jax.random.split(key, 3)
    person = jax.random.randint(key_person, (), 0, log.num_people)
    length = log.offsets[person + 1] - log.offsets[person]
    cut = jax.random.randint(key_cut, (), 0, jnp.maximum(length, 1))
    shots = jax.random.randint(key_shots, (), 0, num_support + 1)
    return window(log, person, cut, shots, num_support, num_query)


def latest(log: Log, people: np.ndarray, shots: int, num_support: int, num_query: int) -> Episode:
    """Tasks with leaves (T, ...): the last ``num_query`` events query, ``shots`` before support.

    Queries do not depend on the number of shots, so that scores can be compared in pairs.

    Args:
      people: (T,) indices.
    """
    length = log.offsets[people + 1] - log.offsets[people]
    cut = jnp.maximum(length - num_query, 0)
    one = lambda person, cut: window(log, person, cut, shots, num_support, num_query)
    return jax.vmap(one)(jnp.asarray(people, jnp.int32), cut)


def slice_of(log: Log, first: int, last: int) -> Log:
    """The log of the people [first, last) alone; host arrays are views, not copies."""
    offsets = np.asarray(log.offsets[first : last + 1])
    rows = slice(int(offsets[0]), int(offsets[-1]))
    return Log(offsets - offsets[0], log.items[rows], log.labels[rows])
