"""Speed: whole outer steps, Adam included, of this library, of plain JAX and of PyTorch.

Run: python -m experiments benchmark --workload W1 --steps 5 --peers --quick
     python -m experiments benchmark --workload bandits (decisions for many users)
     python -m experiments benchmark --device gpu --peers --quick
     python -m experiments benchmark --from-records writes docs/speed.md from the stored records.
Each way runs in a process of its own, all of them in turns on one core with one thread; figures are
medians of processor time. All ways compute the same loss, or the run fails. ``plain`` is what one
writes first in JAX: jit of the gradient of the mean of a mapped task. With
``--device gpu`` all ways run on the card, by wall time, beside what the card reaches at best.
Workloads: W1 sines; W2 characters (W2q15 with 15 queries a class); W3 users with features; W4 a
Transformer of which low-rank updates adapt (W4h: its head).
"""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from metajax.benchmark import command
from metajax.results import environment, records
from metajax.settings import Positive, Stored
from metajax.types import UserError

from . import problems, worker

PEERS = ("torch.func", "torch.func compiled", "torch loop", "learn2learn", "torchopt")
TOO_LONG = {("W2", 5), ("W2q15", 5), ("W2q15", 1), ("W3", 5), ("W4", 5), ("W4h", 5)}
"""Where compiling `torch.func` takes longer than a whole comparison."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    workload: tuple[str, ...] = ()
    """Workloads: W1, W2, W2q15, W3, W4, W4h; by default W1 to W3, and W4 on a graphics card; or
    bandits, alone: decisions for many users."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where to run: one core, by processor time, or a graphics card, by wall time."""
    minutes: float = 0.0
    """Minutes after which a run on a graphics card ends; 0 is 3 with --quick, else 60."""
    rehearse: bool = False
    """Go through a run for a graphics card on the processor, with few tasks; its figures say
    nothing, and it is not stored among the records."""
    steps: tuple[Positive, ...] = (1, 5)
    """Inner steps."""
    first_order: bool = False
    """Leave out second derivatives."""
    peers: bool = False
    """Also measure PyTorch."""
    ways: tuple[str, ...] = ()
    """Measure only these ways (implementations); by default all that fit the workload."""
    two_cores: bool = False
    """Also measure the library on two cores, with the tasks split over them."""
    quick: bool = False
    """Fewer rounds, and no variations of plain JAX."""
    patience: float = 900.0
    """Seconds to wait for a way to compile before it is skipped."""
    output: Stored = Stored()


def variants(config: Config, name: str, num_steps: int) -> tuple[list[str], dict[str, str]]:
    """The ways to measure, and those to leave out with the reason."""
    from . import ours

    found, left_out = ["metajax", "plain"], {}
    if not config.quick:
        found += [f"plain, {variation}" for variation in ours.WORKLOADS[name].variations]
    if config.two_cores:
        found.append(worker.TWO_CORES)
    for peer in PEERS if config.peers else ():
        reason = _missing(peer)
        if peer.endswith("compiled") and (name, num_steps) in TOO_LONG:
            reason = reason or "compiling takes many minutes"
        if peer == "torchopt" and config.first_order:
            reason = reason or "it has no first order"
        if reason:
            left_out[peer] = reason
        else:
            found.append(peer)
    wanted = lambda way: not config.ways or way in config.ways
    kept = {way: reason for way, reason in left_out.items() if wanted(way)}
    return [way for way in found if wanted(way)], kept


