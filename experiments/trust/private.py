"""User-level differential privacy: what does it cost new people, and what does it hide?

Everything that leaves a device is a sum over people, clipped and noised: sums of ratings by item,
from which every arm knows the items' means; then a linear start by noisy normal equations, or MAML
by noisy rounds. Each arm spends the same epsilon in total. New people adapt on their device, which
sends nothing and costs no epsilon: every arm is judged with and without it. An attack with shadow
models guesses who was in the training.

References: Abadi et al., CCS 2016; McMahan et al., ICLR 2018; Li et al., ICLR 2020 (DP and
meta-learning); Carlini et al., IEEE S&P 2022 (the attack).
Run: python -m experiments private
     python -m experiments private --dataset ml-100k
     python -m experiments private --from-records prints the stored table.
Published: none under this protocol.
Deviates: settings and links are chosen on validation people, who are volunteers outside of the
guarantee; the noise is drawn from a key in the configuration, so that the run can be repeated.
"""

import dataclasses
import functools
import math
import time
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from metajax import benchmark
from metajax.benchmark.problem import laid_out
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import judge
from metajax.federated import accountant
from metajax.results import records
from metajax.settings import Data, Output, Positive, Presets, Share
from metajax.training import progress
from metajax.types import MetaLearner, Params

from . import attack, own_data, priv_arms, priv_report
from .priv_arms import BIAS, FIXED, LINEAR, MAML, MEAN, UNCLIPPED, Budget, Rounds
from .priv_report import SCENARIO, named_at

