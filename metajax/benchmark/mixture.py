"""A10: the arms of a table mixed by weights that meta-validation chooses.

Scores of learners, of trees and of closed forms are summed with weights that are not negative
(Breiman, "Stacked regressions", Machine Learning 1996). They are fitted on validation tasks, which
no arm was fitted on, each divided anew in support and query several times. For items without
ratings there is nothing to fit weights on: validation has hardly any, and items whose estimates are
hidden were still seen in training, where trees remember them. There the strong arms have even
weights, which are hard to beat (Clemen, "Combining forecasts", International Journal of Forecasting
1989). Two mixtures are the controls of one with a meta-learner: A10, without it, and A11, with
trees fitted on another draw of tasks in its place, for what any further arm would bring.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import A7, Trained
from metajax.benchmark.boosting import A8, A8_ALONE, A8_REDRAWN
from metajax.benchmark.problem import Problem, laid_out
from metajax.data import episodes, split
from metajax.evaluation import judge
from metajax.results import records
from metajax.types import Episode

A10, A11, MIXED = "A10 mixture", "A11 mixture", "A6 mixture"
EVEN = (A7, A8, A8_ALONE, A8_REDRAWN)
"""Baselines that count for items without ratings, beside the meta-learners."""
NUM_DRAWS = 8


def mixture_arm(
    problem: Problem,
    arms: Mapping[str, Trained | Fitted],
    num_draws: int = NUM_DRAWS,
    role: str = records.BASELINE,
) -> Fitted:
    """The mixture of arms: fitted weights for items with ratings, `even_weights` for those without.

    An arm of S seeds makes a mixture of S seeds, each with the same weights; its seeds are not
    averaged.

    Args:
      problem: its validation tasks choose the weights.
      arms: trained and tuned.
      num_draws: how often each validation task is divided anew.
      role: of the mixture in a table.
    """
    began = time.perf_counter()
    ready = {name: _scorer(arm, problem) for name, arm in arms.items()}
    source, tasks, key = problem.valid[0], redrawn(problem, num_draws), jax.random.key(0)
    weights = {
        "rated": fitted_weights(_scores(ready, source, tasks, key), tasks, problem.mean),
        "unrated": even_weights(arms),
    }

    def mixed(source: episodes.Source, tasks: Episode, each: Sequence[np.ndarray]) -> np.ndarray:
        scores = _of_all_seeds(each) - problem.mean
        rated = np.asarray(source.inputs["count"])[np.asarray(tasks.query.inputs)] > 0
        of = {k: np.tensordot(w, scores, axes=1) for k, w in weights.items()}
        return (problem.mean + np.where(rated, of["rated"], of["unrated"])).astype(np.float32)

    predict = judge.Mixture(ready, mixed)
    query = problem.valid[1].query
    first = jnp.asarray(predict(*problem.valid, key))
    error = [float(problem.error(scores, query.label, query.mask)) for scores in first]
    told: dict[str, Any] = {
        f"weights, items {name}": dict(zip(arms, w.round(4).tolist(), strict=True))
        for name, w in weights.items()
    }
    told |= {"num_draws": num_draws, "valid": float(np.mean(error))}
    return Fitted(predict, told, time.perf_counter() - began, role=role)


def redrawn(problem: Problem, num_draws: int, seed: int = 0) -> Episode:
    """The validation tasks, each ``num_draws`` times with its rows in another random order."""
    rng, found = np.random.default_rng(seed), []
    for tasks in problem.split.valid.values():
        for _ in range(num_draws):
            found.append(laid_out(_shuffled(tasks, rng), problem.split.num_query))
    return judge.together(found)


def _shuffled(tasks: split.Tasks, rng: np.random.Generator) -> split.Tasks:
    """The tasks with the rows of each in random order."""
    task = np.repeat(np.arange(tasks.num_tasks), tasks.length)
    rows = np.repeat(tasks.start, tasks.length)
    rows = (
        rows
        + np.arange(len(rows))
        - np.repeat(np.cumsum(tasks.length) - tasks.length, tasks.length)
    )
    rows = rows[np.lexsort((rng.random(len(rows)), task))]
    start = (np.cumsum(tasks.length) - tasks.length).astype(np.int32)
    return tasks._replace(start=start, other=tasks.other[rows], label=tasks.label[rows])


def even_weights(arms: Mapping[str, Trained | Fitted]) -> np.ndarray:
    """The same weight for each of `EVEN` and each meta-learner, 0 for others: (M,) of M arms.

    Where none of these is there, all arms count alike.
    """
    chosen = np.array([name in EVEN or arm.role == records.METHOD for name, arm in arms.items()])
    return chosen / chosen.sum() if chosen.any() else np.full(len(chosen), 1 / len(chosen))


def fitted_weights(scores: np.ndarray, tasks: Episode, mean: float) -> np.ndarray:
    """The weights (M,), none negative, with the least squared error; every task counts alike.

    Args:
      scores: (M, S, T, Q) of M arms.
      tasks: T tasks with their labels.
      mean: the rating that scores and labels are differences from.
    """
    mask, label = np.asarray(tasks.query.mask), np.asarray(tasks.query.label)
    weight = np.sqrt(mask / np.maximum(mask.sum(axis=1, keepdims=True), 1))
    x = ((scores - mean) * weight).reshape(len(scores), -1)
    y = np.broadcast_to((label - mean) * weight, scores.shape[1:]).ravel()
    gram, moment = x @ x.T, x @ y
    root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram)))
    return optimize.nnls(root.T, np.linalg.solve(root, moment))[0]


def _scorer(arm: Trained | Fitted, problem: Problem) -> judge.Scorer:
    judged = arm.predict if isinstance(arm, Fitted) else (arm.learner, arm.params)
    return judge.scorer(judged, fetch=episodes.fetch, predict=problem.predict)


def _scores(
    ready: Mapping[str, judge.Scorer],
    source: episodes.Source,
    tasks: Episode,
    key: jax.Array,
) -> np.ndarray:
    """The scores (M, S, T, Q) of M arms."""
    return _of_all_seeds([np.asarray(run(source, tasks, key)) for run in ready.values()])


def _of_all_seeds(each: Sequence[np.ndarray]) -> np.ndarray:
    """Scores (M, S, T, Q) of M arms; an arm of one seed has the same scores for all seeds."""
    seeds = max(scores.shape[0] for scores in each)
    same = [np.broadcast_to(scores, (seeds, *scores.shape[1:])) for scores in each]
    return np.stack(same, dtype=np.float64)
