"""The benchmark on an accelerator: whole outer steps by wall time, every way on the same card.

One process has the ways of JAX, one those of eager PyTorch; a program that compiles long, of
`torch.compile` or of W4, has its own. First all of them build side by side, up to a time; then the
ways of a cell are timed in turns, a few calls at a time that are waited for together. The record is
written anew after every cell, so that a run that is stopped leaves what it has.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from metajax.types import UserError

from . import choices
from .device_worker import BF16, FLOAT32, TF32, Job

SIZES = {"W1": 1024, "W2": 256, "W2q15": 64, "W3": 1024, "W4": 128, "W4h": 128}
"""Tasks of a batch where one size is measured."""
SLOW = {"W4", "W4h"}
"""Workloads whose programs compile long, in a process of their own."""
SLOW_IN_TORCH = {("W2", 5)}
"""Workloads and inner steps that `torch.compile` needs longer for than `--quick` has."""
BATCHES = (32, 256, 1024, 8192)
TOLERANCE = {FLOAT32: 1e-4, TF32: 1e-2, BF16: 5e-2}
"""How far the first loss of a way may be from the library's, relatively."""
JAX, TORCH = "jax", "torch"


@dataclasses.dataclass
class Worker:
    """A started process and the lines that it has said."""

    process: subprocess.Popen
    said: queue.Queue


@dataclasses.dataclass
class Way:
    """A job with what is known of it.

    Attributes:
      worker: the name of its process.
      facts: what its process said when it was ready.
      seconds: of an outer step, one for each round.
      skipped: why it is not measured, if it is not.
    """

    job: Job
    worker: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    skipped: str = ""


def quick_cells() -> list[Job]:
    """What `--quick` measures, the most wanted first; the variant is left empty.

    A card's compiler takes about ten seconds for each program of JAX, several at a time or not.
    """
    cells = [("W2", 1), ("W3", 5), ("W1", 5), ("W4", 1), ("W2", 5)]
    cell = lambda name, steps, precision: Job("", name, steps, True, SIZES[name], precision)
    return [cell(*c, TF32) for c in cells] + [cell(*c, BF16) for c in cells[:4]]


def all_cells(workloads: Iterable[str], steps: Iterable[int]) -> list[Job]:
    """Every batch size, order and precision of some workloads."""
    each = itertools.product(workloads, steps, (True, False), BATCHES, (TF32, BF16))
    return [
        Job("", name, k, second, tasks, precision) for name, k, second, tasks, precision in each
    ]


def ways(cell: Job, peers: bool, quick: bool) -> list[str]:
    """The ways to do a cell: the library's, others that it could choose, plain JAX and peers."""
    others = [] if quick or not cell.second else list(choices.OTHERS.get(cell.name, {}))
    found = ["metajax", *others, *([] if quick and cell.precision == BF16 else ["plain"])]
    if peers:
        found += ["torch.func"]
        found += [] if quick and cell.precision == BF16 else ["torch loop"]
        slow = quick and (cell.precision == BF16 or (cell.name, cell.num_steps) in SLOW_IN_TORCH)
        found += [] if slow else ["torch.func compiled"]
    return found


def _start(library: str, threads: int) -> Worker:
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.7"}
    memory["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.device_worker", library, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        env={**os.environ, **memory},
    )
    said: queue.Queue = queue.Queue()

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                said.put(json.loads(line))
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return Worker(process, said)


class Crew:
    """The processes of a run, started when they are first needed and ended with it."""

    def __init__(self, threads: int):
        self.threads = threads
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.process.kill()
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was told last was not read
                        pipe.close()

    def tell(self, name: str, **what: object) -> None:
        """Tells a process something."""
        if name not in self.workers:
            library = name.partition(" ")[0]
            self.workers[name] = _start(library, self.threads if name == JAX else 1)
        stdin = self.workers[name].process.stdin
        assert stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `hear` tells
            stdin.write(json.dumps(what) + "\n")
            stdin.flush()

    def hear(self, name: str, patience: float) -> dict[str, Any] | None:
        """The next that a process says; None if it says nothing in time, or has ended."""
        try:
            return self.workers[name].said.get(timeout=max(patience, 0.01))
        except queue.Empty:
            return None


def build(crew: Crew, found: list[Way], patience: float) -> None:
    """Builds all ways, for at most so many seconds."""
    until = time.monotonic() + patience
    names = list(dict.fromkeys(way.worker for way in found))
    mine = {name: {str(i): w for i, w in enumerate(found) if w.worker == name} for name in names}
    for name in names:
        crew.tell(name, build=[(number, way.job) for number, way in mine[name].items()])
    waiting = {name: set(mine[name]) for name in names}
    while any(waiting.values()) and time.monotonic() < until:
        for name in [n for n in names if waiting[n]]:
            told = crew.hear(name, 0.05)
            if told is None:
                if crew.workers[name].process.poll() is not None:
                    waiting[name].clear()
                continue
            number = told.pop("ready", None) or told.pop("failed")
            way = mine[name][number]
            way.facts, way.skipped = told, told.get("why", "")
            waiting[name].discard(number)
    for name in names:
        crew.tell(name, stop=True)
    over = time.monotonic() + 0.25 * patience
    for name in (JAX, TORCH):  # a compiler that is still at work would disturb what is timed
        while name in names and (told := crew.hear(name, over - time.monotonic())) is not None:
            if "stopped" in told:
                break
            number = told.pop("ready", None) or told.pop("failed")
            mine[name][number].facts, mine[name][number].skipped = told, told.get("why", "")
    for way in found:
        if not way.facts:
            ended = crew.workers[way.worker].process.poll() is not None
            way.skipped = "its process ended" if ended else f"not ready after {patience:.0f} s"
            if way.worker not in (JAX, TORCH):
                crew.workers[way.worker].process.kill()


