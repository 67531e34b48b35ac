"""A new user's policy after K episodes: REINFORCE from scratch, joint training, MAML-RL, E-MAML.

A user is a world in which the recommender is the policy; adapting is one step of REINFORCE on K
episodes of 20 recommendations. MAML-RL learns where that step starts and how long it is, through
DiCE; E-MAML also credits the first episodes for what is learned from them. Users click by a known
law, so there is an oracle. Controls: rewards dealt to other rounds within the user, from which
nothing can be learned, and the DiCE operator dropped. Beside it, summed exactly, a bandit in which
asking costs and tells all: E-MAML learns to ask, MAML-RL does not.

References: Finn et al., ICML 2017, section 5.3; Stadie et al., 2018; Foerster et al., ICML 2018.
Run: python -m experiments meta_rl
     python -m experiments meta_rl --from-records prints the stored tables.
Published: none in this world.
Deviates: the policy is linear, and all arms take one step; the inner step's credit ends with its
round, since a click here depends on nothing before it. Joint training that is then adapted may
stop after a tenth of its steps, as validation users prefer.
"""

import dataclasses
import time
from typing import Any, ClassVar

import jax
import numpy as np

from metajax import benchmark
from metajax.decide.click_users import ClickUsers
from metajax.results import ledger, records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import progress

from . import ask_bandit, meta_rl_report, rl_arms
from .meta_rl_report import ASK, NAME, SCENARIO, SHOTS
from .rl_arms import DROPPED, EMAML, JOINT, MAML, ORACLE, RANDOM, SCRATCH, STEP, Shape

