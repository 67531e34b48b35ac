"""Ratings that stay on the device: how many rounds and bytes until new people are served well?

Each person of the training set is a client. A round sends the parameters to a few, a share of whom
never answers; the others send an update back. All arms share a small network over what is public of
an item and its mean, which people add up once, without their own ratings. New people, who were not
clients, adapt on their device. Bytes are counted until the error on validation people is the best
that FedAvg with tuned fine-tuning ever has.

References: McMahan et al., AISTATS 2017 (FedAvg); Chen et al., 2018, arXiv 1802.07876 (FedMeta);
Fallah et al., NeurIPS 2020 (Per-FedAvg); Li et al., MLSys 2020 (FedProx), ICML 2021 (Ditto).
Run: python -m experiments federated
     python -m experiments federated --dataset ml-100k
     python -m experiments federated --from-records prints the stored table.
Published: FedMeta communicates 2.8 to 4.3 times less than FedAvg, on other data (its abstract).
Deviates: a small network and new people as test; the paper's recommender data are not public.
"""

import dataclasses
import shutil
import time
from typing import Any, ClassVar

import jax
import numpy as np

from metajax import benchmark
from metajax.benchmark.baselines import Trained
from metajax.benchmark.problem import laid_out
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import judge
from metajax.federated import simulator
from metajax.results import records
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share
from metajax.training import progress
from metajax.training.devices import check_even
from metajax.types import UserError

from . import fed_arms, fed_report, own_data
from .fed_arms import Plan

SCENARIO = "new people"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data("ml-1m")
    hardware: Hardware = Hardware()
    split_seed: int = 0
    """Seed of who is new, and of the training."""
    most_rows: Positive = 200
    """People with more ratings are left out."""
    damping: float = 10.0
    """As how many ratings of 0 the damping of an item's mean counts."""
    rounds: Positive = 300
    """Rounds of every arm."""
    clients: Positive = 32
    """Clients that a round's parameters are sent to."""
    drop: Share = 0.1
    """The share of these clients that never answers."""
    num_support: Positive = 64
    """Ratings that a client adapts on in training, at most."""
    inner_steps: Positive = 3
    """Gradient steps of adapting, for the meta-learners."""
    outer_rate: float = 0.03
    """Rate of Adam at the server."""
    hidden: Positive = 16
    """Width of the network's hidden layer."""
    judged: Positive = 100
    """Validation people that errors are computed on after each twentieth of the rounds."""
    seeds: Positive = 2
    """Training seeds."""
    arms: tuple[str, ...] = ()
    """Trained arms, by the names of the table; empty is all."""
    fresh: bool = False
    """Start from the beginning, instead of going on from the checkpoints in the folder."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"rounds": 40, "seeds": 1, "judged": 30, "clients": 8},
        "gpu": {"rounds": 2_000, "seeds": 5, "clients": 256},
    }


def plan_of(config: Config) -> Plan:
    """The data, and how cohorts are drawn.

    Raises:
      UserError: too few people for a cohort, or everybody drops out.
    """
    if config.arms and fed_arms.FEDAVG not in config.arms:
        raise UserError(f"--arms needs {fed_arms.FEDAVG!r}, whose error is the target")
    people = own_data.load(config.data, config.split_seed, config.most_rows)
    sums = own_data.exact_sums(people)
    draw = own_data.drawer(people, config.damping, config.num_support)
    sample = lambda local: simulator.cohorts(
        draw, people.num_clients, config.clients, local, config.drop
    )
    sample(1)  # refuses what makes no sense before anything is trained
    check_even(config.hardware.devices, config.clients, "clients")
    if unknown := {*config.arms} - {*fed_arms.NAMES}:
        raise UserError(f"--arms {min(unknown)!r} is none of {', '.join(fed_arms.NAMES)}")
    judged = own_data.judged_source(people, sums, config.damping)
    some = jax.tree.map(lambda x: x[: config.judged], people.valid)
    return Plan(people, sums, config, sample, judged, some)


def trained(plan: Plan, folder: Any) -> dict[str, Trained]:
    """Every arm that was asked for, its rate chosen on validation or taken from another arm."""
    arms, recipes = fed_arms.closed_forms(plan), fed_arms.recipes(plan)
    for name in plan.config.arms or recipes:
        rates = fed_arms.RATES if name == fed_arms.FEDAVG else fed_arms.INNER_RATES
        other = fed_arms.SAME_AS.get(name)
        if other in arms:
            rates = (arms[other].settings["rate"],)
        arms[name] = fed_arms.train(name, recipes[name], rates, plan, folder)
        if name == fed_arms.FEDAVG:
            arms[fed_arms.DITTO] = fed_arms.ditto(arms[name], plan)
    return arms


def measured(config: Config) -> records.Record:
    """Trains all arms, opens the test people, and writes the record."""
    began, name = time.perf_counter(), name_of(config)
    folder = config.output.folder(name)
    if config.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    plan = plan_of(config)
    arms = trained(plan, folder)
    people = plan.people
    choices = {arm: told.settings for arm, told in arms.items()}
    ready = {arm: (told.learner, told.params) for arm, told in arms.items()}
    links = own_data.links_of(ready, people, plan.judged)  # before the test is opened
    opened = records.open_tests(config, choices, "federated", people.split.checksum())
    test = laid_out(people.split.test["user_cold"], people.split.num_query)
    with progress.bar("test", len(arms)) as update:
        scores = judge.judge(
            ready,
            {SCENARIO: test},
            fetch=episodes.fetch,
            source=plan.judged,
            main="mse",
            links=links,
            report=lambda done: update(done, {}),
        )
    roles = dict.fromkeys(arms, records.METHOD)
    roles |= dict.fromkeys((fed_arms.MEAN, fed_arms.BIAS), records.BASELINE)
    return benchmark.kept(
        name, "federated", config,
        records.arms_of(
            arms, roles=roles, settings=choices,
            seconds={arm: told.seconds for arm, told in arms.items()},
            history={
                arm: {k: np.round(v, 5).tolist() for k, v in told.history.items()}
                for arm, told in arms.items()
            },
        ),
        scores, began=began, scenario=SCENARIO, opened=(opened,),
        data=records.data_of(people.table),
        extra={
            "clients": people.num_clients, "test": len(test.query.label),
            "sums_bytes": 2 * 4 * people.table.num_items, **people.scale,
        },
    )  # fmt: skip


def name_of(config: Config) -> str:
    """The name of the record."""
    return f"federated-{named.short_name(config.data.dataset)}"


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its table and its pictures."""
    return benchmark.shown(name_of(config), config, measured, fed_report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config)
