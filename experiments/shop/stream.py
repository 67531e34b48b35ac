"""Fifty million events from disk: does training lose speed when its log is not in memory?

A shop's log is generated in pieces, written as blocks of people, and a ridge head over a table of
a million items is trained on it twice, in turns: with the whole log on the device, and with one
block there at a time, the next being read by threads meanwhile. Then one whole pass is streamed.

With --in-time the same log is also played in order of time, from disk, by a factorization that
predicts each event before it learns from it; nothing but the log is kept of the past.

Run: python -m experiments stream                  (some minutes; 0.5 GB on disk, twice)
     python -m experiments stream --in-time        (0.6 GB more)
     python -m experiments stream --preset quick
     python -m experiments stream --from-records prints the stored table.
Published: none; the bar is no loss of step speed.
Deviates: the disk's cache may hold what was just written, so that the reading is that of a warm
disk; the log is 0.25 GB in compressed rows, a hundredth of what would not fit.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metajax import benchmark
from metajax.data.histories import log as rows
from metajax.data.histories import stream
from metajax.data.worlds import commerce, shop
from metajax.online import disk
from metajax.online.factorization import factorization, random_tables
from metajax.online.rows import adagrad
from metajax.results import records
from metajax.settings import Output, Positive, Presets, replace
from metajax.training import loop, progress

from ..large import report as large_report
from .ecommerce import parts, runs

RESIDENT, STREAMED = "log on the device", "streamed in blocks"
STEPS = 50
"""Outer steps of a call."""
WALL, PROCESSOR = "wall ms a step", "processor ms a step"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    num_users: Positive = 1_430_000
    """Users; each has 35 events on average."""
    num_items: Positive = 1_000_000
    """Items of the shop, and rows of the table that is trained."""
    batch: Positive = 256
    """Tasks per step."""
    rounds: Positive = 12
    """Timed calls of each way, 50 steps each, in turns."""
    seed: int = 0
    """Seed of shop, order and training."""
    in_time: bool = False
    """Play the log in order of time too, predicting first and learning then."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"num_users": 40_000, "num_items": 20_000, "rounds": 3},
        "gpu": {"batch": 4_096},
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the work returns, with its wall and processor seconds."""
    began, used = time.perf_counter(), time.process_time()
    made = jax.block_until_ready(work())
    return made, time.perf_counter() - began, time.process_time() - used


class Trainer:
    """Training that goes on over logs of the shape of the first, fifty steps a call."""

    def __init__(self, config: Config, content: jax.Array, count: jax.Array, log: rows.Log):
        sizes, self.about = parts.Sizes(), (content, count)
        plan = runs.adapted(parts.newton(sizes), config.num_items, content.shape[1], sizes)
        recipe, sample = runs.recipe(plan, 3e-3, 10**6), runs.sampler(plan, config.batch, sizes)
        self.advance = jax.jit(loop.steps(recipe, sample, STEPS), donate_argnums=0)
        key = jax.random.key(config.seed)
        self.state = loop.init(recipe, key, sample(runs.Data(log, *self.about), key))

    def take(self, log: rows.Log) -> float:
        """The mean loss of the next fifty steps."""
        self.state, info = self.advance(self.state, runs.Data(log, *self.about))
        return float(info["loss"].mean())


def written(config: Config, folder: pathlib.Path) -> tuple[shop.Shop, stream.Blocks, dict]:
    """The shop and its blocks, and how long each took to make; 0 where they were there."""
    world = commerce.World(config.num_users, config.num_items, seed=config.seed)
    name = f"{config.num_users}x{config.num_items}-{config.seed}"
    made, generated, _ = timed(lambda: shop.generate(world, folder / "shop" / name, _told))
    place = folder / "blocks" / f"{name}-{config.batch}"
    log, seconds = rows.Log(made.offsets, made.item, made.label), 0.0
    if not (place / stream.MANIFEST).is_file():
        people = STEPS * config.batch
        _, seconds, _ = timed(lambda: stream.write(log, place, people))
    return made, stream.Blocks(place), {"generate": generated, "write": seconds}


def _told(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        progress.say(f"shop: piece {done} of {total}")


def run(config: Config) -> records.Record:
    """Generates, writes, times both ways in turns, streams one pass; writes the record."""
    folder = config.output.folder("stream")
    config = replace(config, out=folder)
    made, blocks, seconds = written(config, folder)
    content = jnp.asarray(np.asarray(made.content))
    whole = rows.Log.of(made.offsets, made.item, made.label)
    count = jnp.zeros(config.num_items).at[whole.items].add(1.0)
    firsts = {RESIDENT: whole, STREAMED: blocks.block(0)}
    trainers = {arm: Trainer(config, content, count, log) for arm, log in firsts.items()}
    _, seconds["read"], _ = timed(lambda: [b.items[:1] for b in blocks.read(config.seed, 0)])
    for arm, log in firsts.items():
        trainers[arm].take(log)
    found = {(arm, unit): [] for arm in trainers for unit in (WALL, PROCESSOR)}
    passing = _forever(blocks, config.seed)
    for _ in range(config.rounds):
        for arm, log in ((RESIDENT, lambda: whole), (STREAMED, lambda: next(passing))):
            _, wall, processor = timed(lambda arm=arm, log=log: trainers[arm].take(log()))
            found[arm, WALL].append(1e3 * wall / STEPS)
            found[arm, PROCESSOR].append(1e3 * processor / STEPS)
    passing.close()
    streamed = lambda: [trainers[STREAMED].take(b) for b in blocks.read(config.seed, 1)]
    losses, seconds["pass"], seconds["pass, processor"] = timed(streamed)
    scores = {
        records.Key("stream", arm, f"{STEPS} steps", unit): np.array([values])
        for (arm, unit), values in found.items()
    }
    facts = {
        "users": config.num_users,
        "items": config.num_items,
        "events": len(made.item),
        "blocks": len(blocks),
        "people_per_block": blocks.people,
        "digest": made.digest,
        "loss": [losses[0], losses[-1]],
    }
    if config.in_time:
        facts["in_time"] = in_time(config, made, folder)
    name = f"stream-{config.output.preset}"
    arms = list(trainers)
    return large_report.written(
        name, "stream", "stream", arms, config, scores, seconds, opened=(), extra={"data": facts}
    )


def in_time(config: Config, made: shop.Shop, folder: pathlib.Path) -> dict[str, float]:
    """What it takes to play the log in time from disk, and the error of its parts.

    Users begin at times drawn evenly and meet their items evenly in the time behind; an event is
    predicted up to 256 events before it is learned from.
    """
    name = f"{config.num_users}x{config.num_items}-{config.seed}"
    place, offsets = folder / "timeline" / name, np.asarray(made.offsets)
    if not (place / disk.MANIFEST).is_file():
        begins = np.random.default_rng(config.seed).random(config.num_users, np.float32)
        user = np.repeat(np.arange(config.num_users, dtype=np.int32), np.diff(offsets))
        share = (np.arange(len(user)) - offsets[user]) / np.diff(offsets)[user]
        time_of = (begins[user] + (1 - begins[user]) * share).astype(np.float32)
        order = np.argsort(time_of, kind="stable")
        pieces = np.array_split(order, max(len(order) // 1_000_000, 1))
        column = lambda p: disk.Columns(user[p], made.item[p], made.label[p], time_of[p])
        disk.write((column(p) for p in pieces), place)
    blocks = disk.Blocks(place, 256, 1_024)
    mean = float(np.mean(made.label, dtype=np.float64))
    tables = random_tables(jax.random.key(config.seed), config.num_users, config.num_items, 8)
    online = factorization(adagrad(0.05, 0.1), tables, mean)
    error = lambda scores, label, mask: jnp.sum((scores - label) ** 2 * mask)
    found: list[float] = []
    keep = lambda number, errors: found.append(float(errors.sum()))
    _, wall, processor = timed(lambda: disk.run(online, blocks.read, keep, record=error))
    each = 256 * 1_024
    first, last = max(len(found) // 10, 1), len(made.item) - each * (len(found) - 1)
    return {
        "seconds": wall, "processor seconds": processor,
        "events": len(made.item), "variance": mean * (1 - mean),
        "first tenth": sum(found[:first]) / (min(each * first, len(made.item))),
        "last tenth": sum(found[-first:]) / (each * (first - 1) + last),
    }  # fmt: skip


def _forever(blocks: stream.Blocks, seed: int):
    """Pass after pass."""
    epoch = 0
    while True:
        yield from blocks.read(seed, epoch)
        epoch += 1


def show(record: records.Record) -> None:
    """Prints events and step times, and what streaming costs."""
    console, facts, seconds = Console(width=110), record.extra["data"], record.seconds
    events = facts["events"]
    told = f"{events:,} events of {facts['users']:,} users in {facts['blocks']} blocks"
    console.print(f"{told}; loss {facts['loss'][0]:.4f} to {facts['loss'][1]:.4f} in one pass")
    for name in ("generate", "write", "read", "pass"):
        if seconds[name] > 0:
            rate = events / seconds[name]
            console.print(f"{name}: {seconds[name]:.1f} s, {rate:,.0f} events/s")
    if told := facts.get("in_time"):
        rate = told["events"] / told["seconds"]
        errors = (
            f"{told['first tenth']:.4f} in the first tenth, {told['last tenth']:.4f} in the last"
        )
        console.print(f"in time: {rate:,.0f} events/s; squared error {errors}")
    for unit in (WALL, PROCESSOR):
        each = [record.of("stream", arm, f"{STEPS} steps", unit)[0] for arm in record.names()]
        ratio = np.median(each[1] / each[0])
        said = ", ".join(
            f"{arm} {np.median(values):.2f}"
            for arm, values in zip(record.names(), each, strict=True)
        )
        console.print(f"{unit}: {said}; streamed over resident {ratio:.3f} (median of pairs)")
    console.print(f"{record.peak_memory['host_mb'] / 1e3:.1f} GB at the most")


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, and its table."""
    name = f"stream-{config.output.preset}"
    record = records.stored(name) if config.output.from_records else run(config)
    show(record)
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config)
