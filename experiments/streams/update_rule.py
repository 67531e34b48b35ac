"""The rule theta <- theta - alpha (theta - theta_0): when does a pull to the baseline pay?

Parameters learn by one outer step for each task that ends, and are pulled towards the baseline that
a calm beginning has taught. With labels as noisy as the world's, or more, and nothing that drifts,
the pull should pay; after a jump it should cost, and a pull towards a random place of the same
norm should do no good anywhere. alpha = 1 puts the parameters back before each step. The fitness
F = L_new / L_baseline has three baselines beside it: what is good for it shows in which one is
chosen.

References: Li et al., ICML 2018 (L2-SP); Li et al., ICML 2021 (Ditto); the founding documents.
Run: python -m experiments update_rule
     python -m experiments update_rule --from-records prints the stored tables.
Published: none.
Deviates: the learner is linear, adapted by three gradient steps, in the worlds of online_meta.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, optim
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear
from metajax.online import anchor, scores, updaters
from metajax.online.drift import DriftStream
from metajax.online.meta import meta
from metajax.online.prequential import Online
from metajax.results import ledger, plots, records, tables
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress

from . import task_arms, worlds
from .play import Player
from .worlds import at, drawn, error, tasks_of, tracked

NAME = "update_rule"
ALPHAS = (0.0, 0.01, 0.1, 1.0)
BASELINE, RANDOM, ZERO, AVERAGE = (
    "baseline",
    "random anchor, alpha 0.01",
    "zeros",
    "average with the baseline, alpha 0.1",
)
NOISE = {"as the world's": 0.5, "four times the world's": 2.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """What the experiment can be told."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    streams: Positive = 20
    """Streams drawn of each world."""
    tasks: Positive = 400
    """Tasks of a stream behind its calm beginning."""
    calm: Positive = 1000
    """Tasks of that beginning, which teach the baseline."""
    train_steps: Positive = 2000
    """Outer steps of the baseline."""
    rate: float = 0.1
    """Of the outer steps, plain gradient descent."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"streams": 3, "tasks": 80, "calm": 50, "train_steps": 100},
        "gpu": {"streams": 500},
    }


def named(alpha: float) -> str:
    """The name of the arm with a pull."""
    return f"alpha {alpha:g}"


def makes(rate: float, task: Any) -> dict[str, Any]:
    """Arm -> (alpha, (baseline, anchor)) -> the learner, compiled once for all pulls."""
    learner = gradient(vector_linear(), optim.learned_rates(0.05), 3)

    def with_pull(pull: Any) -> Any:
        def make(alpha: jax.Array, given: tuple[Any, Any]) -> Online:
            start, place = given
            tx = optax.chain(optax.sgd(rate), pull(place, alpha))
            return meta(learner, updaters.newest(learner, tx), start, task)

        return make

    still = lambda alpha, given: meta(learner, updaters.frozen(), given[0], task)
    return {
        "pull": with_pull(anchor.decay_to),
        "average": with_pull(anchor.average_with),
        "frozen": still,
    }


def played(config: Config, name: str, sigma: float, tools: dict) -> dict[str, np.ndarray]:
    """Errors (S, T) of all arms in a world with such noise, and the place of jumps."""
    world: DriftStream = dataclasses.replace(
        worlds.world_of(name, config.calm), sigma=sigma, num_query=10
    )
    streams = drawn(world, 1_000, config.streams, config.calm + config.tasks)
    found: dict[str, list[np.ndarray]] = {}
    for i in range(config.streams):
        stream = at(streams, i)
        tasks = jax.tree.map(lambda x: x[: config.calm], tasks_of(stream))
        start = tools["train"](tasks, config.calm, 0)
        later = jax.tree.map(lambda x: x[config.calm :], stream.rounds)
        elsewhere = anchor.random_anchor(jax.random.key(i), start)
        nowhere = jax.tree.map(jnp.zeros_like, start)

        def play(kind: str, alpha: float, begin: Any, place: Any, later=later, stream=stream):
            answers = tools[kind](alpha, (begin, place), later).scores
            return error(stream._replace(rounds=later), answers)

        arms = {named(a): play("pull", a, start, start) for a in ALPHAS}
        arms |= {
            BASELINE: play("frozen", 0.0, start, start),
            RANDOM: play("pull", 0.01, start, elsewhere),
            ZERO: play("frozen", 0.0, nowhere, start),
            AVERAGE: play("average", 0.1, start, start),
            task_arms.BEST: tracked(world, stream),
        }
        for arm, values in arms.items():
            found.setdefault(arm, []).append(values)
    out = {arm: np.stack(rows) for arm, rows in found.items()}
    return out | {"jumped": np.asarray(streams.jumped)[:, config.calm :]}


def measured(config: Config) -> records.Record:
    """Runs every pull in every world and noise; writes the record."""
    began = time.perf_counter()
    tests = ledger.checksum(NAME, config.streams, config.tasks, config.calm)
    opened = records.open_tests(config, {"alphas": ALPHAS, "rate": config.rate}, NAME, tests)
    task = at(tasks_of(at(drawn(worlds.world_of("still", 1), 0, 1, 2), 0)), 0)
    learner = gradient(vector_linear(), optim.learned_rates(0.05), 3)
    made = makes(config.rate, task)
    tools: dict[str, Any] = {k: Player(k, make, config.tasks) for k, make in made.items()}
    tools["train"] = task_arms.Trainer(learner, config.train_steps, 16, config.hardware.devices)
    kept, recovers, arms = {}, {}, {}
    for noise, sigma in NOISE.items():
        for name in worlds.WORLDS:
            found, scenario = played(config, name, sigma, tools), f"{name}, noise {noise}"
            jumped = found.pop("jumped")
            recovers[scenario] = {}
            for arm, values in found.items():
                arms[arm] = None
                kept[records.Key(scenario, arm, records.ALL, "mse")] = values.mean(axis=1)[None]
                excess = values - found[task_arms.BEST]
                curve = scores.recovery(excess, jumped, worlds.AFTER)
                recovers[scenario][arm] = np.round(curve, 4).tolist()
            progress.say(f"{scenario}: {found[named(0.0)].mean():.3f} without a pull")
    control = dict.fromkeys((RANDOM, ZERO), records.CONTROL)
    roles = dict.fromkeys((BASELINE, task_arms.BEST), records.BASELINE) | control
    roles = dict.fromkeys(arms, records.METHOD) | roles
    return benchmark.kept(
        NAME, NAME, config, records.arms_of(arms, roles=roles), kept, began=began,
        opened=(opened,), extra={"recovery": recovers, "scenarios": list(recovers)},
    )  # fmt: skip


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints a table of each world and noise, and saves the recovery after jumps."""
    heads = ("arm", "all tasks", "minus alpha 0", "regret to the tracker")
    heads = (*heads, "F to the baseline", "share F<1", "F to zeros")
    for scenario in record.extra["scenarios"]:
        get = lambda arm, s=scenario: record.of(s, arm, records.ALL, "mse")
        title, rows = f"{scenario}: mean squared error of {get(BASELINE).size} streams", []
        for arm in record.arms:
            own = get(arm.name)
            gap = records.difference(own, get(named(0.0)))
            regret = records.difference(own, get(task_arms.BEST))
            fit = scores.fitness(own[0], get(BASELINE)[0])
            weak = scores.fitness(own[0], get(ZERO)[0])
            rows.append([
                arm.name, f"{own.mean():.3f}", "" if arm.name == named(0.0) else f"{gap:+.3f}",
                "" if arm.name == task_arms.BEST else f"{regret:+.3f}", f"{fit.geometric:.3f}",
                f"{fit.below:.2f}", f"{weak.geometric:.3f}",
            ])  # fmt: skip
        tables.terminal(tables.Grid(title, heads, rows))
    picture(record, folder / "alpha.png")
    recovery(record, folder / "recovery.png")


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves the regret over alpha, a line for each world, at the world's noise."""
    with plots.page(path, 2.9) as axes:
        for i, scenario in enumerate(record.extra["scenarios"]):
            best = record.of(scenario, task_arms.BEST, records.ALL, "mse")
            found = [
                records.difference(record.of(scenario, named(a), records.ALL, "mse"), best)
                for a in ALPHAS
            ]
            x = np.arange(len(ALPHAS))
            told = scenario.replace(", noise as the world's", "")
            told = told.replace("noise four times the world's", "noise x 4")
            axes.plot(x, [r.mean for r in found], label=told, **plots.look(i))
            low, high = [r.low for r in found], [r.high for r in found]
            axes.fill_between(x, low, high, color=plots.look(i)["color"], alpha=0.1, linewidth=0)
        axes.set_xticks(np.arange(len(ALPHAS)), [f"{a:g}" for a in ALPHAS])
        axes.set_xlabel("alpha, the pull to the baseline")
        axes.set_ylabel("regret to the Bayes tracker")
        axes.grid(alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(record.extra["scenarios"]))


def recovery(record: records.Record, path: pathlib.Path) -> None:
    """Saves the excess loss after a jump, a line for each pull."""
    curves = record.extra["recovery"]["jumps, noise as the world's"]
    shown = [*map(named, ALPHAS), AVERAGE, BASELINE]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(shown):
            values = np.convolve(curves[arm], np.ones(4) / 4, mode="valid")
            axes.plot(np.arange(len(values)), values, label=arm, markevery=6, **plots.look(i))
        axes.set_xlabel("tasks since a jump, means of four")
        axes.set_ylabel("excess over the tracker")
        axes.grid(alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(shown))


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(NAME, config, measured, report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
