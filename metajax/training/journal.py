"""The log files of a run: metrics as JSON lines, TensorBoard events, checksums.

``metrics.jsonl`` has one line per arm and block of steps. A resumed run repeats some steps: their
earlier lines are dropped, so that each step has one line.
"""

import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import re
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from metajax.types import UserError

METRICS, CHECKSUMS = "metrics.jsonl", "CHECKSUMS"
OF_THE_SUITE = ("log.txt", "lock", "done.json", "failed.json")
"""Files of a folder that change after its run: what a suite writes about it."""
Keep = Callable[[int, Mapping[str, float]], None]


def slug(name: str) -> str:
    """A name as part of a file path.

    >>> slug("A4 fine-tuned (all)")
    'A4-fine-tuned-all'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


@contextlib.contextmanager
def opened(folder: pathlib.Path | None, arm: str) -> Iterator[Keep]:
    """A context manager of a function (step, metrics) -> None that logs the metrics of an arm.

    Each call adds a line to ``metrics.jsonl`` and, where tensorboardX is installed, an event to
    ``tensorboard/ARM``. Without a folder it does nothing.
    """
    if folder is None:
        yield lambda step, metrics: None
        return
    path = folder / METRICS
    began = time.perf_counter()
    scalars: list[Keep] = []

    def keep(step: int, metrics: Mapping[str, float]) -> None:
        if not scalars:
            _forget(path, arm, step)
            scalars.append(_tensorboard(folder / "tensorboard" / slug(arm), step))
        seconds = round(time.perf_counter() - began, 3)
        line = json.dumps({"arm": arm, "step": step, **metrics, "seconds": seconds})
        with path.open("a") as file:
            file.write(line + "\n")
        scalars[0](step, metrics)

    yield keep


def _tensorboard(folder: pathlib.Path, step: int) -> Keep:
    """A writer of event files that forgets what was written from ``step`` on.

    Each event is on the disk when the call returns: the writer of tensorboardX hands events to a
    thread, whose failure on a full disk nobody could tell in one line.
    """
    try:
        from tensorboardX.record_writer import masked_crc32c

        event_pb2: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        summary_pb2: Any = importlib.import_module("tensorboardX.proto.summary_pb2")
    except ImportError:
        return lambda step, metrics: None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time():.3f}.{socket.gethostname()}.{os.getpid()}"

    def put(**event: Any) -> None:
        data = event_pb2.Event(wall_time=time.time(), **event).SerializeToString()
        size = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (size, data)]
        with path.open("ab") as file:
            file.write(b"".join([size, checks[0], data, checks[1]]))

    def write(step: int, metrics: Mapping[str, float]) -> None:
        value = summary_pb2.Summary.Value
        values = [value(tag=name, simple_value=number) for name, number in metrics.items()]
        put(step=step, summary=summary_pb2.Summary(value=values))

    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    put(file_version="brain.Event:2")
    put(step=step, session_log=start)
    return write


def _forget(path: pathlib.Path, arm: str, step: int) -> None:
    """Drops the lines of an arm from ``step`` on, and a last line that a kill has torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return
    kept = [m for m in metrics(path) if m["arm"] != arm or m["step"] < step]
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(json.dumps(m) + "\n" for m in kept))
    os.replace(temporary, path)


def metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, parsed; an incomplete last line is left out.

    Raises:
      UserError: another line is damaged.
    """
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number} is damaged; remove that line") from error
    return found


def peak_memory() -> dict[str, float]:
    """The peak memory of this process so far, in MB, on the host and on the device."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = most / 1e6 if sys.platform == "darwin" else most / 1e3
    stats = jax.local_devices()[0].memory_stats() or {}
    device = {"device_mb": stats["peak_bytes_in_use"] / 1e6} if "peak_bytes_in_use" in stats else {}
    return {"host_mb": round(host, 1), **device}


def write_checksums(folder: pathlib.Path) -> pathlib.Path:
    """The path of a new file with the digests of the files of a run folder, for ``b2sum --check``.

    Checkpoints are left out: they have their own digests, and later runs replace them. So are the
    files that a suite writes into the folder.
    """
    path, left_out = folder / CHECKSUMS, (CHECKSUMS, *OF_THE_SUITE)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in left_out)
    saved = {mark.parent for mark in folder.rglob("_CHECKPOINT_METADATA")}
    kept = [
        p
        for p in files
        if p.relative_to(folder).parts[0] != "checkpoints" and saved.isdisjoint(p.parents)
    ]
    lines = [f"{_digest(p)}  {p.relative_to(folder).as_posix()}\n" for p in kept]
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(lines))
    os.replace(temporary, path)
    return path


def check(folder: pathlib.Path) -> int:
    """The number of files of a run folder, all of which have the digests of `write_checksums`.

    Raises:
      UserError: a file is missing or changed, or there are no checksums.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise UserError(f"{folder} has no {CHECKSUMS}; the run there has not ended")
    lines = path.read_text().splitlines()
    for line in lines:
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; run the experiment again")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder / name} is not what the run wrote; run the experiment again")
    return len(lines)


def _digest(path: pathlib.Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()
