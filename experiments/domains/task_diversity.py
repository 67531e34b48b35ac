"""Does it pay to choose the tasks of a batch? Uniform, alike, diverse (DPP) and hard tasks.

One learner (ANIL) is trained on batches that are picked in five ways: uniformly; alike (the nearest
fold-in vectors to a random user's); spread out, by the greedy mode of a determinantal point process
(DPP) over fold-in vectors; and hard tasks more often (those that fold-in fits worst). The control
is the DPP on random codes, which has no diversity to see. Every way gets the same rates, steps and
tasks. The published result is a null, and the test on ratings was registered as one
(paper/registrations/task-diversity.toml). Beside it stands a simulated world with a frequent kind
of users and three rare ones, where a sampler that looks for diversity could help.

References: Kumar, Deleu, Bengio, AAAI 2023; Kulesza, Taskar, 2012; Chen et al., NeurIPS 2018.
Run: python -m experiments task_diversity
     python -m experiments task_diversity --from-records prints the stored tables.
Published: more diversity does not help, and sometimes hinders (no number for these data).
Deviates: how hard a task is is known beforehand, from fold-in, and does not follow the training.
"""

import dataclasses
import time
from typing import Any, ClassVar

from metajax import benchmark, losses
from metajax.results import records
from metajax.results.groups import GROUPS
from metajax.settings import Data, Hardware, Output, Positive, Presets, SplitOptions
from metajax.training import progress

from . import diversity_report as report

NAME = "task_diversity"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    data: Data = Data()
    hardware: Hardware = Hardware()
    split_seed: int = 3301
    """Seed of the split of people; the registered one by default."""
    seeds: Positive = 3
    """Training seeds of every way to pick tasks."""
    num_steps: Positive = 400
    """Outer steps of a training at most; validation says how many are kept."""
    num_tasks: Positive = 16
    """Tasks per outer step."""
    candidates: Positive = 64
    """Random tasks of which alike and diverse batches are picked."""
    sharpness: float = 1.0
    """How much more often a task is picked that is one standard deviation harder: e to this."""
    rates: tuple[float, ...] = (0.001, 0.003)
    """Rates of Adam that every way tries."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"seeds": 1, "num_steps": 60, "rates": (0.003,)},
        "gpu": {"seeds": 10, "num_steps": 5_000, "num_tasks": 64, "candidates": 256},
    }


def picks(config: Config) -> dict[str, Any]:
    """Way -> its pick."""
    from metajax.data import diversity

    size, some = config.num_tasks, config.candidates
    return {
        report.UNIFORM: diversity.uniform(size),
        report.ALIKE: diversity.alike(size, some),
        report.DPP: diversity.spread_out(size, some),
        report.HARD: diversity.hard(size, config.sharpness),
        report.RANDOM: diversity.spread_out(size, some),
    }


def measured(config: Config) -> records.Record:
    """Trains the learner in every way and world, judges it and writes the record."""

    from metajax.benchmark import belief

    from . import diversity_worlds as worlds
    from . import rates

    began = time.perf_counter()
    ways = picks(config)  # before anything is read: too few candidates are refused here
    options = SplitOptions(protocol="users", split_seed=config.split_seed)
    problem = benchmark.load(config.data, options, error=losses.absolute_error)
    training = rates.training_of(config)
    tried = (worlds.Ratings(problem, training), worlds.Kinds(training))
    choices: dict[str, dict[str, Any]] = {}
    ready: dict[tuple[str, str], Any] = {}
    with progress.bar(NAME.replace("_", " "), len(ways) * len(tried)) as update:
        for world in tried:
            for name, pick in ways.items():
                told, ready[world.name, name] = world.tuned(
                    pick, config.rates, random=name == report.RANDOM
                )
                choices.setdefault(name, {})[world.name] = told
                update(len(ready), {"valid": told["valid"]})
                progress.say(f"{world.name}, {name}: {told['valid']:.4f} on validation")
    source, tests = problem.open_test(benchmark.freeze(config, choices), NAME)
    scores: dict[records.Key, Any] = {}
    for world in tried:
        arms = {name: (world.learner, ready[world.name, name]) for name in ways}
        scores |= world.judged(arms, source, tests)
    return benchmark.kept(
        report.name_of(config),
        NAME,
        config,
        records.arms_of((*ways, report.BAYES), roles=report.ROLES, settings=choices),
        scores,
        method=report.DPP,
        scenario=report.REAL,
        opened=tuple(problem.opened),
        shots=worlds.SHOTS,
        data=records.data_of(problem.table),
        began=began,
        extra={**belief.scale_of(problem), GROUPS: benchmark.groups_of(problem)},
    )


def main(config: Config) -> records.Record:
    """The record of the experiment, run or read, its tables and its pictures."""
    return benchmark.shown(report.name_of(config), config, measured, report.report)


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
