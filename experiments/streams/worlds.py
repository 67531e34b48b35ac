"""Four worlds that drift, or do not, with a tracker that no learner can beat."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models.towers import vector_linear
from metajax.online import drift, scores
from metajax.online.drift import DriftStream, Stream
from metajax.results import ledger, records
from metajax.training import progress
from metajax.types import Episode

from . import task_arms
from .play import Player, best_rate
from .task_arms import Sizes

WORLDS = {
    "still": {},
    "walk": {"walk": 0.05},
    "jumps": {"jump": 0.01},
    "walk and jumps": {"walk": 0.05, "jump": 0.01},
}
LAST, EARLY, JUMP = "last 100", "first 50", "excess after a jump"
AFTER = 40
"""Tasks after a jump that its regret is counted over."""
OFFLINE = "offline, all tasks before"
TUNING, TESTING = 100, 0
"""The first numbers of the streams that choose rates, and of those that are tested."""


def world_of(name: str, calm: int) -> DriftStream:
    """A world by name."""
    return DriftStream(calm=calm, **WORLDS[name])


def drawn(world: DriftStream, first: int, count: int, num_tasks: int) -> Stream:
    """Streams (count, ...) of a world, numbered from ``first`` on."""
    keys = jax.vmap(jax.random.key)(jnp.arange(first, first + count))
    return jax.jit(jax.vmap(lambda key: world.stream(key, num_tasks)))(keys)


def at(tree: Any, index: int) -> Any:
    """One of many."""
    return jax.tree.map(lambda x: x[index], tree)


def tasks_of(stream: Stream) -> Episode:
    """The tasks (T, ...) of one stream."""
    return jax.tree.map(lambda x: x[:, 0], stream.rounds.told.tasks)


def error(stream: Stream, answers: np.ndarray) -> np.ndarray:
    """The mean squared error (T,) of each task."""
    label = np.asarray(stream.rounds.label)
    return ((answers.reshape(label.shape) - label) ** 2).mean(axis=(1, 2))


class Bench:
    """The arms, compiled once for all worlds and streams.

    Args:
      calm: tasks of the warm-up; later: those of the test.
    """

    def __init__(self, sizes: Sizes, calm: int, later: int, train_steps: int, devices: int = 1):
        self.calm, self.later, self.steps = calm, later, train_steps
        self.sizes = sizes
        self.learners = task_arms.learners(vector_linear(), sizes)
        self.arms = task_arms.arms(self.learners, sizes)
        self.players: dict[str, Player] = {}
        self.trainers = {
            kind: task_arms.Trainer(learner, train_steps, 16, devices)
            for kind, learner in self.learners.items()
        }

    def player(self, name: str, task: Episode) -> Player:
        """The player of an arm."""
        if name not in self.players:
            arm = self.arms[name]
            make = task_arms.online(arm, self.learners[arm.kind], task)
            self.players[name] = Player(name, make, self.later)
        return self.players[name]

    def starts(self, stream: Stream) -> dict[str, Any]:
        """What the calm beginning of a stream teaches each learner."""
        tasks = jax.tree.map(lambda x: x[: self.calm], tasks_of(stream))
        return {kind: train(tasks, self.calm, 0) for kind, train in self.trainers.items()}

    def errors(self, name: str, stream: Stream, starts: dict, rate: float, inner: float):
        """Errors (T,) of the tasks behind the calm ones, the final state, and seconds."""
        task = at(tasks_of(stream), 0)
        arm, start = self.arms[name], starts[self.arms[name].kind]
        if name == task_arms.SCRATCH:
            start = self.learners[arm.kind].init(jax.random.key(0), task)
        if arm.kind == task_arms.JOINT:
            start = task_arms.inner_rate(start, inner)
        later = jax.tree.map(lambda x: x[self.calm :], stream.rounds)
        played = self.player(name, task)(rate, start, later)
        return error(stream._replace(rounds=later), played.scores), played

    def offline(self, stream: Stream) -> np.ndarray:
        """Errors of the last hundred tasks after offline training on all before them."""
        tasks = tasks_of(stream)
        before = len(tasks.query.label) - 100
        known = jax.tree.map(lambda x: x[:before], tasks)
        start = self.trainers[task_arms.META](known, before, 0)
        late = jax.tree.map(lambda x: x[-self.later :], stream.rounds)
        played = self.player(task_arms.FROZEN, at(tasks, 0))(0.0, start, late)
        return error(stream._replace(rounds=late), played.scores)[-100:]


@functools.cache
def tracking(world: DriftStream) -> Player:
    """The player of the tracker of worlds like this one; how it drifts and its noise are given."""

    def make(rate: jax.Array, drifts: tuple) -> Any:
        del rate
        walk, jump, sigma = drifts
        return drift.tracker(dataclasses.replace(world, walk=walk, jump=jump, sigma=sigma), 32)

    return Player(task_arms.BEST, make, 64)


def tracked(world: DriftStream, stream: Stream) -> np.ndarray:
    """Errors (T,) of the Bayes tracker behind the calm tasks, which it has met too."""
    drifts = tuple(map(jnp.asarray, (world.walk, world.jump, world.sigma)))
    alike = dataclasses.replace(world, walk=0.0, jump=0.0, sigma=1.0)
    return error(stream, tracking(alike)(0.0, drifts, stream.rounds).scores)[world.calm :]


def tuned(bench: Bench, world: DriftStream) -> tuple[dict[str, float], float, dict[str, Any]]:
    """The rate of each arm and of fine-tuning, on two streams that are not tested."""
    streams = drawn(world, TUNING, 2, bench.calm + bench.later)
    some = [(at(streams, i), bench.starts(at(streams, i))) for i in range(2)]
    found: dict[str, float] = {}
    told: dict[str, Any] = {}

    def loss(name: str, rate: float, inner: float) -> float:
        return float(np.mean([bench.errors(name, *one, rate, inner)[0] for one in some]))

    inner, _ = best_rate(
        (0.01, 0.03, 0.1, 0.3), lambda r: loss(task_arms.PLAIN_FROZEN, 0.0, r)
    )  # fmt: skip
    for name, arm in bench.arms.items():
        chosen, tried = best_rate(arm.rates, lambda r, n=name: loss(n, r, inner))
        found[name], told[name] = chosen, {"rate": chosen, "valid_mse": tried}
    return found, inner, told


def _settings(
    config: Any,
    sizes: Sizes,
    names: Sequence[str],
    chosen: Mapping[str, tuple],
    seconds: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """What the record says of each arm: gradients, milliseconds a task, the rate of each world."""
    played = len(WORLDS) * config.streams * config.world_tasks
    return {
        arm: {
            "gradients": task_arms.gradients(arm, sizes),
            "ms_per_task": 1e3 * seconds.get(arm, np.nan) / played,
            **{f"rate, {world}": chosen[world][0].get(arm) for world in WORLDS},
        }
        for arm in names
    }


def run(config: Any, sizes: Sizes) -> dict[str, Any]:
    """The parts of a record of the four worlds."""
    given = (config.train_steps, config.hardware.devices)
    bench = Bench(sizes, config.calm, config.world_tasks, *given)
    chosen = {}
    for name in WORLDS:
        chosen[name] = tuned(bench, world_of(name, config.calm))
        progress.say(f"{name}: rates chosen")
    tests = ledger.checksum("drift", config.streams, config.world_tasks, config.calm)
    rates = {name: told[0] for name, told in chosen.items()}
    opened = records.open_tests(config, rates, "online_meta", tests)
    kept: dict[records.Key, np.ndarray] = {}
    curves, recovers, seconds, size = {}, {}, {}, {}
    for name in WORLDS:
        world = world_of(name, config.calm)
        streams = drawn(world, TESTING, config.streams, config.calm + config.world_tasks)
        rate, inner, _ = chosen[name]
        each: dict[str, list[np.ndarray]] = {}
        for i in range(config.streams):
            stream = at(streams, i)
            starts = bench.starts(stream)
            for arm in bench.arms:
                errors, played = bench.errors(arm, stream, starts, rate[arm], inner)
                each.setdefault(arm, []).append(errors)
                seconds[arm] = seconds.get(arm, 0.0) + played.seconds
                size[arm] = task_arms.size_of(played.state)
            each.setdefault(task_arms.BEST, []).append(tracked(world, stream))
            if name == "still":
                each.setdefault(OFFLINE, []).append(bench.offline(stream))
        jumps = np.asarray(streams.jumped)[:, config.calm :]
        curves[name], recovers[name] = {}, {}
        for arm, rows in each.items():
            table = np.stack(rows)
            put = lambda part, values, n=name, a=arm: kept.update(
                {records.Key(n, a, part, "mse"): values.mean(axis=1)[None]}
            )
            put(LAST, table[:, -100:])
            if arm != OFFLINE:
                put(records.ALL, table)
                put(EARLY, table[:, :50])
                curves[name][arm] = scores.over_time(table.mean(axis=0), 50).tolist()
                excess = table - np.stack(each[task_arms.BEST])
                after = [
                    scores.recovery(row, when, AFTER)
                    for row, when in zip(excess, jumps, strict=True)
                ]
                kept[records.Key(name, arm, JUMP, "mse")] = np.mean(after, axis=1)[None]
                recovers[name][arm] = np.round(np.nanmean(after, axis=0), 4).tolist()
            progress.say(f"{name}: {arm} {table.mean():.4f}")
    names = [*bench.arms, task_arms.BEST, OFFLINE]
    settings = _settings(config, sizes, names, chosen, seconds)
    roles = {arm: task_arms.ROLES.get(arm, records.METHOD) for arm in names}
    return {
        "arms": records.arms_of(
            names, roles=roles | {OFFLINE: records.BASELINE}, settings=settings, bytes_per_task=size
        ),
        "scores": kept, "opened": opened,
        "extra": {"curves": curves, "recovery": recovers, "worlds": list(WORLDS)},
    }  # fmt: skip
