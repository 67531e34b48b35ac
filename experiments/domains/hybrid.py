"""Identity beside content: what do new and sparse items gain, and does dropping the identity help?

Tasks are items. An item's identity is what its ratings tell (the fold-in of its raters' factors),
its content are its genres and year. The hybrid network reads both. Trained on items whose identity
is always there it may forget the content; DropoutNet drops the identity in half of the training
tasks. Beside them stand identity alone, content alone, and the closed form that starts at what the
content says and moves by the ratings, with the same dropping. The control is DropoutNet on the
content of other items. Every arm gets the same rates, steps and items, at each density: the share
of training ratings that are kept.

References: Volkovs, Yu, Poutanen, "DropoutNet", NeurIPS 2017.
Run: python -m experiments hybrid
     python -m experiments hybrid --from-records prints the stored tables.
Published: none under this protocol.
Deviates: the identity is a fold-in of ratings, not a factor of a factorization of all items.
"""

import dataclasses
import time
from typing import Any, ClassVar

from metajax import benchmark
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import Data, Hardware, Output, Positive, Presets, Share
from metajax.training import progress
from metajax.types import UserError

from . import hybrid_report as report

NAME = "hybrid"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data(dataset="ml-100k")
    hardware: Hardware = Hardware()
    densities: tuple[Share, ...] = (0.1, 0.3, 1.0)
    """Shares of the training ratings that are kept; each item keeps its test ratings."""
    dropped: Share = 0.5
    """Share of training tasks whose identity is dropped."""
    split_seed: int = 0
    """Seed of the split of items."""
    seeds: Positive = 3
    """Training seeds of every arm."""
    num_steps: Positive = 300
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 32
    """Items per outer step."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Rates of Adam that every arm tries."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "densities": (1.0,), "seeds": 1, "num_steps": 50},
        "gpu": {"densities": (0.1, 0.2, 0.3, 0.5, 0.75, 1.0), "seeds": 10, "num_steps": 5_000},
    }


def measured(config: Config) -> records.Record:
    """Tunes and trains all arms at every density, judges them and writes the record."""
    from metajax.benchmark import belief
    from metajax.data.sources import named
    from metajax.evaluation import evaluate

    from . import graph_arms, hybrid_arms, rates

    began = time.perf_counter()
    if not config.densities:
        raise UserError("no share of the ratings is told; give one or more --densities")
    table = graph_arms.rated(named.chosen(config.data))
    content = hybrid_arms.contents(table)
    training = rates.training_of(config)
    choices: dict[str, dict[str, Any]] = {}
    ready: dict[tuple[float, str], Any] = {}
    problems = {}
    total = len(config.densities) * len(report.ARMS)
    with progress.bar(NAME, total) as update:
        for density in config.densities:
            problems[density] = hybrid_arms.thinned(table, config.split_seed, density)
            for name in report.ARMS:
                own = graph_arms.with_content(problems[density], content[name])
                learner = hybrid_arms.made(name, own, config.dropped)
                told, ready[density, name] = hybrid_arms.tuned(
                    name, learner, own, training, config.rates
                )
                choices.setdefault(name, {})[f"{density:g}"] = told
                update(len(ready), {"valid": told["valid"]})
                what = f"{density:.0%}, {name}: squared error"
                progress.say(f"{what} {told['valid']:.4f} on validation")
    scores: dict[records.Key, Any] = {}
    groups: dict[str, Any] = {}
    openings, scale = [], belief.scale_of(problems[max(config.densities)])
    for density, problem in problems.items():
        _, tests = problem.open_test(benchmark.freeze(config, choices), NAME)
        openings += problem.opened
        for name in report.ARMS:
            own = graph_arms.with_content(problem, content[name])
            arm = {name: ready[density, name]}
            scores |= rates.rated(arm, own, tests, report.scenario(density))
        groups |= graph_arms.groups_of(problem, report.scenario(density))
    return benchmark.kept(
        report.name_of(config),
        NAME,
        config,
        records.arms_of(report.ARMS, roles=report.ROLES, settings=choices),
        scores,
        method=report.DROPPED,
        scenario=report.scenario(max(config.densities)),
        opened=tuple(openings),
        shots=tuple(k for k in evaluate.SHOTS if k < graph_arms.SUPPORT),
        data=records.data_of(table),
        began=began,
        extra={"densities": list(config.densities), GROUPS: groups, **scale},
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(report.name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
