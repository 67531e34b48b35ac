"""The benchmark on an accelerator: whole outer steps by wall time, every way on the same card.

Each way of JAX is compiled in a process of its own, and left out if that takes too long; eager
PyTorch has one process, each program of `torch.compile` its own. Workloads go in waves: the ways of
a wave are compiled side by side, then those of a cell are loaded and timed in turns, a few calls at
a time that are waited for together, and end with it. Compilers that are still at work are stopped
while something is timed. The record is written anew after every cell, so that a run that is killed
leaves what it has.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from metajax.types import UserError

from . import choices
from .device_worker import BF16, FLOAT32, TF32, Job

SIZES = {"W1": 1024, "W2": 256, "W2q15": 64, "W3": 1024, "W4": 128, "W4h": 128}
"""Tasks of a batch where one size is measured."""
SLOW_IN_TORCH = {("W2", 5)}
"""Workloads and inner steps that `torch.compile` needs longer for than `--quick` has."""
REHEARSED = {"W1": 16, "W2": 2, "W2q15": 2, "W3": 8, "W4": 2, "W4h": 2}
"""Tasks of a rehearsal on a processor, whose figures say nothing."""
WAVES = (("W1", "W2", "W2q15"), ("W3", "W4", "W4h"))
"""Workloads that are compiled together; the memory of the card must hold their processes."""
TOGETHER = min(16, os.cpu_count() or 1)
"""Processes that compile at a time."""
BATCHES = (32, 256, 1024, 8192)
TOLERANCE = {FLOAT32: 1e-4, TF32: 1e-2, BF16: 5e-2}
"""How far the first loss of a way may be from the library's, relatively."""
JAX, TORCH, COMPILED = "jax", "torch", "torch compiled"


@dataclasses.dataclass
class Worker:
    """A started process, when it was, and the lines that it has said."""

    process: subprocess.Popen
    said: queue.Queue
    began: float = 0.0


@dataclasses.dataclass
class Way:
    """A job with what is known of it.

    Attributes:
      worker: the name of its process.
      facts: what its process said when it was compiled, and when it ran first.
      seconds: of an outer step, one for each round.
      skipped: why it is not measured, if it is not.
    """

    job: Job
    worker: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    skipped: str = ""


def quick_cells(sizes: Mapping[str, int] = SIZES) -> list[Job]:
    """What `--quick` measures; the variant is left empty."""
    return [Job("", name, steps, True, sizes[name], kind) for name, steps, kind in choices.QUICK]


def all_cells(workloads: Iterable[str], steps: Iterable[int]) -> list[Job]:
    """Every batch size, order and precision of some workloads."""
    each = itertools.product(workloads, steps, (True, False), BATCHES, (TF32, BF16))
    return [
        Job("", name, k, second, tasks, precision) for name, k, second, tasks, precision in each
    ]


def ways(cell: Job, peers: bool, quick: bool) -> list[str]:
    """The ways to do a cell: the library's, others that it could choose, plain JAX and peers."""
    if quick:
        named = choices.QUICK[cell.name, cell.num_steps, cell.precision].split("; ")
        found = ["metajax", *(f"metajax, {name}" for name in named), "plain"]
    else:
        others = list(choices.OTHERS.get(cell.name, {})) if cell.second else []
        found = ["metajax", *others, "plain"]
    if not peers:
        return found
    slow = quick and (cell.name, cell.num_steps) in SLOW_IN_TORCH
    return [*found, "torch.func", "torch loop", *([] if slow else ["torch.func compiled"])]


