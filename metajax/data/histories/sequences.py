"""Item sequences for next-item prediction: each user's items in time order, and what is held out.

Leave-one-out: the last item of a history is the test, the one before it the validation, the others
are trained on. Global time (`by_time`): what comes before one moment is trained on, and the next
item after a later moment is the test.
Equal times keep the order of the file: reordering them changes a quarter of the test items of
MovieLens-1M, which is why results are stored with the `Sequences.digest` of their data.
"""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.sources.files import dataset_folder, required
from metajax.data.table import Interactions
from metajax.types import Episode, Examples, UserError

HELD_OUT = 2
"""Items at the end of each history that are not trained on."""


class Sequences(NamedTuple):
    """The histories of U people, concatenated.

    Attributes:
      name: of the data set.
      items: (n,) int32 item indices 0..num_items-1, person by person, oldest first.
      start: (U,) where each person's history begins.
      length: (U,) how many items it has.
      num_items: V.
      item_ids: (V,) the items' identifiers in the file.
      owners: (U,) the people's identifiers in the file.
      stops: (U, 2) how many items of each history come before the validation item, which are also
        those that are trained on, and before the test item; None: all but two, and all but one.
    """

    name: str
    items: np.ndarray
    start: np.ndarray
    length: np.ndarray
    num_items: int
    item_ids: np.ndarray
    owners: np.ndarray
    stops: np.ndarray | None = None
    asked: np.ndarray | None = None

    @property
    def trained(self) -> np.ndarray:
        """How many items of each history (U,) are trained on."""
        return self.length - HELD_OUT if self.stops is None else self.stops[:, 0]

    def digest(self) -> str:
        """A digest of all histories, order included, as 16 hexadecimal digits."""
        parts = self.length.astype(np.int64).tobytes() + self.items.astype(np.int64).tobytes()
        for more in (self.stops, self.asked):
            parts += b"" if more is None else more.astype(np.int64).tobytes()
        return hashlib.blake2b(parts, digest_size=8).hexdigest()


class Windows(NamedTuple):
    """W windows of histories to train on; arrays for the device.

    Attributes:
      items: (n,) all histories, concatenated.
      first: (W,) where the history of a window begins in ``items``.
      last: (W,) one past the last item of that history that may be trained on.
      end: (W,) one past the last item of the window, before it is shifted at random.
    """

    items: jax.Array
    first: jax.Array
    last: jax.Array
    end: jax.Array


class HeldOut(NamedTuple):
    """Histories, each with its held-out next item.

    Attributes:
      history: (U, L) the last items before the target, oldest first, padded on the right with 0.
      length: (U,) how many are real.
      target: (U,) the next item.
      seen: (U, M) all items before the target, padded with ``num_items``.
      person: (U,) whose they are; None where nobody asks.
    """

    history: np.ndarray
    length: np.ndarray
    target: np.ndarray
    seen: np.ndarray
    person: np.ndarray | None = None

    def only(self, rows: np.ndarray) -> "HeldOut":
        """Those rows (P,) of them."""
        person = None if self.person is None else self.person[rows]
        return HeldOut(
            self.history[rows], self.length[rows], self.target[rows], self.seen[rows], person
        )


def read_sasrec(path: Path | str, name: str = "ml-1m") -> Sequences:
    """The histories of a text file of ``user item`` lines in order, as SASRec's authors publish.

    Args:
      path: plain or gzipped; or the folder of ``sasrec/NAME.txt.gz``, or the one above NAME.

    Raises:
      UserError: a missing or damaged file; a person with fewer than 3 items.
    """
    path = Path(path)
    if path.is_dir():
        path = required(dataset_folder(path, name), f"sasrec/{name}.txt.gz", name)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            pairs = np.array([line.split() for line in file], np.int64).reshape(-1, 2)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}; give the path of a log of `user item` lines") from error
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not lines of two whole numbers ({error})") from error
    return assemble(name, pairs[:, 0], pairs[:, 1])


