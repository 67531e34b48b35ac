"""Makes the scores of arms comparable: in one unit, and over the same tasks."""

from collections import defaultdict

import numpy as np

from metajax.results.records import Key
from metajax.results.tables import lower_is_better

POWER_OF_UNIT = {
    "mae": 1,
    "rmse": 1,
    "mse": 2,
    "mae_calibrated": 1,
    "mse_calibrated": 2,
    "crps": 1,
}
"""Metric -> the power of the ratings' unit that it is in; 0 for all others."""


def in_unit(metric: str, values: np.ndarray, unit: float) -> np.ndarray:
    """Scores (S, T) of ratings that were rescaled to 1..5, converted to the unit that was read.

    Args:
      metric: its name, which decides the power of the unit, see `POWER_OF_UNIT`.
      values: scores on the scale 1..5.
      unit: see `problem.Problem.unit`.
    """
    return values if unit == 1.0 else values * unit ** POWER_OF_UNIT.get(metric, 0)


def on_the_same_tasks(scores: dict[Key, np.ndarray]) -> tuple[dict[Key, np.ndarray], list[str]]:
    """The scores, with a task set to NaN for every arm if it is NaN for one of them.

    So all means in a column of the table are over the same tasks. An arm that is NaN for all tasks
    has diverged: its scores become infinitely bad, and no task is left out because of it.

    Args:
      scores: key -> (S, T), NaN where a metric is undefined.

    Returns:
      The scores, and a message for each arm because of which tasks of other arms are left out.
    """
    found, told = dict(scores), []
    groups: dict[tuple[str, str, str], list[Key]] = defaultdict(list)
    for key in scores:
        groups[key.scenario, key.condition, key.metric].append(key)
    for (scenario, condition, metric), keys in groups.items():
        undefined = {key: np.isnan(scores[key]).any(axis=0) for key in keys}
        sound = [key for key in keys if not undefined[key].all()]
        if not sound:
            continue
        in_all = np.logical_and.reduce([undefined[key] for key in sound])
        in_some = np.logical_or.reduce([undefined[key] for key in sound])
        where = f"{scenario}, {condition}, {metric}"
        for key in keys:
            if key not in sound:
                worst = np.inf if lower_is_better(metric) else -np.inf
                found[key] = np.full_like(scores[key], worst)
                told.append(f"{where}: {key.arm} DIVERGED, no prediction of its is a number")
            elif (own := (undefined[key] & ~in_all).sum()) > 0:
                told.append(
                    f"{where}: {in_some.sum()} of {in_some.size} tasks are left out for every arm, "
                    f"{own} of them because predictions of {key.arm} are not finite; lower its "
                    "inner rate"
                )
            if key in sound and (in_some & ~np.isnan(scores[key])).any():
                found[key] = np.where(in_some, np.nan, scores[key])
    return found, told
