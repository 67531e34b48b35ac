"""Comparisons that were registered before their splits were opened: differences and verdicts.

The record of such splits, pooled, names in ``extra`` each of its registrations and the number of
tasks of each split; `view` is the record as one registration is about it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, records, tables


def view(record: records.Record, number: int) -> records.Record:
    """The record with the arms of one of its registrations alone, and its method.

    Args:
      record: of fresh splits.
      number: which of its registrations, from 0.
    """
    told = record.extra["registrations"][number]
    arms = tuple(arm for arm in record.arms if arm.name in told["arms"])
    scores = {key: values for key, values in record.scores.items() if key.arm in told["arms"]}
    extra = {**record.extra, "registration": told}
    return dataclasses.replace(record, method=told["method"], arms=arms, scores=scores, extra=extra)


class Gap(NamedTuple):
    """The method minus an arm, pooled over splits and users, with its p-value after Holm."""

    found: intervals.Interval
    p: float


def gaps(record: records.Record, scenario: str, metric: str) -> dict[str, Gap]:
    """Arm that is no meta-learner and did not diverge -> the method minus it."""
    method = record.method
    others = [
        arm for arm in record.names(records.BASELINE) if not tables.diverged(record, scenario, arm)
    ]
    ends = np.cumsum([sizes[scenario] for sizes in record.extra["tasks"]])[:-1]
    mean = lambda arm: intervals.mean_of_seeds(record.of(scenario, arm, records.ALL, metric))
    each = [intervals.two_way_bootstrap(np.split(mean(method) - mean(arm), ends)) for arm in others]
    p = intervals.holm(np.array([gap.p for gap in each]))
    return {arm: Gap(gap, float(v)) for arm, gap, v in zip(others, each, p, strict=True)}


def ahead(gap: Gap, metric: str) -> bool:
    """Whether the method is ahead by the registered rule."""
    good = gap.found.high < 0 if tables.lower_is_better(metric) else gap.found.low > 0
    return bool(good and gap.p < 0.05)


def not_beaten(record: records.Record, scenario: str, metric: str) -> list[str]:
    """The arms that the method is not ahead of, by the registered rule."""
    return [arm for arm, gap in gaps(record, scenario, metric).items() if not ahead(gap, metric)]


def verdict(record: records.Record, scenario: str, metric: str) -> str:
    """One line: whether the hypothesis holds, and if not, against whom it does not."""
    if tables.diverged(record, scenario, record.method):
        return "DOES NOT HOLD: the method diverged"
    left = not_beaten(record, scenario, metric)
    return f"DOES NOT HOLD against {', '.join(left)}" if left else "holds"
