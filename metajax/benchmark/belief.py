"""From scores to beliefs: every arm's ordinal link, fitted alike on meta-validation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.benchmark.problem import Problem
from metajax.data import episodes
from metajax.evaluation import judge, ordinal
from metajax.types import UserError


def levels_of(problem: Problem) -> np.ndarray | None:
    """The ratings (L,) that distributions are over; None where all training ratings are the same.

    See `ordinal.levels_of`: half stars and ten stars are levels as they are, a continuous scale is
    cut into 41.
    """
    labels = problem.table.label[problem.split.train_rows]
    try:
        return ordinal.levels_of(labels, problem.table.scale)
    except UserError:
        return None


def links_of(
    arms: Mapping[str, judge.Judged], problem: Problem, levels: np.ndarray
) -> dict[str, ordinal.Link]:
    """Arm -> the link of each of its seeds, leaves (S, ...), of greatest likelihood.

    Fitted on the query rows of all meta-validation tasks, which every arm gets alike.
    """
    source, tasks = problem.valid
    query, ratings = tasks.query, jnp.asarray(levels)
    fit = jax.jit(jax.vmap(lambda score: ordinal.fit(score, query.label, query.mask, ratings)))
    return {
        name: fit(
            judge.scored(
                arm,
                tasks,
                jax.random.key(4),
                fetch=episodes.fetch,
                source=source,
                predict=problem.predict,
            )
        )
        for name, arm in arms.items()
    }


def told(levels: np.ndarray | None, labels: np.ndarray, unit: float) -> dict[str, Any]:
    """The levels of the rating scale for the record, in the unit that ratings were read in.

    Args:
      labels: (n,) of the training rows.
      unit: see `Problem.unit`.
    """
    if levels is None:
        return {}
    even = not np.isin(labels, levels).all()
    step = float(np.diff(levels).min()) * unit
    return {"ordinal": {"levels": len(levels), "even": even, "step": step}}
