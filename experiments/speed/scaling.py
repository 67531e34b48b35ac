"""One core against two: outer steps on one device, two devices of a process, two processes.

Users as in the third speed workload (256 features, a 64-64-1 head that adapts in one step, support
of 64, query of 10), 32 a device. Each way runs in processes of its own, pinned, all in turns; two
processes talk over the loopback (gloo). Beside the wall time stands the processor time, which a
busy machine hardly changes, and the bytes that a step sends, read from the compiled program.

Run: python -m experiments scaling
     python -m experiments scaling --from-records prints the stored table.
Published: none.
Deviates: the two cores share their memory and, on a busy machine, other work; the load is recorded.
"""

import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, tree
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.profiling import collectives
from metajax.results import records, tables
from metajax.settings import Positive, Stored, replace
from metajax.training import devices as shard
from metajax.training import loop, progress
from metajax.types import Episode, Examples, MetaLearner, UserError

from ..large import report as large_report

ONE, DEVICES, PROCESSES = "one device", "two devices of a process", "two processes"
WALL, PROCESSOR = "wall ms a step", "processor ms a step"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    tasks: Positive = 32
    """Tasks per device and step."""
    steps: Positive = 20
    """Steps of a measurement."""
    rounds: Positive = 5
    """Measurements of each run."""
    repeats: Positive = 2
    """Runs of each way, in turns."""
    output: Stored = Stored()
    worker: str = ""
    """Internal: the job of a process that this command starts."""


@functools.cache
def _learner() -> MetaLearner:
    return gradient(vector_mlp((64, 64)), optax.sgd(0.1), 1, adapts=tree.everything)


TX = optax.adam(1e-3)


def draw(num_tasks: int, key: jax.Array) -> Episode:
    """Users of 64 + 10 rows of 256 features."""
    x = jax.random.normal(key, (num_tasks, 74, 256)) / 16.0
    y = jnp.sin(x.sum(axis=-1))
    part = lambda a, b: Examples(x[:, a:b], y[:, a:b], jnp.ones((num_tasks, b - a)))
    return Episode((), part(0, 64), part(64, 74))


def work(told: dict) -> None:
    """Trains and prints the times of every measurement as JSON; the body of a started process."""
    if told["processes"] > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(told["address"], told["processes"], told["number"])
    mesh = shard.mesh()
    num_tasks = told["tasks"] * jax.device_count()
    sample = lambda data, key: draw(num_tasks, key)
    recipe = loop.recipe(_learner(), TX, shard.dealt(mesh, loop.outer_gradient(_learner(), 8)))
    many = loop.steps(recipe, sample, told["steps"])
    first = loop.init(recipe, jax.random.key(1), draw(1, jax.random.key(0)))
    state = shard.place(mesh, first)
    compiled = jax.jit(lambda state: many(state, ())[0]).lower(state).compile()
    state = jax.block_until_ready(compiled(state))
    found = []
    for _ in range(told["rounds"]):
        began, used = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(compiled(state))
        found.append((time.perf_counter() - began, time.process_time() - used))
    sent = collectives.collective_bytes(compiled.as_text() or "")
    size = sum(x.nbytes for x in jax.tree.leaves(state.params))
    print(json.dumps({"times": found, "sent": sent, "parameters": size}), flush=True)


def started(config: Config, cores: list[int], devices: int, **told: object) -> subprocess.Popen:
    """A process of so many devices on these cores."""
    told |= {"tasks": config.tasks, "steps": config.steps, "rounds": config.rounds}
    flags = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    place = dict(os.environ, JAX_NUM_CPU_DEVICES=str(devices), XLA_FLAGS=flags)
    command = [sys.executable, "-m", "experiments.speed.scaling", "--worker", json.dumps(told)]
    pin = lambda: os.sched_setaffinity(0, cores)
    return subprocess.Popen(
        command, env=place, stdout=subprocess.PIPE, text=True, preexec_fn=pin
    )  # fmt: skip


def measured(config: Config, way: str, cores: list[int]) -> dict:
    """Wall ms and processor ms a step (rounds,) of a way, all its processes together; its bytes."""
    if way == PROCESSES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        both = dict(processes=2, address=address)
        group = [started(config, [cores[i]], 1, number=i, **both) for i in range(2)]
    else:
        devices = 2 if way == DEVICES else 1
        group = [started(config, cores[:devices], devices, processes=1)]
    texts = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        raise UserError(f"{way}: a process failed; see what it said above")
    told = [json.loads(text.splitlines()[-1]) for text in texts]
    times = 1e3 * np.array([each["times"] for each in told]) / config.steps
    wall, processor = times[..., 0].max(axis=0), times[..., 1].sum(axis=0)
    return {"wall": wall, "processor": processor, **{k: told[0][k] for k in ("sent", "parameters")}}


def run(config: Config) -> records.Record:
    """Measures the three ways in turns; writes the record."""
    config = replace(config, out=config.output.folder("scaling"))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UserError("this process may use one core only; start it on two")
    began, found, load = time.perf_counter(), {}, []
    for _ in range(config.repeats):
        for way in (ONE, DEVICES, PROCESSES):
            load.append(os.getloadavg()[0])
            found.setdefault(way, []).append(measured(config, way, cores))
            progress.say(f"{way} {found[way][-1]}")
    scores = {
        records.Key("scaling", way, f"{config.tasks} tasks a device", unit): np.stack(
            [each[name] for each in made]
        )
        for way, made in found.items()
        for unit, name in ((WALL, "wall"), (PROCESSOR, "processor"))
    }
    facts = {"sent": {way: made[0]["sent"] for way, made in found.items()}, "load": load}
    facts["parameters"] = found[ONE][0]["parameters"]
    seconds = {"total": time.perf_counter() - began}
    return large_report.written(
        "scaling-two-cores",
        "scaling",
        "scaling",
        list(found),
        config,
        scores,
        seconds,
        opened=(),
        extra={"data": facts},
    )


def show(record: records.Record) -> None:
    """Prints tasks a second, efficiencies and bytes."""
    tasks, facts = record.config["tasks"], record.extra["data"]
    heads = ("way", "wall ms", "processor ms", "tasks/s", "of wall", "of processor", "bytes sent")
    best, rows = {}, []
    for way in record.names():
        of = lambda unit, way=way: record.of("scaling", way, f"{tasks} tasks a device", unit)
        best[way] = (float(of(WALL).min()), float(np.median(of(PROCESSOR))))
        count = 1 if way == ONE else 2
        wall, processor = best[way]
        rate, alone = 1e3 * count * tasks / wall, best[ONE]
        shares = f"{alone[0] / wall:.0%}", f"{count * alone[1] / processor:.0%}"
        sent = f"{sum(facts['sent'][way].values()):,}"
        rows.append([way, f"{wall:.2f}", f"{processor:.2f}", f"{rate:,.0f}", *shares, sent])
    load = ", ".join(f"{x:.1f}" for x in facts["load"])
    note = (
        "of wall, of processor: efficiency, one core's time over that of the way, per task and "
        f"core. {facts['parameters']:,} bytes of parameters. Load averages before the runs: {load}."
    )
    title = f"One core against two, {tasks} tasks per device"
    tables.terminal(tables.Grid(title, heads, rows, len(heads), [note]))


def main(config: Config) -> records.Record | None:
    """The record of the experiment, run or read, and its table."""
    if config.worker:
        work(json.loads(config.worker))
        return None
    record = records.stored("scaling-two-cores") if config.output.from_records else run(config)
    show(record)
    return record


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
