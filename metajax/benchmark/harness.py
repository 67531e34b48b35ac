"""From a method to its table: the same data, arms, controls and statistics for every experiment.

`run_experiment` is the whole of it: it reads and splits the data, trains the baselines and the
methods, chooses settings on meta-validation, opens the test tasks once after the last choice,
judges, and writes the record, the table and the plot.
"""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from metajax.benchmark import belief, strong
from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import (
    A0,
    A1,
    A2,
    A7,
    Joint,
    Trained,
    baselines,
    gradients,
    state_bytes,
    trained_arm,
    unfinished,
)
from metajax.benchmark.problem import Problem, freeze, groups_of, load
from metajax.benchmark.scores import in_unit, on_the_same_tasks
from metajax.data import episodes
from metajax.data.sources import named
from metajax.evaluation import evaluate, leaks
from metajax.evaluation import judge as judging
from metajax.evaluation.check import check
from metajax.learners import pooled
from metajax.results import groups, plots, records, tables
from metajax.settings import Data, Output, SplitOptions, Training
from metajax.training import journal, progress, standstill
from metajax.types import Episode, MetaLearner, Model

EQUAL = Training(seeds=5, num_steps=2000, patience=300, num_tasks=32)
"""The budget of every trained arm: to its plateau on meta-validation, with the same seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of every rating experiment; an experiment adds its own in a subclass."""

    output: Output = Output()
    data: Data = Data()
    split: SplitOptions = SplitOptions()
    training: Training = EQUAL


Built = tuple[MetaLearner, optax.GradientTransformation]
"""What the ``build`` of an experiment returns: the learner and its outer optimizer."""
Metrics = evaluate.Metrics
Extra = Callable[[Any, Problem, pathlib.Path], Mapping[str, Trained]]
"""(config, problem, folder of the run) -> further arms, trained, for the table."""
Ready = Trained | Fitted
"""An arm that is ready for the test."""
CURVE = "user_cold"


def curves_of(scenarios: Collection[str]) -> tuple[str, ...]:
    """The scenario whose k-shot curve is drawn: that of new users, else the first."""
    return (CURVE if CURVE in scenarios else next(iter(scenarios)),)


def judge(
    arms: Mapping[str, Ready],
    problem: Problem,
    opened: Mapping[str, Episode],
    metrics: Metrics = evaluate.rating_metrics,
    curves: Collection[str] | None = None,
    main: str = "mse",
) -> dict[records.Key, np.ndarray]:
    """Per-task scores (S, T) of trained arms on opened test tasks, see `evaluation.judge`.

    Args:
      arms: name -> the arm, trained and tuned.
      opened: scenario -> tasks, from `Problem.open_test`.
      metrics: (scores (T, Q), tasks, key) -> metric -> (T,).
      curves: the scenarios for which a k-shot curve is computed; None for `curves_of`.
      main: the metric that controls and curves are computed in.
    """
    judged = {
        name: arm.predict if isinstance(arm, Fitted) else (arm.learner, arm.params)
        for name, arm in arms.items()
    }
    levels = None if problem.events else belief.levels_of(problem)
    links = {} if levels is None else belief.links_of(judged, problem, levels)
    with progress.bar("test", len(arms)) as update:
        found = judging.judge(
            judged,
            opened,
            fetch=episodes.fetch,
            source=problem.valid[0],
            metrics=metrics,
            curves=curves_of(opened) if curves is None else curves,
            main=main,
            predict=problem.predict,
            links=links,
            report=lambda done: update(done, {}),
        )
    scores, told = on_the_same_tasks(
        {key: in_unit(key.metric, values, problem.unit) for key, values in found.items()}
    )
    for line in told:
        progress.say(line)
    return scores


def data_of(problem: Problem) -> records.Data:
    """The data set's name, checksum and sizes, for the record."""
    return records.data_of(problem.table)