def of_table(table: Interactions, least: float = -np.inf) -> Sequences:
    """The histories of a log in time order; equal times keep the order of the table.

    People with fewer than 3 items are left out; their number is printed.

    Args:
      least: interactions with a lower label are left out.

    Raises:
      UserError: the log has no times; nobody has 3 items.
    """
    time = _timed(table)
    kept = np.flatnonzero(table.label >= least)
    enough = np.bincount(table.user[kept], minlength=table.num_users) > HELD_OUT
    if not enough.any():
        raise UserError(f"{table.name}: nobody has {HELD_OUT + 1} items; give a larger log")
    if not enough.all():
        few = int((~enough).sum())
        print(f"{table.name}: {few:,} people with fewer than {HELD_OUT + 1} items are left out")
        kept = kept[enough[table.user[kept]]]
    order = kept[np.argsort(time[kept], kind="stable")]
    user = table.user_ids[table.user[order]]
    return assemble(table.name, user, table.item_ids[table.item[order]])


def _timed(table: Interactions) -> np.ndarray:
    """The times (n,) of a log that must have some."""
    if table.time is None:
        raise UserError(
            f"{table.name}: what comes next is told by time, and the log has none; name its column "
            "with --time"
        )
    return table.time


def by_time(table: Interactions, shares: tuple[float, float] = (0.8, 0.9)) -> Sequences:
    """The histories of a log, divided at two moments that are the same for everybody.

    What comes before the first moment is trained on. The validation item of a person is their first
    one from it on, if it comes before the second moment; the test item is their first one from the
    second moment on. Only people who have items before a moment are asked for the next one.

    Args:
      shares: of all interactions that come before the two moments.

    Raises:
      UserError: the log has no times, or nobody has items on both sides of a moment.

    References: Meng et al., "Exploring data splitting strategies for the evaluation of
    recommendation models", RecSys 2020; Ji et al., "A critical study on data leakage in
    recommender system offline evaluation", TOIS 2023.
    """
    time = _timed(table)
    order = np.argsort(time, kind="stable")
    moments = time[order][[int(share * len(order)) for share in shares]]
    owners, person = np.unique(table.user_ids[table.user[order]], return_inverse=True)
    ids, index = np.unique(table.item_ids[table.item[order]], return_inverse=True)
    count = lambda rows: np.bincount(person[rows], minlength=len(owners))
    stops = np.stack([count(time[order] < moment) for moment in moments], axis=1)
    length = np.bincount(person, minlength=len(owners))
    place = np.argsort(person, kind="stable")
    start = np.cumsum(length) - length
    found = Sequences(
        table.name, index[place].astype(np.int32), start, length, len(ids), ids, owners, stops
    )
    if not len(_asked(found, 1)) or not len(_asked(found, 2)):
        raise UserError(f"{table.name}: nobody has items on both sides of a moment; give more days")
    return found


def _asked(sequences: Sequences, back: int) -> np.ndarray:
    """The people (P,) who are asked for an item: ``back`` 1 is the test, 2 the validation."""
    everybody = np.arange(len(sequences.length))
    people = everybody if sequences.asked is None else sequences.asked
    if sequences.stops is None:
        return people
    first = sequences.stops[:, 2 - back]
    end = sequences.length if back == 1 else sequences.stops[:, 1]
    return np.intersect1d(people, np.flatnonzero((first > 0) & (first < end)))


def asking(sequences: Sequences, number: int, seed: int = 0) -> Sequences:
    """The histories of which ``number`` people, drawn at random, are judged; all are trained on.

    Everybody, where they are no more than that.
    """
    if number >= len(sequences.length):
        return sequences
    drawn = np.random.default_rng(seed).choice(len(sequences.length), number, replace=False)
    return sequences._replace(asked=np.sort(drawn))


