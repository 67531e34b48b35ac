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


def place(scenario: str, when: str) -> str:
    """How a scenario and a condition are printed: "user-cold", "user-cold, 3 ratings"."""
    shots = when.removeprefix("k=")
    ratings = "" if when == records.ALL else f", {shots} rating{'s' * (shots != '1')}"
    return scenario.replace("_", "-") + ratings


class Gap(NamedTuple):
    """The method minus an arm, pooled over splits and users, with its p-value after Holm."""

    found: intervals.Interval
    p: float


class Estimates(NamedTuple):
    """What is estimated in one place and measure, pooled over splits and users.

    Attributes:
      means: arm -> its mean.
      gaps: arm that is no meta-learner -> the method minus it.
    """

    means: dict[str, intervals.Interval]
    gaps: dict[str, intervals.Interval]


class Comparison:
    """Records of fresh splits as one registration is about them; differences are computed once.

    Attributes:
      told: what was registered, and the commit that it was registered in.
      splits: the record of each split, in the order of their seeds.
      conditions: what is judged: `records.ALL`, tasks as they are, or "k=1" and so on, tasks of
        which so many support ratings are shown.
      record: all splits, with the arms of this registration that all splits have, and its method.
      estimates: (scenario, metric) -> condition that is stored -> `Estimates` of all arms that did
        not diverge.
    """

    def __init__(self, splits: Sequence[records.Record], told: Mapping[str, Any]):
        first, named = splits[0], set(told["arms"])
        in_all = set.intersection(*(set(one.scores) for one in splits))
        keys = [key for key in first.scores if key.arm in named and key in in_all]
        self.told, self.splits = told, list(splits)
        self.conditions = [f"k={k}" for k in told.get("shots", ())] or [records.ALL]
        self.record = dataclasses.replace(
            first,
            method=told["method"],
            arms=tuple(arm for arm in first.arms if arm.name in named),
            scores={k: np.concatenate([one.scores[k] for one in splits], axis=1) for k in keys},
        )
        self.estimates = functools.cache(self._estimates)

    def size(self, scenario: str) -> int:
        """The number of test tasks of all splits."""
        return sum(one.tasks[scenario] for one in self.splits)

    def places(self) -> list[tuple[str, str]]:
        """Every (scenario, condition) that the registration is about."""
        return [(of, when) for of in self.told["scenarios"] for when in self.conditions]

    def differences(self, scenario: str, metric: str) -> dict[str, dict[str, intervals.Interval]]:
        """Condition -> arm that is no meta-learner and did not diverge -> the method minus it."""
        return {when: each.gaps for when, each in self.estimates(scenario, metric).items()}

    def by_ratings(self, scenario: str, metric: str) -> dict[str, dict[str, intervals.Interval]]:
        """Number of support ratings, as text -> arm -> the method minus it; may be empty."""
        each = self.differences(scenario, metric)
        return {when.removeprefix("k="): of for when, of in each.items() if when != records.ALL}

    def mean(
        self, scenario: str, metric: str, arm: str, when: str = records.ALL
    ) -> intervals.Interval | None:
        """The mean of an arm over the tasks of all splits; None if it diverged.

        ``mse`` is reported as its root.
        """
        found = self.estimates(scenario, metric)[when].means.get(arm)
        return found and records.rooted(found, metric)

    def gaps(self, scenario: str, metric: str, when: str = records.ALL) -> dict[str, Gap]:
        """Arm -> the method minus it, by the differences of one condition."""
        found = self.differences(scenario, metric)[when]
        p = intervals.holm(np.array([gap.p for gap in found.values()]))
        each = zip(found.items(), p, strict=True)
        return {arm: Gap(gap, float(v)) for (arm, gap), v in each}

    def ahead(self, scenario: str, metric: str, arm: str, when: str = records.ALL) -> bool:
        """Whether the method is ahead of an arm by the registered rule."""
        gap = self.gaps(scenario, metric, when)[arm]
        good = gap.found.high < 0 if tables.lower_is_better(metric) else gap.found.low > 0
        return bool(good and gap.p < ALPHA)

    def not_beaten(self, scenario: str, metric: str, when: str = records.ALL) -> list[str]:
        """The arms that the method is not ahead of."""
        arms = self.gaps(scenario, metric, when)
        return [arm for arm in arms if not self.ahead(scenario, metric, arm, when)]

    def verdict(self, scenario: str, metric: str, when: str = records.ALL) -> str:
        """Whether the hypothesis holds, and if not, against whom it does not."""
        if self.diverged(scenario, self.record.method, when):
            return "DOES NOT HOLD: the method diverged"
        left = self.not_beaten(scenario, metric, when)
        return f"DOES NOT HOLD against {', '.join(left)}" if left else "holds"

    def diverged(self, scenario: str, arm: str, when: str = records.ALL) -> bool:
        """Whether an arm has diverged, on tasks as they are or on those of a condition."""
        metric = tables.metrics_of(self.record)[0]
        conditions = {records.ALL, when}
        return any(
            tables.diverged(self.record, scenario, arm, one, metric)
            for one in conditions
            if records.Key(scenario, arm, one, metric) in self.record.scores
        )

    def _estimates(self, scenario: str, metric: str) -> dict[str, Estimates]:
        record, method = self.record, self.record.method
        every = [records.ALL, *(f"k={k}" for k in record.shots)]
        stored = [c for c in every if records.Key(scenario, method, c, metric) in record.scores]
        found = {when: Estimates({}, {}) for when in stored}
        alike: dict[bytes, list[tuple[dict[str, intervals.Interval], str, np.ndarray]]] = {}
        for when, (means, gaps) in found.items():
            sound = [arm for arm in record.names() if not self.diverged(scenario, arm, when)]
            at = lambda arm, w=when: intervals.mean_of_seeds(record.of(scenario, arm, w, metric))
            values = {arm: at(arm) for arm in sound}
            columns = [(means, arm, of) for arm, of in values.items()]
            if method in sound:
                rivals = [arm for arm in sound if arm in record.names(records.BASELINE)]
                columns += [(gaps, arm, values[method] - values[arm]) for arm in rivals]
            for column in columns:
                alike.setdefault(np.isnan(column[2]).tobytes(), []).append(column)
        ends = np.cumsum([one.tasks[scenario] for one in self.splits])[:-1]
        for group in alike.values():  # defined for the same tasks: on the same draws, at once
            columns = np.stack([values for *_, values in group], axis=1)
            each = intervals.two_way_bootstraps(np.split(columns, ends))
            for (into, arm, _), interval in zip(group, each, strict=True):
                into[arm] = interval
        return found


