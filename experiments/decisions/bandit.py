"""Regret against rounds for new users: a meta-learned prior against policies that start flat.

A new user is shown one item a round, and says what they think of it. On `ClickUsers` the best item
is known; on jester5k every reward is the rating that a real person gave, each joke once; on sushi10
a person is shown two kinds, and the policy learns only which one they choose. The prior is learned
from past users (hierarchical Bayes by EM); so are the popularity of items, the factors that the
flat priors have as features, and the network of neural-linear. All arms have equally many trials on
validation users. Controls: rewards shuffled within a user, the next user's rewards,
no exploration, and no learning.

References: Kveton et al., "Meta-Thompson sampling", ICML 2021; Li et al., WWW 2010 (LinUCB);
Riquelme et al., ICLR 2018 (neural-linear).
Run: python -m experiments bandit
     python -m experiments bandit --world sushi10     slates, and what is learned from choices
     python -m experiments bandit --from-records prints the stored tables.
Published: none.
Deviates: full covariance of the prior by EM, not a conjugate hyper-prior; widths are tuned.
"""

import dataclasses
import pathlib
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.decide import wrappers
from metajax.decide.environment import Environment, play
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress
from metajax.types import PyTree, UserError

from . import show, sushi
from .arms import Arm, arms, best
from .worlds import World, clicks, jokes

