"""Events as a stream of tasks: a user at some time, with the few events known of them so far.

A user's events are divided, in order of time, into queries of a few events each; the support of a
task is the events just before its query. The first task of a user measures cold start, later ones
what is remembered. A task is *asked* at the first event of its query and has *ended* at the last;
it may be learned from only after that, which `scheduled` ensures and `check_order` checks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax.online.events import Events
from metajax.online.meta import ToldTasks, asked_of
from metajax.online.prequential import Round
from metajax.types import Episode, Examples, UserError


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks cut from events, in the order in which they are asked.

    Attributes:
      user: (T,) int32; nth: (T,) 0 for the first task of a user, then 1, 2, ...
      support: (T, K) rows of the events, -1 for padding; query: (T, Q).
      asked, ended: (T,) places in the stream of the first and of the last query event.
    """

    user: np.ndarray
    nth: np.ndarray
    support: np.ndarray
    query: np.ndarray
    asked: np.ndarray
    ended: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def part(self, chosen: np.ndarray) -> "Tasks":
        """Some of the tasks, by index or by a mask."""
        cut = {f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)}
        return Tasks(**cut)


def cut(
    events: Events, num_support: int, num_query: int, *, first: int | None = None, most: int = 8
) -> Tasks:
    """The tasks of a stream, in the order in which they are asked.

    Args:
      num_support: K, the events before a query that its task adapts on, at most.
      num_query: Q, events asked in a task, at most; the last of a user may have fewer.
      first: events known of a user when the first task is asked; K if not given.
      most: tasks of a user, from the first on, so that a few users do not fill the stream.

    Raises:
      UserError: no user has enough events.
    """
    first = num_support if first is None else first
    order = np.argsort(events.user, kind="stable")
    edges = np.searchsorted(events.user[order], np.arange(events.num_users + 1))
    user, nth, start = [], [], []
    for u in np.flatnonzero(np.diff(edges) > first).tolist():
        begins = np.arange(edges[u] + first, edges[u + 1], num_query)[:most]
        user.append(np.full(len(begins), u))
        nth.append(np.arange(len(begins)))
        start.append(begins)
    if not user:
        raise UserError(
            f"{events.name}: no user has more than {first} events, so there is nothing to ask; "
            "give a longer log or a smaller support"
        )
    user, nth, start = (np.concatenate(x) for x in (user, nth, start))
    stop = np.minimum(start + num_query, edges[user + 1])
    low = np.maximum(start - num_support, edges[user])
    row = lambda begin, end, width: _rows(order, begin, end, width)
    found = Tasks(
        user.astype(np.int32),
        nth.astype(np.int32),
        row(low, start, num_support),
        row(start, stop, num_query),
        order[start],
        order[stop - 1],
    )
    return found.part(np.argsort(found.asked, kind="stable"))


def _rows(order: np.ndarray, begin: np.ndarray, end: np.ndarray, width: int) -> np.ndarray:
    """The events [begin, end) of each task as rows (T, width), padded with -1."""
    place = begin[:, None] + np.arange(width)
    inside = place < end[:, None]
    return np.where(inside, order[np.minimum(place, len(order) - 1)], -1)


def episodes(tasks: Tasks, columns: np.ndarray, label: np.ndarray) -> Episode:
    """The tasks (T, ...) as episodes; users have no profile.

    Args:
      columns: (n, F) features of each event, known before its label.
      label: (n,) of each event.
    """

    def side(rows: np.ndarray) -> Examples:
        real = rows >= 0
        inputs = np.where(real[..., None], columns[rows], 0.0).astype(np.float32)
        answer = np.where(real, label[rows], 0.0).astype(np.float32)
        return Examples(jnp.asarray(inputs), jnp.asarray(answer), jnp.asarray(real * 1.0))

    exact = lambda e: e._replace(mask=e.mask.astype(jnp.float32))
    return Episode((), exact(side(tasks.support)), exact(side(tasks.query)))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which tasks are asked and told in each round: (R, B) indices, -1 for padding.

    Attributes:
      left: tasks that had not been told when the stream ended.
    """

    asked: np.ndarray
    told: np.ndarray
    left: int = 0


def scheduled(tasks: Tasks, size: int) -> Schedule:
    """Asks ``size`` tasks a round, in order, and tells each task once it has ended.

    A task is told in a round only if it has ended before the *first* question of the next round;
    those that wait are told from the first that ended on, ``size`` a round at the most.
    """
    count = -(-len(tasks) // size)
    asked = np.full(count * size, -1)
    asked[: len(tasks)] = np.arange(len(tasks))
    asked = asked.reshape(count, size)
    by_end = np.argsort(tasks.ended, kind="stable")
    begins = np.append(tasks.asked[asked[1:, 0]], np.iinfo(np.int64).max)
    ready = np.searchsorted(tasks.ended[by_end], begins, side="left")  # ended strictly before
    told, done = np.full((count, size), -1), 0
    for r, ends in enumerate(ready.tolist()):
        # a last round may not tell what its own questions are still waiting for
        number = min(size, min(ends, len(tasks)) - done)
        told[r, :number] = by_end[done : done + number]
        done += number
    return Schedule(asked, told, len(tasks) - done)


def check_order(tasks: Tasks, schedule: Schedule) -> None:
    """Refuses a schedule in which a task is told before it ended, or a round asks the past.

    Raises:
      UserError: the first round in which the future is learned from.
    """
    for r in range(len(schedule.asked) - 1):
        told, ahead = schedule.told[r], schedule.asked[r + 1]
        told, ahead = told[told >= 0], ahead[ahead >= 0]
        if len(told) and len(ahead) and tasks.ended[told].max() >= tasks.asked[ahead].min():
            raise UserError(
                f"round {r} learns from a task that ends after round {r + 1} is asked: the future "
                "is in the buffer; tell tasks only once they have ended"
            )


def rounds(found: Episode, schedule: Schedule) -> Round:
    """The rounds of a schedule, leaves (R, B, ...); padding has masks of 0."""

    def pick(index: np.ndarray) -> Episode:
        real = jnp.asarray(index >= 0)
        chosen = jax.tree.map(lambda x: x[jnp.asarray(np.maximum(index, 0))], found)
        hide = lambda e: e._replace(mask=jnp.where(real[..., None], e.mask, 0.0))
        return chosen._replace(support=hide(chosen.support), query=hide(chosen.query))

    asked, told = pick(schedule.asked), pick(schedule.told)
    mask = jnp.asarray((schedule.told >= 0).astype(np.float32))
    query = asked.query
    return Round(asked_of(asked), query.label, query.mask, ToldTasks(told, mask))


def by_task(values: np.ndarray, schedule: Schedule) -> np.ndarray:
    """What was recorded in rounds (R, B, ...) in the order of the tasks (T, ...)."""
    flat = np.asarray(values).reshape(-1, *values.shape[2:])
    return flat[schedule.asked.reshape(-1) >= 0]
