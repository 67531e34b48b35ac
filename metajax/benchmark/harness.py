"""From a method to its table: the same data, arms, controls and statistics for every experiment.

The test tasks are opened once, after the last choice, and the record says when.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark.baselines import (
    A2,
    A4,
    Joint,
    Trained,
    baselines,
    fold_in_learner,
    gradients,
    state_bytes,
    trained_arm,
)
from metajax.benchmark.command import cli
from metajax.benchmark.problem import Frozen, Problem, freeze, load
from metajax.benchmark.scores import in_unit, on_the_same_tasks
from metajax.data.episodes import Source
from metajax.data.sources import named
from metajax.evaluation import evaluate
from metajax.evaluation.check import check
from metajax.learners import pooled
from metajax.results import plots, records, tables
from metajax.settings import Data, Output, Positive, Share, SplitOptions, Training
from metajax.training import journal, progress
from metajax.types import Episode, MetaLearner, Model, Params

__all__ = [
    "A2",
    "A4",
    "Config",
    "Data",
    "Output",
    "Positive",
    "Problem",
    "Share",
    "SplitOptions",
    "Training",
    "cli",
    "fold_in_learner",
    "freeze",
    "judge",
    "load",
    "run_experiment",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of every rating experiment; an experiment adds its own in a subclass."""

    output: Output = Output()
    data: Data = Data()
    split: SplitOptions = SplitOptions()
    training: Training = Training()


Metrics = Callable[[jax.Array, Episode, jax.Array], dict[str, jax.Array]]


def judge(
    arms: dict[str, Trained],
    problem: Problem,
    ticket: Frozen,
    metrics: Metrics = evaluate.rating_metrics,
) -> tuple[dict[records.Key, np.ndarray], list[int]]:
    """Per-task test scores of every arm, scenario and condition; opens the test tasks.

    All conditions are laid out as one list of tasks, so that an arm is one program.

    Args:
      metrics: (scores (T, Q), episodes, key) -> metrics (T,) per task.

    Returns:
      The scores by `report.Key`, and the shots of the k-shot curve.
    """
    source, opened = problem.open_test(ticket)
    key_alter, key_predict, key_ties = jax.random.split(jax.random.key(2), 3)
    laid_out: dict[tuple[str, str], Episode] = {}
    for i, (scenario, tasks) in enumerate(opened.items()):
        keys = jax.random.split(jax.random.fold_in(key_alter, i), tasks.query.label.shape[0])
        laid_out[scenario, "all"] = tasks
        laid_out[scenario, "shuffled"] = jax.vmap(evaluate.shuffled_labels)(keys, tasks)
    cold = opened["user_cold"]
    curve = [k for k in evaluate.SHOTS if k < cold.support.mask.shape[1]]
    for k in curve:
        laid_out["user_cold", f"k={k}"] = jax.vmap(partial(evaluate.first_shots(k), key_ties))(cold)
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *laid_out.values())
    ends = np.cumsum([tasks.query.label.shape[0] for tasks in laid_out.values()])

    rate = jax.jit(jax.vmap(metrics, (0, None, None)))
    scores: dict[records.Key, np.ndarray] = {}
    with progress.bar("test", len(arms)) as update:
        for i, (arm, trained) in enumerate(arms.items()):
            predict = jax.jit(partial(_predict, trained.learner))
            found = rate(predict(trained.params, source, together, key_predict), together, key_ties)
            for metric, values in found.items():
                parts = np.split(in_unit(metric, np.asarray(values), problem.unit), ends[:-1], 1)
                for (scenario, condition), part in zip(laid_out, parts, strict=True):
                    scores[records.Key(scenario, arm, condition, metric)] = part
            update(i + 1, {})
    scores, told = on_the_same_tasks(scores)
    for line in told:
        print(line)
    return scores, curve


def _predict(learner: MetaLearner, params: Params, source: Source, tasks: Episode, key: jax.Array):
    """Scores (S, T, Q) of every seed."""
    return jax.lax.map(lambda p: evaluate.predictions(learner, p, source, tasks, key), params)