def _missing(peer: str) -> str:
    """Why a peer cannot run here; empty if it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install metajax[peers]"
    if peer in worker.PACKAGES and importlib.util.find_spec(peer) is None:
        return f"{peer} is not installed: pip install {peer}"
    return ""


def run_one(config: Config, name: str, num_steps: int) -> records.Record:
    """Measures one workload at one number of inner steps, and stores the record."""
    from . import measure

    found, left_out = variants(config, name, num_steps)
    workers = measure.compare(
        found,
        name,
        num_steps,
        second_order=not config.first_order,
        seconds=1.0 if config.quick else 3.0,
        rounds=3 if config.quick else 7,
        patience=config.patience,
    )
    problem = problems.PROBLEMS[name]()
    rows = [measure.row(w, len(problem.support.label)) for w in workers]
    rows += [{"variant": peer, "skipped": reason} for peer, reason in left_out.items()]
    scenario = f"{name}, {num_steps} inner steps" + ", first order" * config.first_order
    extra = {"title": problem.title, "num_steps": num_steps, "rows": rows}
    extra["peers"] = _versions(workers)
    scores = {
        records.Key(scenario, w.variant, "step", "cpu_seconds"): np.asarray(w.cpu)[None]
        for w in workers
        if w.cpu
    }
    arms = records.arms_of(key.arm for key in scores)
    record = records.made("speed", config, arms, scores, scenario=scenario, extra=extra)
    stem = f"speed-{name}-{num_steps}".lower() + "-first" * config.first_order
    records.write(config.output.folder("speed"), stem, record, config.output.publish)
    return record


def run_on_card(config: Config) -> records.Record:
    """Measures all ways on a card, and stores the record after every cell."""
    from . import device

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share the card
    if jax.default_backend() == "cpu" and not config.rehearse:
        raise UserError(
            "JAX sees no GPU here; make install EXTRA=cuda13 (or cuda12), or --device cpu"
        )
    if config.peers and _missing("torch.func"):
        raise UserError(_missing("torch.func"))
    workloads = config.workload or ("W1", "W2", "W3", "W4")
    sizes = device.REHEARSED if config.rehearse else device.SIZES
    quick = config.quick or config.rehearse
    cells = device.quick_cells(sizes) if quick else device.all_cells(workloads, config.steps)
    cells = [cell for cell in cells if cell.name in workloads and cell.num_steps in config.steps]
    cells = [cell for cell in cells if not (config.first_order and cell.second)]
    kept: list[records.Record] = []

    def keep(rows: list[dict[str, Any]], ceilings: dict[str, float]) -> None:
        extra = {"rows": rows, "ceilings": ceilings}
        kept[:] = [records.made("speed", config, scenario="on a card", extra=extra)]
        records.write(config.output.folder("speed"), "speed-card", kept[0])

    minutes = config.minutes or (3.0 if config.quick else 60.0)
    ways = lambda cell: [
        way
        for way in device.ways(cell, config.peers, quick)
        if not config.ways or way in config.ways
    ]
    limit = config.patience if config.rehearse else min(config.patience, 100.0)
    device.run(cells, ways, 60 * minutes, keep, limit=limit, together=quick)
    if not kept:
        raise UserError("there is nothing to measure; leave --workload, --steps or --ways out")
    if config.output.publish and not config.rehearse:
        records.publish("speed-card", kept[0])
    return kept[0]


def _versions(workers: Sequence[Any]) -> dict[str, str]:
    """The versions of the peers' packages that ran; of sources on the path they are unknown."""
    names = {"torch", *worker.PACKAGES} if any("torch" in w.variant for w in workers) else set()
    return {n: environment.version(n) for n in sorted(names) if importlib.util.find_spec(n)}


def main(config: Config) -> None:
    """Measures and prints, or writes the page of the stored records."""
    from . import bandits, curves, device_page, page

    if config.workload == ("bandits",):
        from_records = config.output.from_records
        record = records.stored(bandits.NAME) if from_records else bandits.run(config)
        bandits.show(record, config.output.folder("speed"))
        return
    known = ", ".join((*problems.PROBLEMS, "bandits (alone)"))
    unknown = [name for name in config.workload if name not in problems.PROBLEMS]
    if unknown:
        raise UserError(f"no workload {unknown[0]!r}; the known ones are {known}")
    if min(config.steps) < 1:
        raise UserError("inner steps must be 1 or more; give --steps 1 5")
    if config.output.from_records:
        cards = records.all_stored("speed-card*").values()
        print(f"wrote {page.write(map(device_page.markdown, cards))}")
        if records.path_of(curves.NAME).is_file():
            curves.main(curves.Config(output=Stored(from_records=True)))
        return
    if config.device == "gpu":
        device_page.show(run_on_card(config))
        return
    for name in config.workload or ("W1", "W2", "W3"):
        for num_steps in config.steps:
            page.show(run_one(config, name, num_steps))


if __name__ == "__main__":
    command.cli(main, Config)