def told_apart(gaps: Mapping[str, intervals.Interval], metric: str) -> tuple[list[str], list[str]]:
    """The arms that are behind the method, and those ahead of it, by intervals that exclude 0."""
    below = [arm for arm, gap in gaps.items() if gap.high < 0]
    above = [arm for arm, gap in gaps.items() if gap.low > 0]
    return (below, above) if tables.lower_is_better(metric) else (above, below)


def _groups(splits: Sequence[records.Record]) -> list[tuple[dict[str, Any], list[records.Record]]]:
    """What was registered, with the arms that all of its records have, and these in order."""
    of_seed = lambda one: one.split.seed if one.split else 0
    groups: dict[str, list[tuple[dict[str, Any], records.Record]]] = {}
    for one in sorted(splits, key=of_seed):
        for told in one.extra[REGISTERED]:
            same = repr({k: v for k, v in told.items() if k != "arms"})
            groups.setdefault(same, []).append((told, one))
    found = []
    for group in groups.values():
        common = set.intersection(*(set(told["arms"]) for told, _ in group))
        told = group[0][0]
        told = {**told, "arms": [arm for arm in told["arms"] if arm in common]}
        found.append((told, [one for _, one in group]))
    return found


def _missing(told: Mapping[str, Any], splits: Sequence[records.Record]) -> list[int]:
    """The seeds of the registered splits that are not among those that are there."""
    return sorted(set(told["split_seeds"]) - {one.split.seed for one in splits if one.split})


def comparisons(splits: Sequence[records.Record], digests: Sequence[str] = ()) -> list[Comparison]:
    """What each registration says of its splits, once all of them are there.

    Args:
      splits: a record of each, in any order.
      digests: of the registrations that are asked for; empty for all that the records name.

    Raises:
      UserError: a split is missing.
    """
    found = []
    for told, own in _groups(splits):
        if digests and told["digest"] not in digests:
            continue
        if left := _missing(told, own):
            raise UserError(
                f"no verdict before all registered splits are run: {', '.join(map(str, left))} "
                f"{'is' if len(left) == 1 else 'are'} missing"
            )
        found.append(Comparison(own, told))
    return found


def whole(splits: Sequence[records.Record]) -> list[Comparison]:
    """The comparisons whose splits are all among these records, in the order of their seeds."""
    return [Comparison(own, told) for told, own in _groups(splits) if not _missing(told, own)]