NAME = "bandit"
FIRST = (5, 10, 20, 50)
"""Rounds that rewards are averaged over."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data_dir: pathlib.Path | None = None
    """Folder of jester5k's folder; by default METAJAX_DATA."""
    world: str = "both"
    """clicks, jester5k, or both; or sushi10, whose slates have a record of their own."""
    seeds: Positive = 5
    """Past users, networks, factors and keys are drawn anew for each."""
    people: Positive = 700
    """New users of the test, and as many of the validation."""
    past: Positive = 1_000
    """Past users of the click world."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 1, "people": 60, "past": 200},
        "gpu": {"seeds": 20},
    }


def changed(environment: Environment, control: str) -> Environment:
    """The environment with what a control does to its rewards."""
    if control == "shuffled":
        return wrappers.shuffled(environment)
    return wrappers.of_others(environment) if control == "others" else environment


class Player:
    """An arm in a world, compiled once; users, tables and knobs are its arguments."""

    def __init__(self, world: World, arm: Arm):
        environment = (world.controlled or changed)(world.environment, arm.control)

        def one(tables: Any, knobs: jax.Array, user: PyTree, other: PyTree, key: jax.Array):
            policy = arm.make(tables, knobs, world.truth(user))
            params = (user, other) if arm.control == "others" else user
            log = play(environment, policy, params, key, FIRST[-1])
            return log.info["expected"] * log.mask

        self.run = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0, 0)))

    def __call__(self, tables: Any, knobs: tuple, users: PyTree, seed: int) -> np.ndarray:
        """Expected rewards (U, T) of the rounds."""
        count = jax.tree.leaves(users)[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(5), seed), count)
        others = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), users)
        return np.asarray(self.run(tables, jnp.asarray(knobs), users, others, keys))


def averaged(rewards: np.ndarray) -> np.ndarray:
    """The mean rewards (len(FIRST), U) of a round among the first 5, 10, ... of (U, T)."""
    return np.stack([rewards[:, :n].mean(axis=1) for n in FIRST])


def arms_of(world: World) -> dict[str, Arm]:
    """The policies that are compared in a world."""
    return (world.arms or arms)()


def tuned(world: World, players: dict[str, Player], tables: Any) -> dict[str, dict[str, Any]]:
    """The knobs of each arm: those of the highest reward, averaged over 5, 10, 20, 50 rounds."""
    told: dict[str, dict[str, Any]] = {}
    every = arms_of(world)
    total = sum(len(arm.trials) for arm in every.values())
    with progress.bar(f"tuning {world.name}", total) as update:
        done = 0
        for name, arm in every.items():
            if arm.like:
                continue
            scores = []
            for knobs in arm.trials if len(arm.trials) > 1 else ():
                scores.append(float(averaged(players[name](tables, knobs, world.valid, 99)).mean()))
                done += 1
                update(done, {"reward": scores[-1]})
            knobs = best(arm.trials, scores) if scores else arm.trials[0]
            told[name] = {"precision": knobs[0], "exploration": knobs[1], "trials": len(scores)}
    return told | {name: told[arm.like] for name, arm in every.items() if arm.like}


def tested(
    world: World,
    players: dict[str, Player],
    chosen: dict[str, dict[str, Any]],
    tables: list[Any],
) -> tuple[dict[records.Key, np.ndarray], dict[str, Any]]:
    """Scores of every arm, seeds averaged, and curves and the means of each seed for ``extra``."""
    kept: dict[records.Key, np.ndarray] = {}
    curves: dict[str, list[float]] = {}
    seeds: dict[str, list[list[float]]] = {}
    with progress.bar(f"test {world.name}", len(players)) as update:
        for done, (name, player) in enumerate(players.items()):
            knobs = (chosen[name]["precision"], chosen[name]["exploration"])
            rewards = np.stack([player(t, knobs, world.test, s) for s, t in enumerate(tables)])
            first = np.stack([averaged(r) for r in rewards])  # (S, len(FIRST), U)
            for n, values in zip(FIRST, first.mean(axis=0), strict=True):
                kept[records.Key(world.name, name, f"first {n}", "reward")] = values[None]
            curves[name] = np.round(rewards.mean(axis=(0, 1)), 4).tolist()
            seeds[name] = np.round(first.mean(axis=2), 4).tolist()
            update(done + 1, {"reward": float(rewards.mean())})
    return kept, {"curves": curves, "seeds": seeds, "unit": world.unit}


def worlds(config: Config) -> list[World]:
    """The worlds that are asked for; refuses what cannot be, before anything is trained."""
    if config.world not in ("both", "clicks", "jester5k", sushi.NAME):
        raise UserError(f"no world {config.world!r}: clicks, jester5k, both, or sushi10")
    if config.world == sushi.NAME:
        if config.people > 1_500:
            raise UserError(f"{config.people} people of sushi10: 5,000 are known; give <= 1500")
        return [sushi.world(config.data_dir, config.people, FIRST[-1])]
    found, devices = [], config.hardware.devices
    if config.world != "clicks":
        if config.people > 700:
            raise UserError(
                f"{config.people} people of jester5k: 1,473 have rated all; give <= 700"
            )
        found.append(jokes(config.data_dir, config.people, FIRST[-1], devices))
    if config.world != "jester5k":
        found.insert(0, clicks(config.past, 30, config.people, FIRST[-1], devices))
    return found


def measured(config: Config) -> records.Record:
    """Runs every arm in the worlds; writes the record."""
    began = time.perf_counter()
    found = worlds(config)
    ready: list[tuple[World, dict[str, Player], dict[str, Any], list[Any]]] = []
    for world in found:
        players = {name: Player(world, arm) for name, arm in arms_of(world).items()}
        tables = [world.learn(seed) for seed in range(config.seeds)]
        ready.append((world, players, tuned(world, players, tables[0]), tables))
        progress.say(f"{world.name}: settings chosen")
    choices = {world.name: chosen for world, _, chosen, _ in ready}
    name = name_of(config)
    tests = ledger.checksum(name, [world.test for world in found], config.seeds)
    opened = records.open_tests(config, choices, NAME, tests)
    kept: dict[records.Key, np.ndarray] = {}
    extra: dict[str, Any] = {}
    for world, players, chosen, tables in ready:
        scores, extra[world.name] = tested(world, players, chosen, tables)
        kept |= scores
    every = arms_of(found[0])
    settings = {
        name: {f"{part}, {world}": value for world, told in choices.items()
               for part, value in told[name].items()}
        for name in every
    }  # fmt: skip
    return benchmark.kept(
        name, NAME, config,
        records.arms_of(every, roles={n: a.role for n, a in every.items()}, settings=settings),
        kept, began=began, opened=(opened,), extra={"worlds": extra, "first": FIRST},
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record."""
    return f"{NAME}-{sushi.NAME}" if config.world == sushi.NAME else NAME


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(name_of(config), config, measured, show.bandit)


if __name__ == "__main__":
    benchmark.cli(main, Config)
