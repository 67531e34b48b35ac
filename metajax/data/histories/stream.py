"""A log larger than memory: blocks of people on disk, prefetched by threads during training.

A block is a `log.Log`, stored as one record of an ArrayRecord file. A pass (epoch) visits every
block once, in an order drawn from a seed; while the device trains on one block, threads read the
next. All blocks have the same number of people and are padded to the same number of events, so that
one compiled program fits them all.

    stream.write(log, folder, people=16_384)      # once; the log may be mapped from disk
    blocks = stream.Blocks(folder)
    for block in blocks.read(seed=0, epoch=0):    # each a `log.Log` on the device
        state = many_steps(state, block)
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from metajax.data.histories.log import Log, slice_of
from metajax.types import UserError

FILE, MANIFEST = "blocks.array_record", "blocks.json"


T = TypeVar("T")


def prefetched(read: Callable[[int], T], numbers: Iterable[int], ahead: int) -> Iterator[T]:
    """``read(number)`` of each number in turn, so many of them read by threads in advance."""
    with ThreadPoolExecutor(max(ahead, 1)) as pool:
        waiting: deque = deque()
        for number in numbers:
            waiting.append(pool.submit(read, number))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write(log: Log, folder: Path, people: int) -> None:
    """Writes a log in blocks of ``people`` each; the last one overlaps that before it.

    The manifest is written last, so that an interrupted write is seen as absent. Labels keep their
    type, items are int32.

    Raises:
      UserError: no people in the log.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    total = len(log.offsets) - 1
    if total < 1 or people < 1:
        raise UserError("a stream needs people: give a log that has some, and blocks of at least 1")
    people = min(people, total)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    writer = ArrayRecordWriter(str(folder / FILE), "group_size:1,uncompressed")
    events = []
    for start in range(0, total, people):
        first = min(start, total - people)
        block = slice_of(log, first, first + people)
        writer.write(_packed(block))
        events.append(len(block.items))
    writer.close()
    kind = np.dtype(log.labels.dtype).str
    told = {"people": people, "events": events, "label": kind}
    temporary = folder / f"{MANIFEST}.new"
    temporary.write_text(json.dumps(told))
    os.replace(temporary, folder / MANIFEST)


def _packed(block: Log) -> bytes:
    """Offsets, items and labels of a block, one behind the other."""
    parts = (np.asarray(block.offsets, np.int32), np.asarray(block.items, np.int32))
    return b"".join(np.ascontiguousarray(x).tobytes() for x in (*parts, block.labels))


class Blocks:
    """The blocks of a folder that `write` made; several threads may read it.

    Attributes:
      people: number of people in every block.
      width: number of events that a block is padded to.
      num_events: number of events in all blocks.

    Raises:
      UserError: the folder has no complete stream.
    """

    def __init__(self, folder: Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        if not (folder / MANIFEST).is_file():
            raise UserError(f"no stream in {folder}; write it first")
        told: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        self._folder, self._events = folder, told["events"]
        self._kind = np.dtype(told["label"])
        self._records = ArrayRecordDataSource(str(folder / FILE))
        self.people, self.width = int(told["people"]), max(told["events"])
        self.num_events = sum(told["events"])

    def __len__(self) -> int:
        return len(self._events)

    def block(self, number: int) -> Log:
        """A block on the device, padded.

        Raises:
          UserError: its bytes are not those written.
        """
        events, edge = self._events[number], 4 * (self.people + 1)
        items, labels = np.zeros(self.width, np.int32), np.zeros(self.width, self._kind)
        try:
            record = self._records[number]  # ArrayRecord keeps a hash of every record
            offsets = np.frombuffer(record, np.int32, self.people + 1)
            items[:events] = np.frombuffer(record, np.int32, events, edge)
            labels[:events] = np.frombuffer(record, self._kind, events, edge + 4 * events)
        except (RuntimeError, ValueError, IndexError) as error:
            told = f"{self._folder / FILE}: block {number} is damaged; write it again"
            raise UserError(told) from error
        return Log(*map(jnp.asarray, (offsets, items, labels)))

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order (number of blocks,) in which a pass visits the blocks."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def read(self, seed: int, epoch: int, skip: int = 0, ahead: int = 2) -> Iterator[Log]:
        """The blocks of a pass in its order, prefetched.

        Args:
          skip: number of blocks already done, when a run is resumed.
          ahead: number of blocks read in advance; memory holds one more.

        Raises:
          UserError: a block is damaged.
        """
        return prefetched(self.block, self.order(seed, epoch)[skip:].tolist(), ahead)
