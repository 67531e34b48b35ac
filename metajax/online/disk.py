"""A log on disk as a stream: written in order of time, read in blocks, resumed where it stood.

Memory holds some blocks of events and the learner's state, whatever the length of the log. After
every so many blocks the state is checkpointed behind the scores up to there; a run that was killed
goes on from the last checkpoint, and ends with the same bits.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories.stream import prefetched
from metajax.online.factorization import Asked
from metajax.online.prequential import Online, Record, Round, prequential, scores_alone
from metajax.training import checkpoint
from metajax.types import PyTree, UserError

COLUMNS = {"user": np.int32, "item": np.int32, "label": np.float32}
MANIFEST = "events.json"


class Columns(NamedTuple):
    """Some events in order of time: user, item, label and time, each (n,)."""

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray


def write(pieces: Iterable[Columns], folder: Path) -> int:
    """Writes a log that comes in pieces to a folder, and returns its number of events.

    Args:
      pieces: events in order of time, from one piece to the next too.
      folder: made if there is none; ``user.bin``, ``item.bin``, ``label.bin`` and ``events.json``.

    Raises:
      UserError: an event is older than the one before it; there are no events.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {name: (folder / f"{name}.bin").open("wb") for name in COLUMNS}
    count, last = 0, None
    try:
        for piece in pieces:
            time = np.asarray(piece.time)
            joined = time if last is None else np.append(last, time)
            if (np.diff(joined) < 0).any():
                place = count + int(np.argmax(np.diff(joined) < 0)) + (last is None)
                raise UserError(f"event {place} is older than the one before; sort the log by time")
            for name, kind in COLUMNS.items():
                np.asarray(getattr(piece, name), kind).tofile(files[name])
            count, last = count + len(time), time[-1] if len(time) else last
    finally:
        for file in files.values():
            file.close()
    if count == 0:
        raise UserError("a stream needs events: the log has none")
    temporary = folder / f"{MANIFEST}.new"
    temporary.write_text(json.dumps({"events": count}))
    os.replace(temporary, folder / MANIFEST)
    return count


class Blocks:
    """The blocks of a log on disk, each ``rounds`` rounds of ``size`` events.

    Raises:
      UserError: the folder has no whole log.
    """

    def __init__(self, folder: Path, size: int, rounds: int):
        if not (folder / MANIFEST).is_file():
            raise UserError(f"no log in {folder}; write it first")
        self.num_events = int(json.loads((folder / MANIFEST).read_text())["events"])
        self.shape, self._columns = (rounds, size), {}
        for name, kind in COLUMNS.items():
            path = folder / f"{name}.bin"
            if path.stat().st_size != self.num_events * np.dtype(kind).itemsize:
                raise UserError(f"{path} is not as long as it was written; write the log again")
            self._columns[name] = np.memmap(path, kind, "r")

    def __len__(self) -> int:
        return -(-self.num_events // (self.shape[0] * self.shape[1]))

    def block(self, number: int) -> Round:
        """The rounds of a block, the last one padded."""
        each = self.shape[0] * self.shape[1]
        real = min(each, self.num_events - number * each)

        def part(values: np.ndarray) -> jax.Array:
            padded = np.zeros(each, values.dtype)
            padded[:real] = values[number * each : number * each + real]
            rows = padded.reshape(self.shape)
            return jnp.asarray(np.pad(rows, ((0, 0), (0, max(2 - self.shape[1], 0)))))

        user, item, label = (part(self._columns[name]) for name in COLUMNS)
        mask = jnp.asarray((np.arange(each) < real).astype(np.float32).reshape(self.shape))
        return Round(Asked(user, item), label, mask)

    def read(self, start: int = 0, ahead: int = 2) -> Iterator[Round]:
        """The blocks from ``start`` on, each read while those before it are in use."""
        return prefetched(self.block, range(start, len(self)), ahead)


def run(
    online: Online,
    blocks: Callable[[int], Iterable[Round]],
    keep: Callable[[int, Any], None],
    *,
    state: PyTree | None = None,
    record: Record = scores_alone,
    folder: Path | None = None,
    identity: str = "",
    every: int = 1,
) -> PyTree:
    """The state after a stream of blocks, which need not fit into memory together.

    Args:
      online: the learner.
      blocks: start -> the blocks from that number on, such as ``Blocks(...).read``.
      keep: called with a block's number and what was recorded of its rounds, before the state
        behind it is checkpointed; after a kill, blocks since then come again, the same.
      state: to begin with; ``online.init`` otherwise.
      record: see `prequential`.
      folder: of the checkpoints; none without it.
      identity: of stream and learner; another one's checkpoints are refused.
      every: blocks from one checkpoint to the next.

    Raises:
      UserError: the checkpoints are another run's, all are damaged, or one cannot be written.
    """
    state = online.init(jax.random.key(0)) if state is None else state
    advance = jax.jit(lambda state, rounds: prequential(online, state, rounds, record))
    if folder is None:
        for number, block in enumerate(blocks(0)):
            state, recorded = advance(state, block)
            keep(number, recorded)
        return state
    with checkpoint.opened(folder, identity) as store:
        saved = store.latest(state)
        start, state = (saved.step, saved.tree) if saved else (0, state)
        for number, block in enumerate(blocks(start), start):
            state, recorded = advance(state, block)
            keep(number, recorded)
            if (number + 1) % every == 0:
                store.save(number + 1, state, {}, 0.0)
    return state
