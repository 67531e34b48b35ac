"""Comparisons that were registered before their splits were opened: differences and verdicts.

The record of such splits, pooled, names in ``extra`` each of its registrations and the number of
tasks of each split; `comparisons` gives the record as each registration is about it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.results import intervals, records, tables

ALPHA = 0.05


class Gap(NamedTuple):
    """The method minus an arm, pooled over splits and users, with its p-value after Holm."""

    found: intervals.Interval
    p: float


class Comparison:
    """A record of fresh splits as one registration is about it; differences are computed once.

    Attributes:
      told: what was registered, and the commit that it was registered in.
      record: the record with the arms of this registration alone, and its method.
      gaps: (scenario, metric) -> arm that is no meta-learner and did not diverge -> the method
        minus it.
    """

    def __init__(self, record: records.Record, told: Mapping[str, Any]):
        arms = tuple(arm for arm in record.arms if arm.name in told["arms"])
        scores = {key: values for key, values in record.scores.items() if key.arm in told["arms"]}
        self.told = told
        self.record = dataclasses.replace(record, method=told["method"], arms=arms, scores=scores)
        self.gaps = functools.cache(self._gaps)

    def size(self, scenario: str) -> int:
        """The number of test tasks of all splits."""
        return sum(sizes[scenario] for sizes in self.record.extra["tasks"])

    def ahead(self, scenario: str, metric: str, arm: str) -> bool:
        """Whether the method is ahead of an arm by the registered rule."""
        gap = self.gaps(scenario, metric)[arm]
        good = gap.found.high < 0 if tables.lower_is_better(metric) else gap.found.low > 0
        return bool(good and gap.p < ALPHA)

    def not_beaten(self, scenario: str, metric: str) -> list[str]:
        """The arms that the method is not ahead of."""
        arms = self.gaps(scenario, metric)
        return [arm for arm in arms if not self.ahead(scenario, metric, arm)]

    def verdict(self, scenario: str, metric: str) -> str:
        """Whether the hypothesis holds, and if not, against whom it does not."""
        if tables.diverged(self.record, scenario, self.record.method):
            return "DOES NOT HOLD: the method diverged"
        left = self.not_beaten(scenario, metric)
        return f"DOES NOT HOLD against {', '.join(left)}" if left else "holds"

    def _gaps(self, scenario: str, metric: str) -> dict[str, Gap]:
        record = self.record
        others = [
            arm
            for arm in record.names(records.BASELINE)
            if not tables.diverged(record, scenario, arm)
        ]
        mean = lambda arm: intervals.mean_of_seeds(record.of(scenario, arm, records.ALL, metric))
        mine = mean(record.method)
        ends = np.cumsum([sizes[scenario] for sizes in record.extra["tasks"]])[:-1]
        each = np.stack([mine - mean(arm) for arm in others], axis=1)
        found = intervals.two_way_bootstraps(np.split(each, ends))
        p = intervals.holm(np.array([gap.p for gap in found]))
        return {arm: Gap(gap, float(v)) for arm, gap, v in zip(others, found, p, strict=True)}


def comparisons(record: records.Record) -> list[Comparison]:
    """Each registration of a record of fresh splits."""
    return [Comparison(record, told) for told in record.extra["registrations"]]
