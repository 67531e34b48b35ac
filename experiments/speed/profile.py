"""Where the time of an outer step goes: each kind of operation, before and after.

Run: python -m experiments.speed.profile --workload W2 W3
Before is plain JAX (``jit(grad(mean(vmap(task))))``), after is this library. Times are those that
XLA's instructions report to the profiler on one core, the median of each; an operation's time is
its own, without what it calls. Spans are wall time, which other processes stretch: they give the
shares, and the step's processor time their sum. Kinds are read from the compiled program.
"""

import collections
import dataclasses
import os
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from metajax.benchmark import command
from metajax.results import records
from metajax.settings import Positive, Stored
from metajax.types import UserError

from . import ours, problems

KINDS = (
    ("matrix products", r"\b(dot|convolution|custom-call)\("),
    ("gather and scatter", r"\b(gather|scatter|dynamic-slice|dynamic-update-slice|sort)\("),
    ("reductions", r"\b(reduce|reduce-window)\("),
    ("elementwise", r"\b(add|subtract|multiply|divide|maximum|select|exponential|rsqrt|compare)\("),
    ("moving data", r"\b(copy|transpose|concatenate|pad|slice|broadcast|bitcast|reshape)\("),
)
"""Kinds of operations; a fusion is of the first kind of which it holds one."""

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAMED = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the profile."""

    workload: tuple[str, ...] = ("W2", "W3")
    """Workloads."""
    steps: Positive = 1
    """Inner steps."""
    calls: Positive = 5
    """Programs traced."""
    output: Stored = Stored()


def computations(program: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program, by its name."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        found = _COMPUTATION.match(line)
        if found:
            lines = bodies.setdefault(found[1], [])
        else:
            lines.append(line)
    return bodies


def kinds_of(program: str) -> dict[str, str]:
    """The kind of each instruction of a compiled program, by name."""
    bodies = computations(program)
    found: dict[str, str] = {}
    for lines in bodies.values():
        for line in lines:
            named = _NAMED.match(line)
            if not named:
                continue
            called = _CALLS.search(line) if named[2] in ("fusion", "call") else None
            text = "\n".join(bodies.get(called[1], [line])) if called else line
            kinds = (kind for kind, pattern in KINDS if re.search(pattern, text))
            found[named[1]] = next(kinds, "other")
    return found


def own_seconds(events: list[tuple[str, float, float]]) -> dict[str, list[float]]:
    """Seconds of each of the nested spans (name, begin, end) of one thread, by name.

    A span counts without the spans inside it.
    """
    found: list[list[Any]] = []
    open_: list[int] = []
    for name, begin, end in sorted(events, key=lambda e: (e[1], -e[2])):
        while open_ and found[open_[-1]][2] <= begin:
            open_.pop()
        if open_:
            found[open_[-1]][1] -= end - begin
        open_.append(len(found))
        found.append([name, end - begin, end])
    total: dict[str, list[float]] = collections.defaultdict(list)
    for name, seconds, _ in found:
        total[name].append(seconds)
    return dict(total)


def _spans(folder: pathlib.Path) -> Iterator[list[tuple[str, float, float]]]:
    """The spans of each thread in a stored trace."""
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                yield [(e.name, 1e-9 * e.start_ns, 1e-9 * e.end_ns) for e in line.events]


def traced(step: Callable[[], Any], program: str, calls: int) -> dict[str, float]:
    """Seconds of one call by kind of operation: the median of an instruction, times its number."""
    kinds, total = kinds_of(program), collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                step()
        for spans in _spans(pathlib.Path(folder)):
            mine = [span for span in spans if span[0] in kinds]
            for name, seconds in own_seconds(mine).items():
                total[kinds[name]] += statistics.median(seconds) * len(seconds) / calls
    return dict(total)


def profile(variant: str, name: str, config: Config) -> dict[str, Any]:
    """The milliseconds of an outer step of one way, whole and by kind of operation."""
    make = ours.library if variant == "metajax" else ours.plain
    program = make(name, config.steps, True)
    compiled = program.run.lower(program.state, program.data).compile()
    state = [program.state]

    def step() -> None:
        state[0], losses = compiled(state[0], program.data)
        jax.block_until_ready(losses)

    step()
    cpu = []
    for _ in range(config.calls):
        began = time.process_time()
        step()
        cpu.append(1e3 * (time.process_time() - began) / program.num_outer)
    kinds = traced(step, compiled.as_text(), config.calls)
    whole = statistics.median(cpu)
    scale = whole / sum(kinds.values())
    by_kind = {kind: scale * seconds for kind, seconds in sorted(kinds.items(), key=_by_time)}
    return {"variant": variant, "milliseconds": whole, "kinds": by_kind}


def _by_time(item: tuple[str, float]) -> float:
    return -item[1]


def measured(stem: str, name: str, config: Config) -> records.Record:
    """The record of one workload, made and written."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [profile(variant, name, config) for variant in ("plain", "metajax")]
    scenario = f"{name}, {config.steps} inner steps: where the time goes"
    extra = {"title": problems.PROBLEMS[name]().title, "rows": rows}
    record = records.made("speed", config, scenario=scenario, extra=extra)
    records.write(config.output.folder("speed"), stem, record, config.output.publish)
    return record


def main(config: Config) -> None:
    """Stores where the time goes, or reads it, and prints it."""
    for name in config.workload:
        if name not in problems.PROBLEMS:
            known = ", ".join(problems.PROBLEMS)
            raise UserError(f"no workload {name!r}; the known ones are {known}")
        stem = f"speed-profile-{name.lower()}-{config.steps}"
        from_records = config.output.from_records
        record = records.stored(stem) if from_records else measured(stem, name, config)
        for row in record.extra["rows"]:
            told = ", ".join(f"{kind} {ms:.2f}" for kind, ms in row["kinds"].items())
            print(f"{name} {row['variant']}: {row['milliseconds']:.2f} ms: {told}", flush=True)


if __name__ == "__main__":
    command.cli(main, Config, stopped=command.FROM_START)