def split_of(problem: Problem) -> records.Split:
    """The split's protocol, seed, checksum and numbers of tasks, for the record."""
    split = problem.split
    return records.Split(
        split.protocol,
        split.seed,
        split.checksum(),
        {scenario: tasks.num_tasks for scenario, tasks in split.test.items()},
        split.train.num_tasks,
        sum(tasks.num_tasks for tasks in split.valid.values()),
    )


def load_data(config: Any) -> Problem:
    """The problem that the options of a rating experiment describe, see `problem.load`."""
    return load(config.data, config.split, config.training.num_support)


def _metrics_of(problem: Problem) -> Metrics:
    """Errors of predicted ratings; for events, how high they are ranked among sampled items."""
    if problem.events:
        return evaluate.event_metrics(problem.table.scale[0])
    return evaluate.rating_metrics


def name_of(name: str, config: Any) -> str:
    """The name of an experiment's record: with the data set, and its activations if narrow."""
    narrow = "-bf16" * (getattr(config, "compute", "float32") == "bfloat16")
    return f"{name}-{named.short_name(config.data.dataset)}{narrow}"


def run_experiment(
    name: str,
    config: Any,
    model: Callable[[Any, Problem], Model],
    methods: Mapping[str, Callable[[Any, Problem], Built]],
    method: str,
    joint: Joint = pooled.pooled,
    prepare: Callable[[Any, Problem], Problem] = lambda config, problem: problem,
    ablations: Collection[str] = (),
    *,
    protocol: Callable[[Any], Problem] = load_data,
    metrics: Metrics | None = None,
    main: str | None = None,
    extra: Extra = lambda config, problem, folder: {},
    table: Callable[[records.Record], None] = tables.show,
) -> records.Record:
    """Checks the methods, trains every arm, opens the test, writes the record, prints the table.

    Args:
      name, config: the experiment and its `Config`, with ``outer_rate``.
      model: (config, problem) -> the model that A3, A4 and the methods share.
      methods: arm name -> build(config, problem) -> (learner, outer optimizer).
      method: the arm that the table is about.
      joint: model -> the learner of A3, where the methods train on another loss or on altered
        tasks: A3 and A4 then do so too.
      prepare: (config, problem) -> the problem with columns that the methods need.
      ablations: those of the methods that are the method with a part changed.
      protocol: config -> the problem: data, split and how choices are made.
      metrics: (scores (T, Q), tasks, key) -> metric -> (T,), what the test measures; else by log.
      main: the metric of differences, controls and the curve; else the first.
      extra: further arms beside baselines and methods, trained by whatever means.
      table: prints a record.
    """
    output = config.output
    called = name_of(name, config)
    folder = output.folder(called)
    if output.from_records:
        record = records.stored(called, otherwise=folder)
        table(record)
        return record
    began = time.perf_counter()
    if config.training.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    problem = prepare(config, protocol(config))
    loaded = time.perf_counter() - began
    metrics = metrics or _metrics_of(problem)
    main = main or ("auc" if problem.events else "mse")
    arms, notes = train_arms(config, problem, folder, model, methods, joint, ablations)
    arms |= extra(config, problem, folder)
    seconds = {"data": loaded}
    record = judged(
        name, config, method, problem, arms, seconds, began, metrics, main=main, notes=notes
    )
    path = records.write(folder, called, record, output.publish)
    table(record)
    print(f"record {path}")
    plots.k_shot(record, curves_of(record.tasks)[0], folder / "k_shot.png", main)
    print(f"plot   {folder / 'k_shot.png'}")
    journal.write_checksums(folder)
    return record