def _start(library: str, nice: bool) -> Worker:
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.7"}
    memory["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
    process = subprocess.Popen(
        [
            *(["nice"] if nice else []),
            sys.executable,
            "-m",
            f"{__package__}.device_worker",
            library,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        env={**os.environ, **memory},
        start_new_session=True,  # with its compilers, which are stopped and ended with it
    )
    said: queue.Queue = queue.Queue()

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                said.put(json.loads(line))
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return Worker(process, said, time.monotonic())


class Crew:
    """The processes of a run, started when they are first needed and ended with it."""

    def __init__(self):
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.workers):
            self.end(name)

    def tell(self, name: str, **what: object) -> None:
        """Tells a process something."""
        if name not in self.workers:
            self.workers[name] = _start(name.partition(" ")[0], nice=name.startswith(COMPILED))
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

    def signal(self, name: str, kind: signal.Signals) -> None:
        """Sends a process and all that it started a signal."""
        if name in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.workers[name].process.pid, kind)

    def ended(self, name: str) -> bool:
        """Whether a process is no longer there."""
        return name not in self.workers or self.workers[name].process.poll() is not None

    def end(self, name: str) -> None:
        """Ends a process and all that it started."""
        if name not in self.workers:
            return
        self.signal(name, signal.SIGKILL)
        worker = self.workers.pop(name)
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was told last was not read
                    pipe.close()


def _collect(crew: Crew, found: list[Way], waiting: list[Way]) -> None:
    """Takes in what the processes of some ways have said since."""
    numbers = {str(i): way for i, way in enumerate(found)}
    for name in dict.fromkeys(way.worker for way in waiting):
        if name not in crew.workers:
            continue
        while (told := crew.hear(name, 0.01)) is not None:
            number = told.pop("ready", None) or told.pop("failed")
            numbers[number].facts |= told
            numbers[number].skipped = told.get("why", "")


def build(crew: Crew, found: list[Way], mine: list[Way], patience: float, limit: float) -> None:
    """Compiles some of the ways, until the time is out or all are done.

    Args:
      found: all ways; their numbers are their places in it.
      mine: those to wait for; others that are at work go on.
      patience: seconds in all.
      limit: seconds for one process.
    """
    until = time.monotonic() + patience
    names = list(dict.fromkeys(way.worker for way in mine))
    done = lambda way: way.skipped or "compile_seconds" in way.facts
    while time.monotonic() < until and not all(map(done, mine)):
        at_work = {way.worker for way in mine if not done(way) and way.worker in crew.workers}
        for name in names:
            waits = not all(done(way) for way in mine if way.worker == name)
            if waits and name not in crew.workers and len(at_work) < TOGETHER:
                jobs = [(str(i), way.job) for i, way in enumerate(found) if way.worker == name]
                crew.tell(name, build=jobs)
                at_work.add(name)
        _collect(crew, found, [way for way in mine if not done(way)])
        for way in mine:
            if done(way) or way.worker not in crew.workers:
                continue
            took = time.monotonic() - crew.workers[way.worker].began
            if crew.ended(way.worker):
                way.skipped = "its process ended"
            elif took > limit and way.worker.startswith(JAX):
                way.skipped = f"not compiled after {limit:.0f} s"
                crew.end(way.worker)
        time.sleep(0.05)


def _answer(crew: Crew, way: Way, patience: float, **what: object) -> dict[str, Any]:
    """What the process of a way answers about it; nothing, and the way is left out, if it fails."""
    number = way.facts["number"]
    crew.tell(way.worker, **what)
    until = time.monotonic() + patience
    while (told := crew.hear(way.worker, until - time.monotonic())) is not None:
        if "seconds" in told:
            return told
        if told.get("failed") == number:
            break
    way.skipped = (told or {}).get("why", "it did not answer")
    return {}


