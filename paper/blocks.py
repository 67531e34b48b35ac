"""Tables made of blocks: the arms of one record and scenario by measures or by numbers of ratings.

Each cell is a mean over tasks with its 95 % interval. A star says that the block's method is ahead
of the arm, paired by task, after Holm's correction over the arms of the column. An arm that
diverged has no numbers, is not compared, and nobody's lead counts against it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metajax.benchmark.mixture import A10, A11, MIXED
from metajax.results import intervals, records, tables
from metajax.results.tables import lower_is_better
from paper.edition import ALPHA, PRIMARY

AUC, DRAWS = "auc", "auc_draws"
"""The AUC over all rows of a record, and what it is in bootstrap draws of items."""
MIXTURES = (A10, A11)
"""Arms that are there for the mixture's sake: another method is not compared with them."""


class Column(NamedTuple):
    """Where in a record the scores of a column are."""

    condition: str
    metric: str


class Block(NamedTuple):
    """Some rows of a table.

    Attributes:
      heading: stands above them.
      record: has the scores.
      scenario: of its tasks.
      columns: as many as the table has.
      lead: the metric by which an arm is found to have diverged.
    """

    heading: str
    record: records.Record
    scenario: str
    columns: Sequence[Column]
    lead: str = PRIMARY

    @property
    def method(self) -> str:
        """The arm that stars are about: the mixture where there is one, else the record's."""
        return MIXED if MIXED in self.record.names() else self.record.method

    def known(self, arm: str, column: Column) -> bool:
        """Whether the record has scores of an arm for a column."""
        return records.Key(self.scenario, arm, *column) in self.record.scores

    def diverged(self, arm: str, column: Column) -> bool:
        """Whether an arm diverged, on tasks as they are or under the column's condition."""
        return any(
            tables.diverged(self.record, self.scenario, arm, condition, self.lead)
            for condition in dict.fromkeys((records.ALL, column.condition))
            if self.known(arm, Column(condition, self.lead))
        )

    def mean(self, arm: str, column: Column) -> intervals.Interval:
        """The mean of an arm over the tasks, RMSE where the metric is mse."""
        if column.metric == AUC:
            return _of_draws(*self._auc(arm, column))
        return records.interval(self._of(arm, column), column.metric)

    def gaps(self, column: Column, method: str = "") -> dict[str, tuple[intervals.Interval, float]]:
        """Arm -> (method minus arm, p after Holm), for all others that did not diverge."""
        method = method or self.method
        if not method or not self.known(method, column) or self.diverged(method, column):
            return {}
        others = [arm for arm in self.record.names() if arm != method and self.known(arm, column)]
        others = [arm for arm in others if method == MIXED or arm not in MIXTURES]
        others = [arm for arm in others if not self.diverged(arm, column)]
        found = [self._gap(method, arm, column) for arm in others]
        p = intervals.holm(np.array([g.p for g in found]))
        return {arm: (g, float(v)) for arm, g, v in zip(others, found, p, strict=True)}

    def _gap(self, method: str, arm: str, column: Column) -> intervals.Interval:
        if column.metric == AUC:
            (mine, my_draws), (other, draws) = self._auc(method, column), self._auc(arm, column)
            return _of_draws(mine - other, my_draws - draws)
        return records.difference(self._of(method, column), self._of(arm, column))

    def _of(self, arm: str, column: Column) -> np.ndarray:
        return self.record.of(self.scenario, arm, *column)

    def _auc(self, arm: str, column: Column) -> tuple[float, np.ndarray]:
        """The AUC over all rows and its bootstrap draws, each the mean over seeds."""
        draws = self._of(arm, column._replace(metric=DRAWS)).mean(axis=0)
        return float(self._of(arm, column).mean()), draws


def _of_draws(mean: float, draws: np.ndarray) -> intervals.Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min(np.sum(draws <= 0), np.sum(draws >= 0))
    p = min(1.0, 2 * (1 + int(tail)) / (1 + draws.size))
    return intervals.Interval(mean, float(low), float(high), p, 0, 0)


def ahead(gap: intervals.Interval, p: float, metric: str) -> bool:
    """Whether the method is better than the arm, after Holm."""
    return bool(p < ALPHA and (gap.high < 0 if lower_is_better(metric) else gap.low > 0))


def shown(i: intervals.Interval, digits: int = 3) -> str:
    """A mean with its interval.

    >>> shown(intervals.Interval(0.25, 0.125, 0.5, 0.01, 40, 0))
    '0.250 [0.125, 0.500]'
    """
    return f"{i:.{digits}f}"


def rows_of(block: Block, short: bool) -> tuple[list[list[str]], int | None]:
    """The rows of a block, and the place of its method's unless that diverged.

    Args:
      short: without the zero before the point, where there are many columns.
    """
    behind = [block.gaps(c) if block.known(block.method, c) else {} for c in block.columns]
    rows, bold = [], None
    for arm in block.record.names():
        cells = [arm]
        for column, others in zip(block.columns, behind, strict=True):
            if not block.known(arm, column):
                cells.append("")
            elif block.diverged(arm, column):
                cells.append("diverged")
            else:
                star = arm in others and ahead(*others[arm], column.metric)
                cells.append(shown(block.mean(arm, column)) + "*" * star)
        if any(cells[1:]):
            bold = len(rows) if arm == block.method and "diverged" not in cells else bold
            rows.append([cell.replace("0.", ".") if short else cell for cell in cells])
    return rows, bold


def grid_of(title: str, heads: Sequence[str], blocks: Sequence[Block], note: str) -> tables.Grid:
    """The blocks as one table, each below its heading."""
    rows, sections, bolds = [], [], []
    for block in blocks:
        own, bold = rows_of(block, short=len(heads) > 7)
        sections.append(len(rows))
        rows.append([block.heading, *[""] * (len(heads) - 1)])
        bolds += [] if bold is None else [len(rows) + bold]
        rows += own
    return tables.Grid(title, heads, rows, 1, [note], sections, bolds)
