"""Interactions in compressed rows on the device: where each person's events begin, items, labels.

A log of n events takes 8 n bytes and is never padded: a task's support and query are gathered,
padded to fixed sizes, inside the compiled program that learns from them.

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
    """A log in compressed rows.

    Attributes:
      offsets: (U + 1,) int32; person u has the events ``offsets[u]`` to ``offsets[u + 1]``.
      items: (n,) int32, each person's from the oldest to the newest.
      labels: (n,) ratings or clicks; of a small type, if it is to be small.
    """

    offsets: jax.Array
    items: jax.Array
    labels: jax.Array

    @classmethod
    def of(cls, offsets: np.ndarray, items: np.ndarray, labels: np.ndarray) -> "Log":
        """The log on the device.

        Raises:
          UserError: the columns do not fit together, or are too long for 32 bits: stream them.
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
    """The events [start, start + count) of the log, padded to ``width`` rows."""
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
    """The task of a person at a time: some events before a cut as support, those after as query.

    Both stand in the order of time, padded behind; the profile is the person's number.

    Args:
      cut: events of the person that lie before the query.
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
    """A random person, cut and shot as a task.

    The cut leaves at least one event behind it, the shots are uniform in 0..num_support where the
    person has as many: a learner that met only long supports is poor with short ones.
    """
    key_person, key_cut, key_shots = jax.random.split(key, 3)
    person = jax.random.randint(key_person, (), 0, log.num_people)
    length = log.offsets[person + 1] - log.offsets[person]
    cut = jax.random.randint(key_cut, (), 0, jnp.maximum(length, 1))
    shots = jax.random.randint(key_shots, (), 0, num_support + 1)
    return window(log, person, cut, shots, num_support, num_query)


def latest(log: Log, people: np.ndarray, shots: int, num_support: int, num_query: int) -> Episode:
    """The last ``num_query`` events of people as queries, the ``shots`` before them as supports.

    Leaves (T, ...): the queries are the same for every number of shots, so that tasks pair.
    """
    length = log.offsets[people + 1] - log.offsets[people]
    cut = jnp.maximum(length - num_query, 0)
    one = lambda person, cut: window(log, person, cut, shots, num_support, num_query)
    return jax.vmap(one)(jnp.asarray(people, jnp.int32), cut)


def slice_of(log: Log, first: int, last: int) -> Log:
    """The people [first, last) as a log of their own; arrays of the host stay views of it."""
    offsets = np.asarray(log.offsets[first : last + 1])
    rows = slice(int(offsets[0]), int(offsets[-1]))
    return Log(offsets - offsets[0], log.items[rows], log.labels[rows])
