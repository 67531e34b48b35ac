"""From a method to its table: the same data, arms, controls and statistics for every experiment.

The test tasks are opened once, after the last choice, and the record says when.
"""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax import evaluate, journal, plots, progress, report, tables
from metajax.arms import A2, A4, Joint, Trained, baselines, fold_in_learner, gradients, trained_arm
from metajax.command import cli
from metajax.data import sources
from metajax.learners import pooled
from metajax.problem import Frozen, Problem, Run, freeze, load
from metajax.types import Episode, MetaLearner, Model, Params

__all__ = [
    "A2",
    "A4",
    "Problem",
    "Run",
    "cli",
    "fold_in_learner",
    "freeze",
    "judge",
    "load",
    "run_experiment",
]

EVERY_SHOT = 10**6


def judge(
    arms: dict[str, Trained], problem: Problem, ticket: Frozen
) -> tuple[dict[str, np.ndarray], list]:
    """Per-task test scores of every arm, scenario and condition; opens the test tasks.

    Returns:
      The scores as `report.Record` names them, and the shots of the k-shot curve.
    """
    source, opened = problem.open_test(ticket)
    everything = jax.tree.map(lambda *x: jnp.concatenate(x), *opened.values())
    ends = np.cumsum([tasks.query.label.shape[0] for tasks in opened.values()])
    curve = [k for k in evaluate.SHOTS if k < everything.support.mask.shape[1]]
    whole = jnp.array([[EVERY_SHOT, 0], [EVERY_SHOT, 1]])
    by_shots = jnp.array([[k, 0] for k in curve])
    scores: dict[str, np.ndarray] = {}

    def keep(scenario: str, arm: str, condition: str, found: dict[str, np.ndarray]) -> None:
        for metric, values in found.items():
            scores[report.score_name(scenario, arm, condition, metric)] = values

    with progress.bar("test", len(arms)) as update:
        for i, (arm, trained) in enumerate(arms.items()):
            run = jax.jit(functools.partial(_scores, trained.learner))
            found = jax.tree.map(np.asarray, run(trained.params, source, everything, whole))
            for scenario, end in zip(opened, ends, strict=True):
                rows = slice(end - opened[scenario].query.label.shape[0], end)
                for j, condition in enumerate(("all", "shuffled")):
                    keep(scenario, arm, condition, {m: v[:, j, rows] for m, v in found.items()})
            found = jax.tree.map(
                np.asarray, run(trained.params, source, opened["user_cold"], by_shots)
            )
            for j, k in enumerate(curve):
                keep("user_cold", arm, f"k={k}", {m: v[:, j] for m, v in found.items()})
            update(i + 1, {})
    return scores, curve


def _scores(learner: MetaLearner, params: Params, source, tasks: Episode, conditions: jax.Array):
    """Metrics (S, C, T) under C conditions, each (shots, whether to shuffle support labels)."""
    key_predict, key_ties = jax.random.split(jax.random.key(2))

    def under(params: Params, condition: jax.Array) -> dict[str, jax.Array]:
        shots, shuffle = condition
        alter = evaluate.first_shots(shots, evaluate.when(shuffle > 0, evaluate.shuffled_labels))
        found = evaluate.predictions(learner, params, source, tasks, key_predict, alter)
        return evaluate.rating_metrics(found, tasks, key_ties)

    return jax.lax.map(lambda p: jax.lax.map(lambda c: under(p, c), conditions), params)


def run_experiment(
    name: str,
    config: Any,
    model: Callable[[Any, Problem], Model],
    methods: Mapping[str, Callable[[Any, Problem], tuple[MetaLearner, Any]]],
    method: str,
    joint: Joint = pooled.pooled,
) -> report.Record:
    """Trains every arm, opens the test, writes the record, prints the table, saves the plot.

    Args:
      name: the experiment.
      config: its configuration, with ``run`` and ``outer_rate``.
      model: (config, problem) -> the model that A3, A4 and the methods share.
      methods: arm name -> build(config, problem) -> (learner, outer optimizer).
      method: the arm that the table is about.
      joint: model -> the learner of A3, where the methods train on another loss or on altered
        tasks: A3 and A4 then do so too.
    """
    run: Run = config.run
    short = sources.short_name(run.dataset)
    if run.from_records:
        record = report.read(report.RESULTS / f"{name}-{short}.json")
        tables.show(record)
        return record
    began = time.perf_counter()
    folder = run.out or pathlib.Path("out") / f"{name}-{short}"
    if run.fresh:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    run = dataclasses.replace(run, out=folder)
    problem = load(run)
    seconds = {"data": time.perf_counter() - began}
    arms = baselines(problem, model(config, problem), run, config.outer_rate, joint)
    for arm, build in methods.items():
        learner, tx = build(config, problem)
        arms[arm] = trained_arm(arm, learner, tx, problem, run)
    seconds |= {arm: trained.seconds for arm, trained in arms.items()}
    settings = {arm: trained.settings for arm, trained in arms.items()}
    ticket = freeze(config, settings)
    opened = time.perf_counter()
    scores, shots = judge(arms, problem, ticket)
    seconds |= {"test": time.perf_counter() - opened, "total": time.perf_counter() - began}
    facts = {
        "experiment": name,
        "method": method,
        "arms": list(arms),
        "config": dataclasses.asdict(config),
        "config_hash": report.config_hash(config),
        "environment": report.environment(),
        "data": {
            "name": problem.table.name,
            "checksum": problem.table.checksum(),
            "users": problem.table.num_users,
            "items": problem.table.num_items,
            "interactions": len(problem.table),
        },
        "split": {
            "protocol": problem.split.protocol,
            "seed": problem.split.seed,
            "checksum": problem.split.checksum(),
            "tasks": {k: t.num_tasks for k, t in problem.split.test.items()},
            "meta_train_tasks": problem.split.train.num_tasks,
            "meta_valid_tasks": problem.split.valid["user_cold"].num_tasks,
        },
        "settings": settings,
        "test": ticket._asdict() | {"times_opened": len(problem.opened)},
        "history": {arm: t.history for arm, t in arms.items() if t.history},
        "shots": shots,
        "seconds": seconds,
        "peak_memory": journal.peak_memory(),
        "gradients": gradients(arms, config),
    }
    record = report.Record(facts, scores)
    path = report.write(folder, f"{name}-{short}", record)
    if run.publish:
        report.write(report.RESULTS, f"{name}-{short}", record)
    plots.k_shot(record, "user_cold", folder / "k_shot.png")
    journal.write_checksums(folder)
    tables.show(record)
    print(f"record {path}\nplot   {folder / 'k_shot.png'}")
    return record