def train_arms(
    config: Any,
    problem: Problem,
    folder: pathlib.Path,
    model: Callable[[Any, Problem], Model],
    methods: Mapping[str, Callable[[Any, Problem], Built]],
    joint: Joint,
    ablations: Collection[str],
) -> tuple[dict[str, Ready], list[str]]:
    """The tuned baselines and the meta-trained methods, and what is to be said below the table.

    Arguments are those of `run_experiment`.
    """
    training, network = config.training, model(config, problem)
    built = {arm: build(config, problem) for arm, build in methods.items()}
    for arm, (learner, _) in built.items():
        if arm not in ablations:
            check(learner, problem.example, quick=True)
    arms: dict[str, Ready] = {}
    arms |= baselines(problem, network, training, config.outer_rate, joint, folder)
    notes: list[str] = []
    if not problem.events:
        combined, notes = strong.combined(problem, closed_forms_of(arms), training)
        arms |= combined
    for arm, (learner, tx) in built.items():
        role = records.ABLATION if arm in ablations else records.METHOD
        made = trained_arm(arm, learner, tx, problem, training, folder)
        arms[arm] = made._replace(role=role)
    return arms, notes


def closed_forms_of(arms: Mapping[str, Ready]) -> dict[str, Trained]:
    """The arms A0, A1, A2 and A7 of a table."""
    known = {name: arms[name] for name in (A0, A1, A2, A7) if name in arms}
    return {name: arm for name, arm in known.items() if isinstance(arm, Trained)}


def judged(
    name: str,
    config: Any,
    method: str,
    problem: Problem,
    arms: Mapping[str, Ready],
    seconds: dict[str, float],
    began: float,
    metrics: Metrics = evaluate.rating_metrics,
    curves: Collection[str] | None = None,
    main: str = "mse",
    notes: Sequence[str] = (),
) -> records.Record:
    """The record of trained arms: freezes their settings, opens the test tasks, and judges.

    Args:
      name: the experiment, which the ledger names as the one that opens the test tasks.
      method: the arm that the record is about.
      seconds: wall time of what was done beside training, by name.
      began: `time.perf_counter` at the start of the run.
      metrics, curves, main: see `judge`.
      notes: lines to print below the table.
    """
    settings = {arm: trained.settings for arm, trained in arms.items()}
    _, opened = problem.open_test(freeze(config, settings), name)
    since = time.perf_counter()
    with standstill.watched():
        scores = judge(arms, problem, opened, metrics, curves, main)
    spent = {"test": time.perf_counter() - since, "total": time.perf_counter() - began}
    notes = [*notes, *unfinished(arms, config.training)]
    took, labels = gradients(arms, config.training), problem.table.label[problem.split.train_rows]
    levels = None if problem.events else belief.levels_of(problem)
    extra = {groups.GROUPS: groups_of(problem), **belief.facts(levels, labels, problem.unit)}
    return records.made(
        name,
        config,
        [
            records.Arm(
                arm,
                t.role,
                t.settings,
                t.seconds,
                took[arm],
                stored_bytes(t, problem),
                t.history,
            )
            for arm, t in arms.items()
        ],
        scores,
        method=method,
        data=data_of(problem),
        split=split_of(problem),
        shots=shots_of(scores),
        seconds=seconds | spent,
        opened=(problem.opened[-1],),
        peak_memory=journal.peak_memory(),
        extra=extra | {"notes": [*notes_of(problem), *notes]},
    )


def notes_of(problem: Problem) -> list[str]:
    """Lines below a table that say what makes its test easier than it looks."""
    drawn = (
        "Events stand among items drawn at random of those that their person did not meet, in the "
        "test rows neither: in warm tasks, what is drawn in training tells a little of the test."
    )
    return [drawn] * problem.events + leaks.counted(problem.split, problem.table)


def stored_bytes(arm: Ready, problem: Problem) -> int | None:
    """Bytes that a service stores of a user; None for an arm that is not a learner."""
    if isinstance(arm, Fitted):
        return None
    one_seed = jax.tree.map(lambda x: x[0], arm.params)
    return state_bytes(arm.learner, one_seed, problem.example.profile)


def shots_of(scores: Mapping[records.Key, np.ndarray]) -> tuple[int, ...]:
    """The numbers of support rows at which the scores have a k-shot curve, ascending."""
    found = {key.condition for key in scores if key.condition.startswith("k=")}
    return tuple(sorted(int(condition[2:]) for condition in found))
