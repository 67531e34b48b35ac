"""Comparisons that were registered before their splits were opened: differences and verdicts.

Each split has a record, which names its registrations in ``extra``. `comparisons` pools the records
of all splits of a registration and gives them as each registration is about them.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metajax.results import intervals, records, tables
from metajax.types import UserError

ALPHA = 0.05
REGISTERED = "registrations"
"""Where a record of a fresh split has what was registered about it."""


class Gap(NamedTuple):
    """The method minus an arm, pooled over splits and users, with its p-value after Holm."""

    found: intervals.Interval
    p: float


class Comparison:
    """A record of fresh splits as one registration is about it; differences are computed once.

    Attributes:
      told: what was registered, and the commit that it was registered in.
      sizes: scenario -> number of test tasks, of each split.
      record: all splits, with the arms of this registration alone, and its method.
      gaps: (scenario, metric) -> arm that is no meta-learner and did not diverge -> the method
        minus it.
    """

    def __init__(self, splits: Sequence[records.Record], told: Mapping[str, Any]):
        first, named = splits[0], set(told["arms"])
        keys = [key for key in first.scores if key.arm in named]
        self.told = told
        self.sizes = [dict(one.tasks) for one in splits]
        self.record = dataclasses.replace(
            first,
            method=told["method"],
            arms=tuple(arm for arm in first.arms if arm.name in named),
            scores={k: np.concatenate([one.scores[k] for one in splits], axis=1) for k in keys},
        )
        self.gaps = functools.cache(self._gaps)

    def size(self, scenario: str) -> int:
        """The number of test tasks of all splits."""
        return sum(sizes[scenario] for sizes in self.sizes)

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
        ends = np.cumsum([sizes[scenario] for sizes in self.sizes])[:-1]
        each = np.stack([mine - mean(arm) for arm in others], axis=1)
        found = intervals.two_way_bootstraps(np.split(each, ends))
        p = intervals.holm(np.array([gap.p for gap in found]))
        return {arm: Gap(gap, float(v)) for arm, gap, v in zip(others, found, p, strict=True)}


def missing(splits: Sequence[records.Record]) -> list[int]:
    """The seeds of the registered splits that are not among those that are there."""
    there = {one.split.seed for one in splits if one.split}
    asked = [seed for told in splits[0].extra[REGISTERED] for seed in told["split_seeds"]]
    return sorted(set(asked) - there)


def comparisons(splits: Sequence[records.Record]) -> list[Comparison]:
    """What each registration says of its splits, once all of them are there.

    Args:
      splits: a record of each, in any order.

    Raises:
      UserError: a split is missing, or two have other registrations.
    """
    if not splits:
        return []
    if left := missing(splits):
        raise UserError(
            f"no verdict before all registered splits are run: {', '.join(map(str, left))} "
            f"{'is' if len(left) == 1 else 'are'} missing"
        )
    ordered = sorted(splits, key=lambda one: one.split.seed if one.split else 0)
    told = ordered[0].extra[REGISTERED]
    if any(one.extra[REGISTERED] != told for one in ordered):
        raise UserError("the splits are not of the same registrations; give those of one folder")
    return [Comparison(ordered, one) for one in told]


def whole(splits: Sequence[records.Record]) -> list[Comparison]:
    """The comparisons whose splits are all among these records, in the order of the records."""
    groups: dict[str, list[records.Record]] = {}
    for one in splits:
        groups.setdefault(repr(one.extra[REGISTERED]), []).append(one)
    there = [group for group in groups.values() if not missing(group)]
    return [found for group in there for found in comparisons(group)]
