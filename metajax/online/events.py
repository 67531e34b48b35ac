"""A dated log as a stream of events: in order of time, in rounds, with a warm-up before the test.

**Ties.** Events of equal time keep the order in which they stand in the log (a stable sort): what
happened within one tick of the clock is unknown. Reverse a log that is written newest first before
use; `Events.ties` says how many events have ties.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from metajax.data.table import Interactions
from metajax.online.factorization import Asked
from metajax.online.prequential import Round
from metajax.types import UserError

EARLIEST, LATEST = 0, 4_102_444_800
"""Unix seconds of 1970 and 2100: times outside are of another unit."""


@dataclasses.dataclass(frozen=True)
class Events:
    """Events in order of time.

    Attributes:
      name: of the log.
      user, item: (n,) int32, label: (n,) float32, time: (n,) int64 Unix seconds.
      num_users, num_items: of the log.
      content: (num_items, C) float32 features of items that are known beforehand; C may be 0.
      scale: (lowest, highest) label.
      ties: the number of events that share their time with another event of the same user.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray
    num_users: int
    num_items: int
    content: np.ndarray
    scale: tuple[float, float]
    ties: int = 0

    def __len__(self) -> int:
        return len(self.user)

    def part(self, start: int, stop: int) -> "Events":
        """The events [start, stop)."""
        cut = {n: getattr(self, n)[start:stop] for n in ("user", "item", "label", "time")}
        return dataclasses.replace(self, **cut)


def in_time(table: Interactions, content: np.ndarray | None = None) -> Events:
    """The events of a log from the oldest to the newest, ties as the log has them.

    Args:
      content: (num_items, C), see `Events`.

    Raises:
      UserError: the log has no times, or times of several units.
    """
    if table.time is None:
        raise UserError(
            f"{table.name}: a stream needs times and the log has none; give a log with a column of "
            "dates or timestamps"
        )
    time = np.asarray(table.time, np.int64)
    outside = (time < EARLIEST) | (time > LATEST)
    if outside.any():
        row = int(np.argmax(outside))
        raise UserError(
            f"{table.name}: the time {time[row]} in row {row + 1} is not in seconds since 1970 as "
            f"{int((~outside).sum())} others are; write all times in one unit"
        )
    order = np.argsort(time, kind="stable")
    user, time = table.user[order], time[order]
    moments = np.lexsort((time, user))
    same = (np.diff(user[moments]) == 0) & (np.diff(time[moments]) == 0)
    ties = int((np.append(same, False) | np.append(False, same)).sum())
    return Events(
        table.name, user.astype(np.int32), table.item[order].astype(np.int32),
        table.label[order].astype(np.float32), time, table.num_users, table.num_items,
        np.zeros((table.num_items, 0), np.float32) if content is None else content,
        table.scale, ties,
    )  # fmt: skip


def shuffled(events: Events, seed: int, start: int = 0) -> Events:
    """The events with those from ``start`` on in a random order, times in their old places.

    A control: a gain that comes from following time must vanish on shuffled events.
    """
    order = np.arange(len(events))
    np.random.default_rng(seed).shuffle(order[start:])
    moved = {n: getattr(events, n)[order] for n in ("user", "item", "label")}
    return dataclasses.replace(events, **moved)


def with_drawn(events: Events, seed: int) -> Events:
    """A log of events with as many sampled negatives: implicit feedback as labels 1 and 0.

    Beside each event, labeled 1, stands the same user with an item that is labeled 0, drawn evenly
    from the items that somebody had met by then; which of the two comes first is random, too. The
    item may, by chance, be one that the user has met.
    """
    n = len(events)
    first = np.full(events.num_items, n)
    np.minimum.at(first, events.item, np.arange(n))
    known = np.argsort(first, kind="stable")  # items from the first met on
    met = np.searchsorted(first[known], np.arange(n), side="right")  # at each event, itself too
    drawn = known[np.floor(np.random.default_rng(seed).random(n) * met).astype(np.int64)]
    turned = np.random.default_rng([seed, 1]).random(n) < 0.5

    def both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pair = np.stack([np.where(turned, b, a), np.where(turned, a, b)], axis=1)
        return pair.reshape(-1)

    return dataclasses.replace(
        events,
        user=both(events.user, events.user),
        item=both(events.item, drawn.astype(np.int32)),
        label=both(np.ones(n, np.float32), np.zeros(n, np.float32)),
        time=both(events.time, events.time),
        scale=(0.0, 1.0),
    )


def warm_up(events: Events, share: float) -> int:
    """How many events are the warm-up before the test: the first ``share`` (0 to 1) of them.

    Raises:
      UserError: the warm-up or the test would be empty.
    """
    count = int(len(events) * share)
    if not 0 < count < len(events):
        raise UserError(
            f"{events.name}: a stream of {len(events)} events is too short for a warm-up of "
            f"{share:g} of it; give a longer log or another --warm-up"
        )
    return count


def rounds(events: Events, size: int) -> Round:
    """The events in rounds of ``size``, leaves (R, B); the last round is padded.

    Size 1 is an update after every event; with k, predictions are up to k events behind.
    """
    count = -(-len(events) // size)

    def fold(values: np.ndarray) -> jnp.ndarray:
        padded = np.zeros(count * size, values.dtype)
        padded[: len(values)] = values
        return jnp.asarray(padded.reshape(count, size))

    user, item, label = fold(events.user), fold(events.item), fold(events.label)
    mask = fold(np.ones(len(events), np.float32))
    return Round(Asked(user, item), label, mask)


def unfolded(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scores of rounds (R, B) in the order of the events (n,), without the padding."""
    return np.asarray(scores)[np.asarray(mask) > 0]
