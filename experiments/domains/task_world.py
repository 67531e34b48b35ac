"""The world of multi_task: two tasks as alike as one wishes, and a random second task."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.worlds.correlated import CorrelatedTasks, labeled
from metajax.models import experts
from metajax.optim import balance
from metajax.results import intervals, ledger, plots, records, tables
from metajax.training import journal, loop, progress
from metajax.training.devices import on_devices, split_by_compiler
from metajax.training.updates import optimizer
from metajax.types import Params

from .task_arms import (
    BOTTOM,
    EXPERTS,
    FREED,
    FROZEN,
    MANY,
    NAME,
    ONE,
    PLE,
    SURE,
    TOWER,
    WIDTH,
    Arm,
)

RHOS = (0.0, 0.5, 1.0)
RANDOM = "second task random"


def made() -> dict[str, Arm]:
    """The arms, of about as many parameters each."""
    gates = lambda **how: experts.mixture(2, EXPERTS, WIDTH, TOWER, **how)
    return {
        BOTTOM: Arm(experts.shared_bottom(2, EXPERTS * WIDTH, TOWER)),
        ONE: Arm(gates(one_gate=True)),
        MANY: Arm(gates()),
        PLE: Arm(experts.progressive(2, 2, 1, WIDTH, TOWER)),
        FROZEN: Arm(gates(frozen=True)),
        SURE: Arm(gates(), "uncertainty"),
        FREED: Arm(gates(), "pcgrad"),
    }


def recipe(arm: Arm, rate: Any) -> loop.Recipe:
    """How an arm is trained on a batch (x (N, D), labels (N, 2)), at a rate or a schedule of it."""

    def init(key: jax.Array, batch: Any) -> Params:
        return {"model": arm.model.init(key, (), batch[0]), "log_variance": jnp.zeros(2)}

    def of_tasks(params: Params, batch: Any) -> jax.Array:
        x, label = batch
        return jnp.mean((arm.model.apply(params["model"], (), x) - label) ** 2, axis=0)

    def gradient(params: Params, batch: Any, key: jax.Array):
        if arm.way == "pcgrad":
            return jax.jacrev(of_tasks)(params, batch), {"loss": of_tasks(params, batch).mean()}

        def loss(params: Params) -> jax.Array:
            value = of_tasks(params, batch)
            sure = arm.way == "uncertainty"
            return balance.by_uncertainty(value, params["log_variance"]) if sure else value.mean()

        value, slope = jax.value_and_grad(loss)(params)
        return slope, {"loss": value}

    tx = optax.adam(rate)
    tx = optax.chain(balance.pcgrad(), tx) if arm.way == "pcgrad" else tx
    return loop.Recipe(init, gradient, optimizer(tx))


def drawn(data: Any, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Rows of the world in ``data``; its second task's labels are dealt at random if it says so."""
    world = CorrelatedTasks()
    key_rows, key_deal = jax.random.split(key)
    told = {"waves": world.waves, "noise": world.noise, "seed": world.seed}
    x, label = labeled(data["weights"], key_rows, count, **told)
    dealt = jax.random.permutation(key_deal, label[:, 1])
    second = jnp.where(data["random"] > 0, dealt, label[:, 1])
    return x, jnp.stack([label[:, 0], second], axis=1)


def worlds() -> dict[str, dict[str, jax.Array]]:
    """Scenario -> what its rows are drawn with."""
    of = lambda rho, random: {
        "weights": CorrelatedTasks(rho=rho).weights,
        "random": jnp.asarray(random),
    }
    return {f"rho {rho:g}": of(rho, 0.0) for rho in RHOS} | {RANDOM: of(0.5, 1.0)}


