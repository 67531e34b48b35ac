"""From scores to distributions over ratings: an ordinal link for each arm (`evaluation.ordinal`).

The links of all arms are fitted in the same way, on the same meta-validation tasks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.benchmark.problem import Problem
from metajax.data import episodes
from metajax.evaluation import judge, ordinal
from metajax.types import UserError


def levels_in(labels: np.ndarray, scale: tuple[float, float]) -> np.ndarray | None:
    """The L rating levels (L,) that distributions are over; None if all labels (n,) are equal.

    Half stars and ten stars are levels as they are; a continuous scale is cut into 41 levels, see
    `ordinal.levels_of`.
    """
    try:
        return ordinal.levels_of(labels, scale)
    except UserError:
        return None


def levels_of(problem: Problem) -> np.ndarray | None:
    """The `levels_in` the training ratings of a problem."""
    return levels_in(problem.table.label[problem.split.train_rows], problem.table.scale)


def links_of(
    arms: Mapping[str, judge.Judged], problem: Problem, levels: np.ndarray
) -> dict[str, ordinal.Link]:
    """Arm -> the maximum-likelihood link of each of its S seeds, leaves (S, ...).

    Args:
      arms: what the judge scores, by name.
      problem: the query rows of all its meta-validation tasks are what links are fitted on.
      levels: (L,) of `levels_of`.
    """
    source, tasks = problem.valid
    given = {"fetch": episodes.fetch, "source": source, "predict": problem.predict}
    return judge.links_of(arms, tasks, levels, **given)


def facts(levels: np.ndarray | None, labels: np.ndarray, unit: float) -> dict[str, Any]:
    """What a record says of the rating levels: their number, and the smallest step between them.

    Args:
      levels: (L,) of `levels_of`; None gives an empty dictionary.
      labels: (n,) the ratings of the training rows.
      unit: see `Problem.unit`; the step is told in the unit in which ratings were read.
    """
    if levels is None:
        return {}
    even = not np.isin(labels, levels).all()
    step = float(np.diff(levels).min()) * unit
    return {"ordinal": {"levels": len(levels), "even": even, "step": step}}


def scale_of(problem: Problem) -> dict[str, Any]:
    """The `facts` of the rating levels of a problem, for a record's ``extra``."""
    labels = problem.table.label[problem.split.train_rows]
    return facts(levels_of(problem), labels, problem.unit)