WORLD = ClickUsers(num_items=20, candidates=20)
"""The whole catalogue is offered in every round, in an order of its own."""
RATES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Rates of the one step that are tried on validation users."""
EARLY = 10
"""Joint training is also stopped after a tenth of its steps: a sharp policy hardly moves."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    seeds: Positive = 3
    """Training seeds."""
    steps: Positive = 100
    """Outer steps of every trained arm."""
    users: Positive = 16
    """Users of an outer step."""
    test_users: Positive = 150
    """New users of the test."""
    valid_users: Positive = 50
    """Users who choose the rate of arms that do not learn it."""
    rate: float = 0.05
    """Adam's rate of the outer steps."""
    inner_rate: float = 10.0
    """Rate of the inner step, before it is learned."""
    ask_steps: Positive = 300
    """Outer steps in the bandit with an arm that tells all."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 1, "steps": 30, "test_users": 50, "valid_users": 50},
        "gpu": {"seeds": 5, "steps": 2_000, "users": 200, "test_users": 2_000},
    }


def shape_of(config: Config) -> Shape:
    """What the programs are compiled for."""
    sizes = (config.users, config.seeds, config.steps, config.hardware.devices)
    return Shape(WORLD, max(SHOTS), 5, *sizes)


def drawn(config: Config, part: int, count: int) -> jax.Array:
    """Users (count, dim) of a part: 1 validation, 2 test. Training draws its own."""
    keys = jax.random.split(jax.random.key(part), count)
    return jax.vmap(WORLD.sample)(keys)


def chosen_rate(shape: Shape, params: Any, users: jax.Array) -> tuple[float, dict[str, float]]:
    """The best of `RATES` on validation users, seeds averaged, and what each earned."""
    tried = {}
    for rate in RATES:
        each = [rl_arms.earned(shape, of_seed(params, s), rate, users, jax.random.key(5),
                               max(SHOTS), False).mean() for s in range(shape.seeds)]  # fmt: skip
        tried[f"{rate:g}"] = float(np.mean(each))
    return max(RATES, key=lambda rate: tried[f"{rate:g}"]), tried


def of_seed(params: Any, seed: int) -> Any:
    """The parameters of one seed."""
    return jax.tree.map(lambda x: x[seed], params)


def asking(config: Config) -> dict[str, Any]:
    """The bandit with an arm that tells all: chance of asking and return while training."""
    told, every = {}, max(1, config.ask_steps // 60)
    for name, explores in ((MAML, False), (EMAML, True)):
        params, asks, earns = jax.device_get(ask_bandit.trained(explores, config.ask_steps))
        told[name] = {
            "every": every,
            "asks": asks[::every].tolist(),
            "earns": earns[::every].tolist(),
            "asks at the end": float(asks[-1]),
            "earns at the end": float(earns[-1]),
            "rate": float(np.exp(params["log_rate"])),
        }
    return told


def measured(config: Config) -> records.Record:
    """Trains all arms, tests them on new users, and writes the record."""
    began = time.perf_counter()
    shape, valid = shape_of(config), drawn(config, 1, config.valid_users)
    still = jax.tree.map(lambda x: np.stack([x] * config.seeds), rl_arms.start(1.0))
    params, seconds, history = {RANDOM: still, SCRATCH: still}, {}, {}
    for kind in (JOINT, MAML, DROPPED, EMAML):
        since = time.perf_counter()
        params[kind], told = jax.device_get(
            rl_arms.trained(shape, kind, config.rate, config.inner_rate)
        )
        seconds[kind] = time.perf_counter() - since
        parts = np.array_split(told, min(20, config.steps), axis=1)
        history[kind] = {"return": np.stack([p.mean(axis=1) for p in parts], axis=1).tolist()}
        progress.say(f"{kind}: {told[:, -10:].mean():.2f} clicks an episode at the end")
    rates: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    early = max(1, config.steps // EARLY)
    short = rl_arms.trained(shape._replace(steps=early), JOINT, config.rate, config.inner_rate)
    starts = {early: jax.device_get(short[0]), config.steps: params[JOINT]}
    for arm, each in ((SCRATCH, {0: still}), (STEP, starts)):
        found = {n: chosen_rate(shape, start, valid) for n, start in each.items()}
        steps = max(found, key=lambda n: max(found[n][1].values()))
        params[arm], rates[arm] = each[steps], found[steps][0]
        told = {f"valid after {n} steps": tried for n, (_, tried) in found.items()}
        settings[arm] = {"rate": rates[arm], "steps": steps, **told}
    for arm in (MAML, DROPPED, EMAML):
        rates[arm] = np.exp(params[arm]["log_rate"])
        settings[arm] = {"rates": rates[arm].tolist()}
    tests = ledger.checksum(NAME, config.test_users)
    opened = records.open_tests(config, settings, NAME, tests)
    scores = tested(config, shape, params, rates)
    roles = {MAML: records.METHOD, EMAML: records.METHOD, DROPPED: records.ABLATION}
    arms = records.arms_of(
        rl_arms.NAMES, roles={a: roles.get(a, records.BASELINE) for a in rl_arms.NAMES},
        settings=settings, seconds=seconds, history=history,
    )  # fmt: skip
    return benchmark.kept(
        NAME, NAME, config, arms, scores, began=began,
        opened=(opened,), scenario=SCENARIO, shots=SHOTS, extra={ASK: asking(config)},
    )  # fmt: skip


def tested(config: Config, shape: Shape, params: dict, rates: dict) -> dict:
    """The chance of a click of every test user, by arm and number of episodes."""
    users, scores = drawn(config, 2, config.test_users), {}

    def put(arm: str, condition: str, known: int, shuffled: bool) -> None:
        each = np.broadcast_to(np.asarray(rates.get(arm, 0.0), np.float32), (config.seeds,))
        told = [
            rl_arms.earned(shape, of_seed(params[arm], s), each[s], users,
                           jax.random.fold_in(jax.random.key(9), s), known, shuffled)
            for s in range(config.seeds)
        ]  # fmt: skip
        scores[records.Key(SCENARIO, arm, condition, "chance")] = np.stack(told)

    for arm in (RANDOM, SCRATCH, JOINT, STEP, MAML, DROPPED, EMAML):
        for known in SHOTS if arm in rates else (0,):
            put(arm, f"k={known}", known, False)
        if arm in rates:
            put(arm, records.N1, max(SHOTS), True)
    oracle = [rl_arms.best(shape, users, jax.random.fold_in(jax.random.key(9), s))
              for s in range(config.seeds)]  # fmt: skip
    scores[records.Key(SCENARIO, ORACLE, "k=0", "chance")] = np.stack(oracle)
    return scores


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(NAME, config, measured, meta_rl_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
