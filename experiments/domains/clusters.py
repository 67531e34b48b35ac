"""Clustered starts: does a new user gain by starting near users whose first ratings were alike?

The learner is fold-in with a learned prior (a ridge regression on item factors). With one start all
users share the prior; with clustered starts each of C clusters has its own, and the first ratings
decide: by k-means on training users' fold-in vectors (the nearest center), by soft clusters whose
centers go on learning, or by a learned gate. The control gives each user a random cluster; these
are of equal size. Judged by the error of new users, of those in the worst cluster too, and by how
stable the clusters are from seed to seed (adjusted Rand index).

References: Yao et al., "Hierarchically structured meta-learning", ICML 2019; Ghosh et al., "IFCA",
NeurIPS 2020; Hubert, Arabie, "Comparing partitions", 1985.
Run: python -m experiments clusters            (needs the extra `boosting`: scikit-learn)
     python -m experiments clusters --from-records prints the stored tables.
Published: none under this protocol.
Deviates: HSML's tree of clusters and its gate of all parameters are left out.
"""

import dataclasses
import time
from typing import Annotated, Any, ClassVar

from metajax import benchmark
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import (
    Data,
    Hardware,
    Output,
    Positive,
    Presets,
    Range,
    SplitOptions,
)
from metajax.training import progress

from . import clusters_report as report

NAME = "clusters"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    hardware: Hardware = Hardware()
    split_seed: int = 0
    """Seed of the split of people."""
    clusters: Annotated[int, Range(2, 1000)] = 6
    """How many starts there are."""
    seeds: Positive = 3
    """Training seeds of every arm; k-means is run with as many, and some more."""
    num_steps: Positive = 300
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """Users per outer step."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Rates of Adam that every arm tries."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "seeds": 2, "num_steps": 100, "rates": (0.01,)},
        "gpu": {"seeds": 10, "num_steps": 5_000, "num_tasks": 256},
    }


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms, judges them and writes the record."""
    from metajax.benchmark import belief
    from metajax.evaluation import evaluate

    from . import clusters_arms as arms
    from . import rates

    began = time.perf_counter()
    options = SplitOptions(protocol="users", split_seed=config.split_seed)
    problem = benchmark.load(config.data, options)
    centers, told = arms.grouped(problem, config.clusters, config.seeds)
    problem = arms.with_random_clusters(problem, told["sizes"])
    training = rates.training_of(config)
    choices: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    tried = arms.made(problem, centers)
    with progress.bar(NAME, len(tried)) as update:
        for name, learner in tried.items():
            choices[name], params = arms.tuned(name, learner, problem, training, config.rates)
            ready[name] = (learner, params)
            update(len(ready), {"valid": choices[name]["valid"]})
            progress.say(f"{name}: squared error {choices[name]['valid']:.4f} on validation")
    source, tests = problem.open_test(benchmark.freeze(config, choices), NAME)
    scores = rates.rated(ready, problem, tests, report.SCENARIO)
    told |= belief.scale_of(problem) | arms.groups_of(ready, source, tests["user_cold"])
    told[GROUPS] = benchmark.groups_of(problem)
    return benchmark.kept(
        report.name_of(config),
        NAME,
        config,
        records.arms_of(ready, roles=report.ROLES, settings=choices),
        scores,
        method=report.HARD,
        scenario=report.SCENARIO,
        opened=tuple(problem.opened),
        shots=evaluate.SHOTS,
        data=records.data_of(problem.table),
        began=began,
        extra=told,
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(report.name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
