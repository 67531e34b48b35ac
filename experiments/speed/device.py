"""The benchmark on an accelerator: whole outer steps by wall time, every way on the same card.

Each way of JAX is compiled in a process of its own, and left out if that takes too long; eager
PyTorch has one process, each program of `torch.compile` its own. Workloads go in waves: the ways of
a wave are compiled side by side, then those of a cell are loaded and timed in turns, a few calls at
a time that are waited for together, and end with it. Compilers that are still at work are stopped
while something is timed. The record is written anew after every cell, so that a run that is killed
leaves what it has.
"""

import dataclasses
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from metajax.types import UserError

from . import choices
from .crew import COMPILED, JAX, TORCH, Crew
from .device_worker import BF16, FLOAT32, TF32, Job

SIZES = {"W1": 1024, "W2": 256, "W2q15": 64, "W3": 1024, "W4": 128, "W4h": 128}
"""Tasks of a batch where one size is measured."""
COMPILED_QUICK = {("W1", 5, TF32), ("W2", 1, TF32)}
"""Cells that `torch.compile` has a chance to be ready for within `--quick`."""
REHEARSED = {"W1": 16, "W2": 2, "W2q15": 2, "W3": 8, "W4": 2, "W4h": 2}
"""Tasks of a rehearsal on a processor, whose figures say nothing."""
TOGETHER = min(16, os.cpu_count() or 1)
"""Processes that compile at a time."""
BATCHES = (32, 256, 1024, 8192)
TOLERANCE = {FLOAT32: 1e-4, TF32: 1e-2, BF16: 5e-2}
"""How far the first loss of a way may be from the library's, relatively."""


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

    @property
    def cell(self) -> Job:
        """The job without its variant."""
        return self.job._replace(variant="")


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
        found = ["metajax", *(n if n == "plain" else f"metajax, {n}" for n in named if n)]
    else:
        others = list(choices.OTHERS.get(cell.name, {})) if cell.second else []
        found = ["metajax", *others, "plain"]
    if peers:
        slow = quick and (cell.name, cell.num_steps, cell.precision) not in COMPILED_QUICK
        found += (
            ["torch.func"] + ["torch.func compiled"] * (not slow) + ["torch loop"] * (not quick)
        )
    return found


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
    found = [way for way in found if "compile_seconds" in way.facts]
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
    together: bool = False,
) -> list[dict[str, Any]]:
    """Measures cells within so many seconds in all; the rows of all ways.

    Args:
      cells: what to measure, the most wanted first.
      ways_of: a cell -> its ways, the library's first.
      keep: (rows, ceilings) is called after every cell.
      limit: seconds for the compiler of a way.
      together: compile the ways of all cells before the first is timed; else of each cell.

    Raises:
      UserError: no way of JAX could be built.
    """
    began = time.monotonic()
    waves = [cells] if together else [[cell] for cell in cells]
    found = [Way(cell._replace(variant=v), "") for cell in cells for v in ways_of(cell)]
    for i, way in enumerate(found):
        way.facts["number"], way.worker = str(i), f"{JAX} {i}"
        if way.job.variant.startswith("torch"):
            wave = next(k for k, wave in enumerate(waves) if way.cell in wave)
            slow = way.job.variant.endswith("compiled")
            way.worker = f"{COMPILED} {i}" if slow else f"{TORCH} {wave}"
    done: list[Way] = []
    with Crew() as crew:
        best = _ceilings(crew, 0.5 * seconds)
        _note(began, f"ceilings {best}")
        for number, wave in enumerate(waves):
            mine = [way for way in found if way.cell in wave]
            left = seconds - (time.monotonic() - began)
            _ready(crew, found, mine, 0.75 * left * len(mine) / (len(found) - len(done)), limit)
            ready = sum("compile_seconds" in way.facts for way in mine)
            _note(began, f"{ready} of {len(mine)} ways are ready")
            for cell in wave:
                here = [way for way in mine if way.cell == cell]
                if time.monotonic() - began < 0.97 * seconds:
                    measure(crew, here, rounds, 0.05)
                for way in here:
                    if way.worker.startswith(JAX):
                        crew.end(way.worker)
                    _note(began, _told(way))
                done += here
                keep([row(way, best) for way in done], best)
            crew.end(f"{TORCH} {number}")
        _late(crew, found, 0.9 * (seconds - (time.monotonic() - began)), rounds)
        rows = [row(way, best) for way in done]
        keep(rows, best)
    return rows


def _ready(crew: Crew, found: list[Way], mine: list[Way], patience: float, limit: float) -> None:
    """Compiles the ways of a wave; what is not ready then is ended, or stopped if PyTorch's."""
    for way in mine:
        if way.worker.startswith(COMPILED):  # needs longest, so that it starts first
            crew.tell(way.worker, build=[(way.facts["number"], way.job)])
    _pause(crew, found, signal.SIGCONT)
    quick = [way for way in mine if not way.worker.startswith(COMPILED)]
    build(crew, found, quick, patience, limit)
    _collect(crew, found, mine)
    _pause(crew, found, signal.SIGSTOP)
    _close(crew, quick)


def _late(crew: Crew, found: list[Way], patience: float, rounds: int) -> None:
    """Waits for `torch.compile` once all else is measured, and times what is ready then."""
    late = [way for way in found if way.worker.startswith(COMPILED) and not way.seconds]
    _pause(crew, late, signal.SIGCONT)
    build(crew, found, late, patience, patience)
    _close(crew, late)
    for way in late:
        measure(crew, [way], rounds, 0.05)
        agree([other for other in found if other.cell == way.cell and other.seconds])
        _note(time.monotonic(), _told(way))


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
    _, name, num_steps, _, _, precision = way.job
    title = f"{name}, {num_steps} steps, {precision}, {way.job.variant}"
    if way.skipped or not way.seconds:
        return f"{title}: {way.skipped or 'there was no time left'}"
    took = f"{1e3 * statistics.median(way.seconds):.3f} ms"
    return f"{title}: {took}, compiled in {way.facts['compile_seconds']:.1f} s"


def _note(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)