KEPT = (records.ALL, records.N0, records.N1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data("ml-1m")
    split_seed: int = 0
    """Seed of who is new, of the training and of the noise."""
    most_rows: Positive = 200
    """People with more ratings are left out."""
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Privacy levels; no privacy at all is always among them."""
    delta: Share = 1e-5
    """The probability that the guarantee fails; below 1 over the number of people."""
    share: Share = 0.8
    """The share of epsilon that item sums take where something else is released too."""
    rounds: Positive = 100
    """Rounds of MAML."""
    rate: Share = 0.03
    """The probability that a person is in a round."""
    clip: float = 0.5
    """The largest norm of an upload."""
    sums_clip: float = 8.0
    """The largest norm of a person's part of the item sums."""
    gram_clip: float = 3.0
    """The largest norm of a person's part of the normal equations."""
    num_support: Positive = 32
    """Ratings that a client adapts on in training, at most."""
    inner_steps: Positive = 3
    """Steps of adapting."""
    inner_rate: float = 0.1
    """Rate of the steps of adapting."""
    outer_rate: float = 0.03
    """Rate of Adam at the server."""
    hidden: Positive = 16
    """Width of the network's hidden layer."""
    judged: Positive = 100
    """Validation people that settings are chosen on."""
    shadows: int = 12
    """Shadow models of the attack, of each privacy level that is attacked; even, or 0 for none."""
    shadow_people: Positive = 10_000
    """Training people that the attack is about, at most; each shadow model is trained on half of
    them. Among fewer people each weighs more, and is easier to find."""
    shadow_rate: Share = 0.03
    """The probability that one of them is in a round."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            "epsilons": (8.0,),
            "rounds": 20,
            "shadows": 4,
            "shadow_people": 100,
            "shadow_rate": 0.1,
        },
        "gpu": {"rounds": 500, "shadows": 64, "shadow_people": 2_000},
    }


class Spent(NamedTuple):
    """The budgets (L,) of every arm at every level, without privacy last."""

    alone: list[Budget]
    linear: list[Budget]
    maml: list[Budget]


def budgets(config: Config) -> Spent:
    """How every arm spends every epsilon.

    Raises:
      UserError: an epsilon is not above 0, or a package of the accountant is missing.
    """
    for epsilon in config.epsilons:
        accountant.require_epsilon(epsilon)
    levels = [*config.epsilons, math.inf]
    alone = [Budget(e, accountant.noise_once(e, config.delta), 0.0) for e in levels]
    of = functools.partial(priv_arms.budget, share=config.share, delta=config.delta)
    return Spent(
        alone,
        [of(e, num_rounds=1, rate=1.0) for e in levels],
        [of(e, num_rounds=config.rounds, rate=config.rate) for e in levels],
    )


Arms = dict[str, tuple[MetaLearner, Params]]


def trained(
    config: Config, people: own_data.People, spent: Spent
) -> tuple[Arms, dict[str, dict[str, Any]]]:
    """Every arm with parameters (L, ...) of its levels, and its settings."""
    key = jax.random.key(config.split_seed + 1)
    keys, count = jax.random.split(key, 4), len(spent.alone)
    sums_of = lambda budgets, key: priv_arms.released(
        people, config.sums_clip, [b.sums for b in budgets], key
    )
    alone, with_linear, with_maml = (
        sums_of(budgets, key) for budgets, key in zip(spent, keys, strict=False)
    )
    tabled = lambda learner: own_data.with_table(learner, people.table.num_items)
    mean = priv_arms.mean_learner(people)
    params = priv_arms.repeated({"model": {"mu": people.mean}, "rates": ()}, count)
    arms: Arms = {MEAN: (tabled(mean), priv_arms.judged(alone, params))}
    told: dict[str, dict[str, Any]] = {MEAN: {"damping": alone.damping.tolist()}}

    bias = tabled(priv_arms.constant_learner(people))
    zero = np.zeros((count, 1))
    params, precision = priv_arms.tuned_ridge(bias, alone, zero, people, config.judged)
    arms[BIAS], told[BIAS] = (bias, params), {"precision": precision}

    linear, noises = tabled(priv_arms.linear_learner(people)), [b.rest for b in spent.linear]
    start = priv_arms.linear_start(people, with_linear, noises, config.gram_clip, keys[3])
    params, precision = priv_arms.tuned_ridge(linear, with_linear, start, people, config.judged)
    arms[LINEAR], told[LINEAR] = (linear, params), {"precision": precision}

    for name, how, budgets, levels in maml_arms(config, people, spent, with_maml):
        noises = [b.rest for b in budgets]
        params = priv_arms.train_maml(people, config, levels, how, noises, name)
        maml = tabled(priv_arms.maml_of(people, config))
        arms[name] = maml, priv_arms.judged(levels, params)
        error = priv_arms.valid_errors(*arms[name], people, config.judged)
        told[name] = {"valid": np.asarray(error).round(4).tolist(), "clip": how.clip}
        progress.say(f"{name}: validation MSE {told[name]['valid']}")
    return arms, told


def maml_arms(config: Config, people: own_data.People, spent: Spent, levels: priv_arms.Levels):
    """(name, how it is trained, budgets, item sums) of MAML and of its two controls."""
    expected = config.rate * people.num_clients
    how = Rounds(config.rounds, config.rate, config.clip, expected)
    yield MAML, how, spent.maml, levels
    at = lambda i: jax.tree.map(lambda x: x[i : i + 1], levels)
    last = len(spent.maml) - 2  # the largest epsilon
    yield FIXED, how._replace(fixed=True), spent.maml[last : last + 1], at(last)
    yield UNCLIPPED, how._replace(clip=priv_arms.NO_CLIP), spent.maml[-1:], at(last + 1)


def measured(config: Config) -> records.Record:
    """Trains and attacks, opens the test people, and writes the record."""
    began, name = time.perf_counter(), name_of(config)
    spent = budgets(config)  # refuses before anything is read or trained
    people = own_data.load(config.data, config.split_seed, config.most_rows)
    if config.delta * people.num_clients >= 1:
        progress.say(
            f"warning: delta {config.delta:g} is not below 1 over {people.num_clients} people"
        )
    attacked = attack.run(config, people) if config.shadows else {}
    arms, told = trained(config, people, spent)
    source = priv_arms.plain_source(people)
    links = own_data.links_of(arms, people, source)  # of each level, before the test is opened
    opened = records.open_tests(config, told, "private", people.split.checksum())
    test = laid_out(people.split.test["user_cold"], people.split.num_query)
    with progress.bar("test", len(arms)) as update:
        scores = judge.judge(
            arms,
            {SCENARIO: test},
            fetch=episodes.fetch,
            source=source,
            main="mse",
            links=links,
            report=lambda done: update(done, {}),
        )
    names, kept = by_level(scores, [b.epsilon for b in spent.alone])
    roles = {n: records.METHOD if n.startswith(MAML) else records.BASELINE for n in names}
    most = spent.maml[-2]
    fixed = accountant.epsilon(
        config.rounds, config.rate, most.rest, config.delta, once=[most.sums],
        fixed=people.num_clients,
    )  # fmt: skip
    noise = {MEAN: spent.alone, LINEAR: spent.linear, MAML: spent.maml}
    return benchmark.kept(
        name, "private", config, records.arms_of(names, roles=roles), kept, began=began,
        scenario=SCENARIO, opened=(opened,), data=records.data_of(people.table),
        extra={
            "people": people.num_clients, "test": len(test.query.label), "attack": attacked,
            "settings": told, "fixed_epsilon": fixed, **people.scale,
            "noise": {
                arm: {f"{b.epsilon:g}": [b.sums, b.rest] for b in budgets}
                for arm, budgets in noise.items()
            },
        },
    )  # fmt: skip


def by_level(
    scores: dict[records.Key, np.ndarray], epsilons: list[float]
) -> tuple[list[str], dict[records.Key, np.ndarray]]:
    """The arms of a table, and scores (1, T): each level, which was judged as a seed, an arm."""
    levels = {key.arm: epsilons for key in scores}
    levels |= {FIXED: epsilons[-2:-1], UNCLIPPED: epsilons[-1:]}
    kept = {
        key._replace(arm=named_at(key.arm, epsilon)): values[i : i + 1]
        for key, values in scores.items()
        if key.condition in KEPT and (key.condition == records.ALL or key.metric == "mse")
        for i, epsilon in enumerate(levels[key.arm])
    }
    return [named_at(arm, e) for arm in levels for e in levels[arm]], kept


def name_of(config: Config) -> str:
    """The name of the record."""
    return f"private-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its pictures."""
    return benchmark.shown(name_of(config), config, measured, priv_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