def data_of(problem: Problem) -> records.Data:
    """What a record says of the data."""
    table = problem.table
    sizes = table.num_users, table.num_items, len(table)
    return records.Data(table.name, table.checksum(), *sizes)


def split_of(problem: Problem) -> records.Split:
    """What a record says of the split."""
    split = problem.split
    return records.Split(
        split.protocol,
        split.seed,
        split.checksum(),
        {scenario: tasks.num_tasks for scenario, tasks in split.test.items()},
        split.train.num_tasks,
        sum(tasks.num_tasks for tasks in split.valid.values()),
    )


def run_experiment(
    name: str,
    config: Any,
    model: Callable[[Any, Problem], Model],
    methods: Mapping[str, Callable[[Any, Problem], tuple[MetaLearner, Any]]],
    method: str,
    joint: Joint = pooled.pooled,
    prepare: Callable[[Any, Problem], Problem] = lambda config, problem: problem,
    ablations: Collection[str] = (),
) -> records.Record:
    """Checks the methods, trains every arm, opens the test, writes the record, prints the table.

    Args:
      name: the experiment.
      config: its configuration, with ``run`` and ``outer_rate``.
      model: (config, problem) -> the model that A3, A4 and the methods share.
      methods: arm name -> build(config, problem) -> (learner, outer optimizer).
      method: the arm that the table is about.
      joint: model -> the learner of A3, where the methods train on another loss or on altered
        tasks: A3 and A4 then do so too.
      prepare: (config, problem) -> the problem with columns that the methods need.
      ablations: those of the methods that are the method with a part changed.
    """
    output, training = config.output, config.training
    short = named.short_name(config.data.dataset)
    if output.from_records:
        record = records.stored(f"{name}-{short}")
        tables.show(record)
        return record
    if output.publish:
        records.require_clean(records.environment())
    began = time.perf_counter()
    folder = output.folder(f"{name}-{short}")
    if training.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    problem = prepare(config, load(config.data, config.split, training.num_support))
    loaded = time.perf_counter() - began
    network = model(config, problem)
    built = {arm: build(config, problem) for arm, build in methods.items()}
    for arm, (learner, _) in built.items():
        if arm not in ablations:
            check(learner, problem.example, quick=True)
    arms = baselines(problem, network, training, config.outer_rate, joint, folder)
    for arm, (learner, tx) in built.items():
        role = records.ABLATION if arm in ablations else records.METHOD
        made = trained_arm(arm, learner, tx, problem, training, folder)
        arms[arm] = made._replace(role=role)
    record = judged(name, config, method, problem, arms, {"data": loaded}, began)
    path = records.write(folder, f"{name}-{short}", record)
    if output.publish:
        records.publish(f"{name}-{short}", record)
    plots.k_shot(record, "user_cold", folder / "k_shot.png")
    journal.write_checksums(folder)
    tables.show(record)
    print(f"record {path}\nplot   {folder / 'k_shot.png'}")
    return record


def judged(
    name: str,
    config: Any,
    method: str,
    problem: Problem,
    arms: dict[str, Trained],
    seconds: dict[str, float],
    began: float,
    metrics: Metrics = evaluate.rating_metrics,
) -> records.Record:
    """The record of arms that are trained: freezes their settings and opens the test tasks.

    Args:
      seconds: of what was done beside training.
      began: `time.perf_counter` at the start of it all.
      metrics: see `judge`.
    """
    settings = {arm: trained.settings for arm, trained in arms.items()}
    ticket = freeze(config, settings)
    opened = time.perf_counter()
    scores, shots = judge(arms, problem, ticket, metrics)
    spent = {"test": time.perf_counter() - opened, "total": time.perf_counter() - began}
    took, profile = gradients(arms, config.training), problem.example.profile
    times = len(problem.opened)
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
                state_bytes(t.learner, jax.tree.map(lambda x: x[0], t.params), profile),
                t.history,
            )
            for arm, t in arms.items()
        ],
        scores,
        method=method,
        data=data_of(problem),
        split=split_of(problem),
        shots=tuple(shots),
        seconds=seconds | spent,
        opened=(records.Opening(**ticket._asdict(), times_opened=times),),
        peak_memory=journal.peak_memory(),
    )