def measured(config: Any) -> records.Record:
    """Trains every arm in every world, judges it and writes the record."""
    began, arms, found, places, rate = time.perf_counter(), made(), {}, worlds(), config.rate
    if config.plateau:
        arms = {name: arms[name] for name in (BOTTOM, ONE, MANY, PLE, FROZEN)}
        places = {name: places[name] for name in ("rho 0.5", "rho 1")}
        rate = optax.cosine_decay_schedule(rate, config.num_steps)
    keys = jax.random.split(jax.random.key(0), config.seeds)
    sample = lambda data, key: drawn(data, key, config.batch)
    with progress.bar("multi_task", len(arms) * len(places)) as update:
        for name, arm in arms.items():
            for scenario, world in places.items():
                how = on_devices(config.hardware.devices, recipe(arm, rate), split_by_compiler)
                given = (how, sample, world, keys, config.num_steps)
                found[scenario, name] = loop.fit(*given, block=200).params["model"]
                update(len(found), {})
            progress.say(f"{name}: trained")
    key = jax.random.key(99)
    chosen = {"rate": config.rate, "experts": EXPERTS, "width": WIDTH, "tower": TOWER}
    tests = ledger.checksum(NAME, key, config.test_rows)
    opened = records.open_tests(config, chosen, NAME, tests)
    scores = {}
    for (scenario, name), params in found.items():
        x, label = drawn(places[scenario], key, config.test_rows)
        predict = jax.jit(jax.vmap(lambda p, a=arms[name], x=x: a.model.apply(p, (), x)))
        error = np.asarray(((predict(params) - label[None]) ** 2).mean(axis=1))
        variance = np.asarray(label.var(axis=0))
        scores[records.Key(scenario, name, records.ALL, "first")] = error[None, :, 0] / variance[0]
        mean = (error / variance[None]).mean(axis=1)
        scores[records.Key(scenario, name, records.ALL, "both")] = mean[None]
    one = lambda name: jax.tree.map(lambda x: x[0], found["rho 1", name])
    size = {k: {"parameters": sum(x.size for x in jax.tree.leaves(one(k)))} for k in arms}
    name = f"{NAME}-plateau" if config.plateau else NAME
    roles = {BOTTOM: records.BASELINE, ONE: records.BASELINE, FROZEN: records.CONTROL}
    record = records.made(
        NAME, config, records.arms_of(arms, roles=roles, settings=size), scores,
        opened=(opened,), seconds={"total": time.perf_counter() - began},
        peak_memory=journal.peak_memory(), extra={"scenarios": list(places)},
    )  # fmt: skip
    records.write(config.output.folder(name), name, record, config.output.publish)
    return record


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints a table of each world, and saves the error over rho."""
    for scenario in record.extra["scenarios"]:
        metric = "first" if scenario == RANDOM else "both"
        get = lambda arm, s=scenario, m=metric: record.of(s, arm, records.ALL, m)
        what = "of the first task" if metric == "first" else "mean of both tasks"
        heads = ("arm", "error", f"minus {BOTTOM}", f"minus {ONE}", f"minus {MANY}", "parameters")
        rows = []
        for arm in record.arms:
            mean = intervals.mean_interval(intervals.mean_of_seeds(get(arm.name)))
            gaps = [
                "" if arm.name == other else f"{records.difference(get(arm.name), get(other)):+.4f}"
                for other in (BOTTOM, ONE, MANY)
            ]
            rows.append([arm.name, f"{mean:.4f}", *gaps, f"{arm.settings['parameters']:,}"])
        title = f"{scenario}: share of variance not explained, {what}"
        tables.terminal(tables.Grid(title, heads, rows))
    if RANDOM in record.extra["scenarios"]:
        tables.terminal(cost(record))
    seeds = record.config["seeds"]
    print(f"Intervals are over {seeds} training seeds, paired; all arms see the same rows.")
    picture(record, folder / "rho.png")
    print(f"plot   {folder}/rho.png")


def cost(record: records.Record) -> tables.Grid:
    """What a random second task costs the first, against the second task of rho 0.5."""
    rows = []
    for arm in record.arms:
        get = lambda scenario, a=arm.name: record.of(scenario, a, records.ALL, "first")
        gap = records.difference(get(RANDOM), get("rho 0.5"))
        rows.append([arm.name, f"{gap:+.4f}"])
    title = "first task: with a random second task, minus with the one of rho 0.5"
    return tables.Grid(title, ["arm", "difference"], rows)


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error of each arm over how alike the tasks are."""
    rhos = [rho for rho in RHOS if f"rho {rho:g}" in record.extra["scenarios"]]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(record.arms):
            rows = [
                intervals.mean_interval(record.of(f"rho {r:g}", arm.name, records.ALL, "both")[0])
                for r in rhos
            ]
            plots.banded(axes, i, rhos, rows, arm.name)
        plots.finish(
            axes,
            "rho, the cosine of the tasks' weights",
            "variance not explained",
            len(record.arms),
        )