def measure(crew: Crew, found: list[Way], rounds: int, seconds: float) -> None:
    """Times the ways of a cell in turns, each about so many seconds a round."""
    counts: dict[int, int] = {}
    for turn in range(-1, rounds + 1):  # the first loads, the second tells how long a call takes
        for i, way in enumerate(found):
            if way.skipped or (turn > 2 and counts[i] == 1 and way.seconds[-1] > 2 * seconds):
                continue
            told = _answer(crew, way, 30.0, time=way.facts["number"], count=counts.get(i, 1))
            if not told:
                continue
            if turn < 0:
                way.facts.setdefault("loss", told["loss"])
            elif turn == 0:
                share = way.facts.get("share_of_tasks", 1.0)
                a_call = told["seconds"] * way.facts["outer"] * share
                counts[i] = max(1, min(500, round(seconds / a_call)))
            else:
                way.seconds.append(told["seconds"])
        if turn < 0:
            agree(found)


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
    limit: float = 90.0,
    rounds: int = 5,
) -> list[dict[str, Any]]:
    """Measures cells within so many seconds in all; the rows of all ways.

    Args:
      cells: what to measure, the most wanted first.
      ways_of: a cell -> its ways, the library's first.
      keep: (rows, ceilings) is called after every cell.
      limit: seconds for the compiler of a way.

    Raises:
      UserError: no way of JAX could be built.
    """
    began = time.monotonic()
    found = [Way(cell._replace(variant=v), "") for cell in cells for v in ways_of(cell)]
    for i, way in enumerate(found):
        way.facts["number"], way.worker = str(i), f"{JAX} {i}"
        if way.job.variant.startswith("torch"):
            wave = next(k for k, names in enumerate(WAVES) if way.job.name in names)
            slow = way.job.variant.endswith("compiled")
            way.worker = f"{COMPILED} {i}" if slow else f"{TORCH} {wave}"
    rows: list[dict[str, Any]] = []
    with Crew() as crew:
        best = _ceilings(crew, 0.5 * seconds)
        _note(began, f"ceilings {best}")
        for i, way in enumerate(found):
            if way.worker.startswith(COMPILED):  # needs longest, so that it starts first
                crew.tell(way.worker, build=[(str(i), way.job)])
        for wave in range(len(WAVES)):
            mine = [way for way in found if way.job.name in WAVES[wave]]
            left = [way for way in found if way.job.name in sum(WAVES[wave:], ())]
            if not mine:
                continue
            _pause(crew, found, signal.SIGCONT)
            remaining = seconds - (time.monotonic() - began)
            build(crew, found, mine, 0.7 * remaining * len(mine) / len(left), limit)
            ready = sum("compile_seconds" in way.facts for way in mine)
            _note(began, f"{ready} of {len(mine)} ways of {WAVES[wave]} are ready")
            _pause(crew, found, signal.SIGSTOP)
            for cell in (c for c in cells if c.name in WAVES[wave]):
                here = [way for way in mine if way.job._replace(variant="") == cell]
                _close(crew, here)
                if time.monotonic() - began < 0.97 * seconds:
                    measure(crew, here, rounds, 0.05)
                for way in here:
                    if way.worker.startswith(JAX):
                        crew.end(way.worker)
                rows += [row(way, best) for way in here]
                keep(rows, best)
                _note(began, f"{cell.name}, {cell.num_steps} steps, {cell.precision} measured")
                for way in here:
                    _note(began, f"  {_told(way)}")
            crew.end(f"{TORCH} {wave}")
    return rows


def _ceilings(crew: Crew, patience: float) -> dict[str, float]:
    """What the card reaches at best, measured by a process of its own."""
    crew.tell(JAX, ceilings=True)
    told = crew.hear(JAX, patience)
    crew.end(JAX)
    if told is None:
        raise UserError("JAX does not start on this device; try a product by hand first")
    return told["ceilings"]


def _pause(crew: Crew, found: list[Way], kind: signal.Signals) -> None:
    """Stops the compilers of PyTorch that are still at work, or lets them go on."""
    for way in found:
        if way.worker.startswith(COMPILED) and "compile_seconds" not in way.facts:
            crew.signal(way.worker, kind)


def _close(crew: Crew, found: list[Way]) -> None:
    """Leaves out the ways that are not compiled yet; ends their processes."""
    for way in found:
        if not way.skipped and "compile_seconds" not in way.facts:
            way.skipped = "not compiled in time"
            if way.worker.startswith((JAX, COMPILED)):
                crew.end(way.worker)


def _told(way: Way) -> str:
    """What was found of a way, in a line."""
    if way.skipped or not way.seconds:
        return f"{way.job.variant}: {way.skipped or 'there was no time left'}"
    took = f"{1e3 * statistics.median(way.seconds):.3f} ms"
    return f"{way.job.variant}: {took}, compiled in {way.facts['compile_seconds']:.1f} s"


def _note(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)