def measure(crew: Crew, found: list[Way], rounds: int, seconds: float) -> None:
    """Times the ways of a cell in turns, each about so many seconds a round."""
    counts: dict[int, int] = {}
    for turn in range(rounds + 1):  # the first warms up, and tells how long a call takes
        for i, way in enumerate(found):
            if way.skipped or (turn > 2 and counts[i] == 1 and way.seconds[-1] > 2 * seconds):
                continue
            number = way.facts["number"]
            crew.tell(way.worker, time=number, count=counts.get(i, 1))
            told = crew.hear(way.worker, 30.0)
            while told is not None and "seconds" not in told and told.get("failed") != number:
                told = crew.hear(way.worker, 30.0)  # a program that came too late
            if told is None or "seconds" not in told:
                way.skipped = (told or {}).get("why", "it did not answer")
                continue
            if turn:
                way.seconds.append(told["seconds"])
            else:
                a_call = told["seconds"] * way.facts["outer"] * way.facts.get("share_of_tasks", 1.0)
                counts[i] = max(1, min(500, round(seconds / a_call)))


def agree(found: list[Way]) -> None:
    """Leaves out the ways that compute another loss than the library's."""
    ready = [way for way in found if not way.skipped]
    whole = [way for way in ready if way.facts.get("share_of_tasks", 1.0) == 1.0]
    if not whole:
        return
    first = whole[0].facts["loss"]
    for way in whole:
        loss = way.facts["loss"]
        if not abs(loss - first) <= TOLERANCE[way.job.precision] * abs(first):
            way.skipped = f"its loss is {loss:.6g}, that of {whole[0].job.variant} {first:.6g}"


def row(way: Way, best: dict[str, float]) -> dict[str, Any]:
    """The figures of a way beside what the card reaches at best."""
    told = way.job._asdict()
    if way.skipped or not way.seconds:
        return told | {"skipped": way.skipped or "there was no time left"}
    second, facts = statistics.median(way.seconds), way.facts
    told |= {
        "milliseconds": 1e3 * second,
        "fastest_ms": 1e3 * min(way.seconds),
        "slowest_ms": 1e3 * max(way.seconds),
        "tasks_per_second": way.job.tasks / second,
        "compile_seconds": facts["compile_seconds"],
        "temporary_mb": facts.get("temporary_mb"),
        "loss": facts["loss"],
    }
    if "flops" in facts and best:
        rate, moved = facts["flops"] / second / 1e12, facts["bytes"] / second / 1e12
        told |= {"tflops": rate, "share_of_matmul": rate / best[way.job.precision]}
        told |= {"gigabytes": facts["bytes"] / 1e9, "share_of_copy": moved / best["copy"]}
    return told


def run(
    cells: list[Job],
    ways_of: Callable[[Job], list[str]],
    seconds: float,
    keep: Callable[[list[dict[str, Any]], dict[str, float]], None],
    *,
    threads: int = 4,
    rounds: int = 5,
) -> list[dict[str, Any]]:
    """Measures cells within so many seconds in all; the rows of all ways.

    Args:
      cells: what to measure, the most wanted first.
      ways_of: a cell -> its ways, the library's first.
      keep: (rows, ceilings) is called after every cell.
      threads: programs of JAX that are compiled at a time.

    Raises:
      UserError: no way of JAX could be built.
    """
    began = time.monotonic()
    found = [Way(cell._replace(variant=v), "") for cell in cells for v in ways_of(cell)]
    for i, way in enumerate(found):
        way.worker = TORCH if way.job.variant.startswith("torch") else JAX
        slow = way.job.name in SLOW or way.job.variant.endswith("compiled")
        way.worker += f" {i}" * slow  # what compiles too long must not hold the others up
    best: dict[str, float] = {}
    with Crew(threads) as crew:
        crew.tell(JAX, ceilings=True)
        told = crew.hear(JAX, 0.5 * seconds)
        if told is None:
            raise UserError("JAX does not start on this device; try a product by hand first")
        best.update(told["ceilings"])
        _note(began, f"ceilings {best}")
        build(crew, found, 0.6 * seconds - (time.monotonic() - began))
        for i, way in enumerate(found):
            way.facts["number"] = str(i)
        _note(began, f"{sum(not way.skipped for way in found)} of {len(found)} ways are ready")
        rows: list[dict[str, Any]] = []
        for cell in cells:
            mine = [way for way in found if way.job._replace(variant="") == cell]
            agree(mine)
            if time.monotonic() - began < 0.95 * seconds:
                measure(crew, mine, rounds, 0.05)
            rows += [row(way, best) for way in mine]
            keep(rows, best)
            _note(began, f"{cell.name}, {cell.num_steps} steps, {cell.precision} measured")
    return rows


def _note(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)
