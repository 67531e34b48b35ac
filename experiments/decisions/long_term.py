"""Long-term satisfaction in ChocKale: DQN, SlateQ and actor-critic that look ahead, or do not.

People whose satisfaction remembers what they consumed are shown slates of two of five items. DQN
and SlateQ learn values with gamma .99, and with gamma 0: then only the next reward counts, and they
must lose, or the world has no long term. Beside them stand an actor-critic, random slates, and
slates of the least and of the most kale. Control: a DQN that is told another decision's reward.

References: Ie et al., "RecSim", 2019; Ie et al., IJCAI 2019 (SlateQ); Mnih et al., 2015 and 2016.
Run: python -m experiments long_term
     python -m experiments long_term --from-records prints the stored table.
Published: none in this world, whose constants are ours.
Deviates: SlateQ is given the true user model; its best slate is found among all ten.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark
from metajax.decide import actor
from metajax.decide.choc_kale import ChocKale
from metajax.decide.environment import Log, Observation, Policy, drawing, play
from metajax.models.towers import vector_mlp
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress
from metajax.training.devices import check_even, split_over
from metajax.types import UserError

from . import long_term_report
from .long_term_report import (
    ACTOR,
    ARMS,
    CHOC,
    DQN,
    KALE,
    MYOPIC,
    MYOPIC_SLATE,
    NAME,
    RANDOM,
    SCENARIO,
    SLATE,
    SWAPPED,
)

ROLES = {
    DQN: records.METHOD, SLATE: records.METHOD, ACTOR: records.METHOD,
    MYOPIC: records.CONTROL, MYOPIC_SLATE: records.CONTROL, SWAPPED: records.CONTROL,
}  # fmt: skip
NEEDS = "long_term needs rlax and flashbax: pip install 'metajax[decide]'"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    seeds: Positive = 5
    """Training seeds."""
    steps: Positive = 1_000
    """Rounds of training of DQN and SlateQ, 16 people side by side."""
    sessions: Positive = 150
    """Gradients of the actor-critic, each on a session of 16 people."""
    test_people: Positive = 80
    """New people of the test, a session each."""
    gamma: float = 0.99
    """Discount of the arms that look ahead."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 2, "steps": 500, "sessions": 60, "test_people": 40},
        "gpu": {"steps": 50_000, "sessions": 5_000, "test_people": 2_000},
    }


def fixed(choose: Callable[[Observation], jax.Array]) -> Policy:
    """A policy without parameters, by the chances (C,) of the slates."""
    return drawing(
        lambda key, seen: (), lambda state, seen, key: choose(seen), lambda state, d, key: state
    )


def by_kale(seen: Observation, sign: float) -> jax.Array:
    """All chance to the slate with the most kale (sign 1), or with the least (-1)."""
    total = sign * seen.inputs["kale"].sum(axis=1)
    return jax.nn.one_hot(jnp.argmax(total), total.shape[0])


def policies(config: Config, world: ChocKale) -> dict[str, tuple[Callable, Callable]]:
    """Arm -> (train: key -> params and a curve, policy: params -> Policy)."""
    try:
        with warnings.catch_warnings():  # of what rlax imports
            warnings.simplefilter("ignore")
            from metajax.decide import values
    except ModuleNotFoundError as error:
        raise UserError(NEEDS) from error
    environment, model = world.environment(), vector_mlp((24, 24))
    nothing = lambda key: ({}, jnp.zeros(1))
    even = lambda seen: jnp.full(seen.mask.shape, 1.0 / seen.mask.shape[0])
    arms: dict[str, tuple[Callable, Callable]] = {
        RANDOM: (nothing, lambda params: fixed(even)),
        CHOC: (nothing, lambda params: fixed(lambda seen: by_kale(seen, -1.0))),
        KALE: (nothing, lambda params: fixed(lambda seen: by_kale(seen, 1.0))),
    }
    deal, training = split_over(config.hardware.devices), values.Training(config.steps, batch=32)
    learners = {
        MYOPIC: values.dqn(model, 0.0),
        DQN: values.dqn(model, config.gamma),
        SWAPPED: values.dqn(model, config.gamma),
        MYOPIC_SLATE: values.slate_q(model, 0.0, world),
        SLATE: values.slate_q(model, config.gamma, world),
    }
    for arm, learner in learners.items():
        train = functools.partial(
            values.train, environment, learner, world.sample, training=training,
            swapped=arm == SWAPPED, deal=deal,
        )  # fmt: skip
        arms[arm] = (train, functools.partial(values.greedy, learner))
    arms[ACTOR] = (
        lambda key: actor.train(environment, model, world.sample, key, config.sessions,
                                world.horizon, config.gamma, deal=deal),
        functools.partial(actor.policy, model),
    )  # fmt: skip
    return {arm: arms[arm] for arm in ARMS}


def judged(world: ChocKale, policy: Callable, params: Any, keys: jax.Array) -> Log:
    """Sessions, leaves (S, U, T), of all seeds with the same people."""

    def one(params: Any, key: jax.Array) -> Log:
        key_person, key_play = jax.random.split(key)
        person = world.sample(key_person)
        return play(world.environment(), policy(params), person, key_play, world.horizon)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(params, keys)


def measured(config: Config) -> records.Record:
    """Trains every arm, plays sessions with new people, writes the record."""
    began, world = time.perf_counter(), ChocKale()
    check_even(config.hardware.devices, 16, "people")
    arms = policies(config, world)
    trained, seconds, history = {}, {}, {}
    for arm, (train, _) in arms.items():
        since = time.perf_counter()
        keys = jax.random.split(jax.random.key(0), config.seeds)
        trained[arm], curve = jax.device_get(jax.jit(jax.vmap(train))(keys))
        seconds[arm] = time.perf_counter() - since
        if curve.shape[1] > 1:
            parts = np.array_split(curve, 30, axis=1)
            history[arm] = {"reward": np.stack([p.mean(axis=1) for p in parts], axis=1).tolist()}
            progress.say(f"{arm}: {parts[-1].mean():.3f} a round at the end of training")
    choices = {"gamma": config.gamma, "steps": config.steps, "sessions": config.sessions}
    opened = records.open_tests(config, choices, NAME, ledger.checksum(NAME, config.test_people))
    scores, shapes = {}, {}
    people = jax.random.split(jax.random.key(7), config.test_people)
    for arm, (_, policy) in arms.items():
        params = trained[arm] or {"none": np.zeros(config.seeds)}
        run = jax.jit(lambda params, policy=policy: judged(world, policy, params, people))
        log = jax.device_get(run(params))
        scores[records.Key(SCENARIO, arm, records.ALL, "return")] = log.reward.sum(axis=2)
        shapes[arm] = shape_of(log, world.candidates)
    return benchmark.kept(
        NAME, NAME, config,
        records.arms_of(ARMS, roles={a: ROLES.get(a, records.BASELINE) for a in ARMS},
                        seconds=seconds, history=history),
        scores, began=began, opened=(opened,), scenario=SCENARIO, extra={"shapes": shapes},
    )  # fmt: skip


def shape_of(log: Log, none: int) -> dict[str, list[float]]:
    """Mean reward, satisfaction and kaleness of what was picked (not ``none``), by round."""
    mean = lambda x: np.round(np.nanmean(x, axis=(0, 1)), 4).tolist()
    kale = np.where(np.asarray(log.info["picked"]) < none, log.info["kale"], np.nan)
    content = np.asarray(log.info["satisfaction"])
    return {"reward": mean(log.reward), "satisfaction": mean(content), "kale": mean(kale)}


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its pictures."""
    return benchmark.shown(NAME, config, measured, long_term_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