def assemble(name: str, user: np.ndarray, item: np.ndarray) -> Sequences:
    """Sequences from the columns of identifiers (n,), each person's rows oldest first.

    Raises:
      UserError: no rows, or a person with fewer than 3 items.
    """
    owners, person = np.unique(user, return_inverse=True)
    ids, index = np.unique(item, return_inverse=True)
    length = np.bincount(person, minlength=len(owners))
    if len(length) == 0 or length.min() < HELD_OUT + 1:
        raise UserError(
            f"{name}: leave-one-out needs {HELD_OUT + 1} items per person; drop those with fewer"
        )
    place = np.argsort(person, kind="stable")
    start = np.cumsum(length) - length
    return Sequences(name, index[place].astype(np.int32), start, length, len(ids), ids, owners)


def held_out(sequences: Sequences, width: int, back: int = 1) -> HeldOut:
    """Each person's item ``back`` places from the end, and the ``width`` items before it.

    Args:
      back: 1 is the test, 2 the validation; more than 2 by leave-one-out alone.
    """
    people = _asked(sequences, back)
    begin = sequences.start[people]
    stops = sequences.stops
    stop = sequences.length[people] - back if stops is None else stops[people, 2 - back]
    count = np.minimum(stop, width)

    def rows(first: np.ndarray, number: np.ndarray, columns: int, pad: int) -> np.ndarray:
        place = np.arange(columns)[None, :]
        real = place < number[:, None]
        at = np.where(real, (begin + first)[:, None] + place, 0)
        return np.where(real, sequences.items[at], pad).astype(np.int32)

    return HeldOut(
        history=rows(stop - count, count, width, 0),
        length=count.astype(np.int32),
        target=sequences.items[begin + stop],
        seen=rows(np.zeros_like(stop), stop, int(stop.max()), sequences.num_items),
        person=people,
    )


def windows(sequences: Sequences, width: int, drop: int | None = None) -> Windows:
    """Windows of ``width`` items that cover what is trained on of each history.

    Args:
      drop: cover each history without its last ``drop`` items instead.
    """
    kept = sequences.trained if drop is None else sequences.length - drop
    last = sequences.start + kept
    pieces = -(-kept // width)
    person = np.repeat(np.arange(len(last)), pieces)
    nth = np.arange(len(person)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    end = last[person] - nth * width
    columns = (sequences.items, sequences.start[person], last[person], end)
    return Windows(*(jnp.asarray(c, jnp.int32) for c in columns))


def draw(windows: Windows, key: jax.Array, width: int) -> Episode:
    """A random window as a task: its last item is the query (1,), those before it the support.

    The support is (``width`` - 1,), real rows first. The end of the window is shifted at random by
    up to half its width, so that no item is always the first of its window.
    """
    key_window, key_shift = jax.random.split(key)
    at = jax.random.randint(key_window, (), 0, windows.end.shape[0])
    shift = jax.random.randint(key_shift, (), -(width // 2), width // 2 + 1)
    first, last = windows.first[at], windows.last[at]
    end = jnp.clip(windows.end[at] + shift, jnp.minimum(first + 2, last), last)
    begin = jnp.maximum(end - width, first)
    place = jnp.arange(width - 1)
    real = place < end - 1 - begin
    row = windows.items[jnp.where(real, begin + place, 0)]
    ones = jnp.ones(1)
    support = Examples(jnp.where(real, row, 0), real * 1.0, real * 1.0)
    return Episode((), support, Examples(windows.items[end - 1][None], ones, ones))


def sampler(width: int, size: int) -> Callable[[Windows, jax.Array], Episode]:
    """(windows, key) -> one task (1, ``size``, ...) of so many random windows, see `draw`."""

    def sample(windows: Windows, key: jax.Array) -> Episode:
        drawn = jax.vmap(lambda key: draw(windows, key, width))(jax.random.split(key, size))
        return jax.tree.map(lambda x: x[None], drawn)

    return sample
