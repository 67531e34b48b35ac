"""Which genres will a new person like after K ratings? One matrix head against a head per label.

A person likes a genre if the mean of their other ratings of its films is 4 stars or more; genres of
which they rated fewer than three other films are left out. The matrix head solves a ridge
regression on the K ratings over meta-learned features, and one learned matrix turns the solution
into the scores of all genres. Beside it stand binary relevance (features, regression and head of
its own for each genre), fold-in (fixed ALS factors; a genre is the mean of its films) and how often
training people like each genre. Every trained arm gets the same rates, steps and people, and all
thresholds of F1 are chosen on validation people. The control is trained on permuted labels: each
genre's labels are dealt anew among the people of a step.

References: Zhang, Zhou, TKDE 2014; Bertinetto et al., ICLR 2019; Guo et al., ICML 2017.
Run: python -m experiments multi_label
     python -m experiments multi_label --from-records prints the stored tables.
Published: none under this protocol.
Deviates: people with 40 to 200 ratings (TaNP's split), 20 of them the most that is adapted on.
"""

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np

from metajax import benchmark
from metajax.data.sources.movielens import GENRES_100K
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import Data, Hardware, Output, Positive, Presets, SplitOptions
from metajax.training import progress
from metajax.types import UserError

from . import label_report as report

NAME = "multi_label"
GENRES: dict[str, list[str]] = dict.fromkeys(("ml-100k", "ml-1m"), sorted(GENRES_100K[1:]))


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    hardware: Hardware = Hardware()
    column: str = "genre"
    """The item column whose values are the labels."""
    liked: float = 4.0
    """A label is liked from this mean rating on, in stars from 1 to 5."""
    fewest: Positive = 3
    """Ratings of a label's items, beside the support, from which on its label is known."""
    split_seed: int = 0
    """Seed of the split of people."""
    seeds: Positive = 2
    """Training seeds of every arm."""
    num_steps: Positive = 400
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """People per outer step."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Rates of Adam that every trained arm tries."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 1, "num_steps": 100, "rates": (0.01,)},
        "gpu": {"seeds": 10, "num_steps": 5_000, "num_tasks": 256},
    }


def prepared(config: Config) -> tuple[Any, Any, dict[str, Any]]:
    """The problem, the rule of labels and the people, all checked before anything is trained.

    Raises:
      UserError: labels that are constant, no such column, or events where ratings are needed.
    """
    from . import label_arms as arms

    options = SplitOptions(protocol="tanp", split_seed=config.split_seed)
    problem = benchmark.load(config.data, options)
    if problem.events:
        raise UserError(f"{problem.table.name} has events; what is liked needs ratings")
    rule = arms.Rule(config.liked, config.fewest, problem.mean)
    has = arms.carried(problem.table, config.column)
    names = arms.names_of(problem.table, config.column, GENRES)
    known = problem.split.train._replace()
    enough = np.flatnonzero(known.length > arms.SUPPORT)
    train = known._replace(owner=known.owner[enough], start=known.start[enough])
    train = train._replace(length=known.length[enough])
    tasks = problem.train.tasks
    train = train._replace(other=np.asarray(tasks.other), label=np.asarray(tasks.label))
    found = {
        "names": names,
        "train": arms.people(problem, train, problem.train, has),
        "valid": arms.people(problem, problem.split.valid["user_cold"], problem.valid[0], has),
        "has": has,
    }
    found["share"] = arms.checked(rule, found["train"], names)
    return problem, rule, found


def made(config: Config, problem: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The trained arms, by name."""
    from . import label_arms as arms

    share, size = found["share"], len(found["names"])
    sizes = {k: v for k, v in problem.table.user_features.sizes.items() if k != "zip"}
    count = np.bincount(
        problem.table.item[problem.split.train_rows], minlength=problem.table.num_items
    )
    fixed = arms.label_features(found["valid"].columns, count, problem.table.num_items)
    return {
        report.FOLD: arms.head(size, share, {}, fixed),
        report.EACH: arms.relevance(size, share, sizes),
        report.OURS: arms.head(size, share, sizes),
        report.PERMUTED: arms.head(size, share, sizes),
    }


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms, judges them and writes the record."""

    from . import label_arms as arms
    from . import label_judge as judging

    began = time.perf_counter()
    problem, rule, found = prepared(config)
    valid = arms.stored(rule, found["valid"])
    settings = (config.rates, config.num_steps, config.num_tasks, config.seeds)
    settings += (config.hardware.devices,)
    tuner = arms.Tuner(rule, found["train"], valid, *settings)
    choices: dict[str, Any] = {report.FREQUENCY: {"share": found["share"].tolist()}}
    ready: dict[str, Any] = {report.FREQUENCY: judging.constant(found["share"])}
    tried = made(config, problem, found)
    with progress.bar("multi_label", len(tried)) as update:
        for name, learner in tried.items():
            choices[name], params = tuner.tuned(learner, name == report.PERMUTED)
            ready[name] = (learner, params)
            update(len(ready) - 1, {"valid": choices[name]["valid"]})
            progress.say(f"{name}: log loss {choices[name]['valid']:.4f} on validation")
    for name, one in ready.items():
        choices[name]["cutoffs"] = judging.cutoffs(one, valid).round(5).tolist()
    opened_at = benchmark.freeze(config, choices)
    source, _ = problem.open_test(opened_at, NAME)
    test = arms.people(problem, problem.split.test["user_cold"], source, found["has"])
    scores = judging.judged(ready, choices, arms.stored(rule, test))
    return benchmark.kept(
        report.name_of(config),
        NAME,
        config,
        records.arms_of(ready, roles=report.ROLES, settings=choices),
        scores,
        method=report.OURS,
        scenario=report.PEOPLE,
        opened=tuple(problem.opened),
        shots=arms.SHOTS,
        data=records.data_of(problem.table),
        began=began,
        extra={
            "labels": found["names"],
            "share": found["share"].tolist(),
            GROUPS: {report.PEOPLE: benchmark.groups_of(problem)["user_cold"]},
        },
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(report.name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
