"""The trials of a search: one program that takes numbers as arguments, or a program for each trial.

Run: python -m experiments.speed.searches
Arms of the field's tables are tuned as there, trials and validation included, on the ratings of
T1. The two ways take turns; times are processor seconds, compiling included, and nothing compiled
is kept on disk.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import numpy as np

from experiments.field.tables import contenders, tables
from metajax.benchmark import command, trials
from metajax.benchmark.problem import Problem
from metajax.results import records
from metajax.results.grid import Grid, terminal
from metajax.results.grid import markdown as markdown_of
from metajax.settings import Positive, Range, Stored, Training
from metajax.training import progress
from metajax.tuning.search import middle
from metajax.types import UserError

NAME = "speed-searches"
CONSTANTS, ARGUMENTS = "a program for each trial", "one program"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    dataset: str = "ml-100k"
    """The log, divided as in T1."""
    arms: tuple[str, ...] = ("A6 ridge head", "A6 TaNP", "A6 CNP", "A6 LWA")
    """Learners whose search is timed."""
    trials: Annotated[int, Range(2)] = 4
    """Trials of each way, which differ in their numbers alone."""
    trial_steps: Positive = 150
    """Outer steps of a trial."""
    num_tasks: Positive = 32
    """Tasks of an outer step."""
    output: Stored = Stored()


def settings_of(arm: str, number: int) -> dict[str, Any]:
    """The settings of a trial: the middle of the arm's space, its numbers farther with each."""
    space, numbers = contenders.CONTENDERS[arm].space, contenders.CONTENDERS[arm].numbers("ratings")
    return {k: v * 1.1**number if k in numbers else v for k, v in middle(space).items()}


def ways(arm: str, problem: Problem, training: Training) -> dict[str, Callable]:
    """Way -> (settings, watch) -> the validation error of a trial."""
    contender = contenders.CONTENDERS[arm]

    def build(settings: Mapping[str, Any]):
        config = contender.module.Config(training=training, **settings)
        return contender.module.build(config, problem)

    of = lambda numbers: trials.trials(build, problem, training, numbers)
    return {CONSTANTS: of(()), ARGUMENTS: of(contender.numbers("ratings"))}


def measured(config: Config) -> tuple[dict[records.Key, np.ndarray], dict[str, Any]]:
    """Processor seconds (1, trials) by arm and way, and the largest difference of their errors."""
    unknown = [arm for arm in config.arms if arm not in contenders.CONTENDERS]
    if unknown:
        known = ", ".join(contenders.CONTENDERS)
        raise UserError(f"--arms: there is no {', '.join(unknown)}; there are {known}")
    problem = tables.prepared(config.dataset, tables.RATING, None)
    training = Training(seeds=1, num_steps=config.trial_steps, num_tasks=config.num_tasks)
    scores, apart = {}, {}
    for arm in config.arms:
        took: dict[str, list[float]] = {CONSTANTS: [], ARGUMENTS: []}
        errors: dict[str, list[float]] = {CONSTANTS: [], ARGUMENTS: []}
        runs = ways(arm, problem, training)
        for number in range(config.trials):
            for way, run in runs.items():
                began = time.process_time()
                errors[way].append(run(settings_of(arm, number), lambda step, told: None))
                took[way].append(time.process_time() - began)
        for way, seconds in took.items():
            scores[records.Key(arm, way, "trial", "cpu_seconds")] = np.array([seconds])
        apart[arm] = float(np.abs(np.subtract(errors[CONSTANTS], errors[ARGUMENTS])).max())
        progress.say(f"{arm}: {sum(took[CONSTANTS]):.0f} s and {sum(took[ARGUMENTS]):.0f} s")
    return scores, {"largest difference of errors": apart}


def run(config: Config) -> records.Record:
    """Measures, and writes the record."""
    jax.config.update("jax_enable_compilation_cache", False)
    scores, extra = measured(config)
    arms = records.arms_of(dict.fromkeys(key.arm for key in scores))
    record = records.made("speed", config, arms, scores, scenario="searches", extra=extra)
    records.write(config.output.folder("speed"), NAME, record, config.output.publish)
    return record


def cells(record: records.Record) -> list[list[str]]:
    """The rows of the table: `HEADINGS` of each arm."""
    rows = []
    for arm in record.config["arms"]:
        of = lambda way, arm=arm: record.scores[records.Key(arm, way, "trial", "cpu_seconds")][0]
        alone, (first, *later) = of(CONSTANTS).mean(), of(ARGUMENTS)
        ratio = 30 * alone / (first + 29 * np.mean(later))
        apart = record.extra["largest difference of errors"][arm]
        figures = alone, first, np.mean(later)
        rows.append([arm, *(f"{x:.1f}" for x in figures), f"{ratio:.1f}x", f"{apart:.1g}"])
    return rows


HEADINGS = (
    "arm",
    CONSTANTS,
    f"{ARGUMENTS}: first trial",
    "later ones",
    "30 trials",
    "errors apart",
)


def grid(record: records.Record) -> Grid:
    """The table."""
    title = f"Trials of {record.config['trial_steps']} steps on {record.config['dataset']}"
    return Grid(title, HEADINGS, cells(record))


def markdown(record: records.Record) -> str:
    """The section of the page of speed."""
    told = (
        "Processor seconds of a trial in the searches of the field's tables, compiling included "
        "(`python -m experiments.speed.searches`). *30 trials* is how many times as long they take "
        "with a program for each trial, *errors apart* the largest difference of the validation "
        "errors of the two ways. MAML's inner rate is rounded otherwise as an argument; it and "
        "ANIL's stay constants of a program for each trial."
    )
    return f"## Searches\n\n{told}\n\n{markdown_of(grid(record))}\n"


def main(config: Config) -> None:
    """Prints the seconds of a search, and how many times as long a program for each trial takes."""
    record = records.stored(NAME) if config.output.from_records else run(config)
    terminal(grid(record))


if __name__ == "__main__":
    command.cli(main, Config)
