"""Tables and curves over the number K of ratings of a new user or item, read from records.

Several experiments of this room share them: each has its own arms and measures, and one look.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, plots, records, tables
from metajax.results.readings import OLDER, metrics_of


class Measure(NamedTuple):
    """A measure of a record's arms.

    Attributes:
      name: as a table prints it, with what is better.
      of: (arm, condition) -> its mean with an interval.
      gap: (arm, other arm, condition) -> their paired difference.
      compared: what the difference is of; if empty, of what `name` says.
    """

    name: str
    of: Callable[[str, str], intervals.Interval]
    gap: Callable[[str, str, str], intervals.Interval]
    compared: str = ""


def per_task(record: records.Record, scenario: str, metric: str, name: str) -> Measure:
    """The mean of a stored metric over the tasks of a scenario."""
    get = lambda arm, condition: record.of(scenario, arm, condition, metric)
    mean = lambda arm, condition: intervals.mean_interval(
        intervals.mean_of_seeds(get(arm, condition))
    )
    return Measure(name, mean, lambda a, b, c: records.difference(get(a, c), get(b, c)))


def of_ratings(record: records.Record, scenario: str, metric: str) -> Measure:
    """A measure of ratings as tables name it: the RMSE is the root of the mean over tasks."""
    each = per_task(record, scenario, metric, tables.heading(metric))
    root = lambda arm, condition: records.rooted(each.of(arm, condition), metric)
    return each._replace(of=root, compared=tables.of_differences(metric))


def leading(record: records.Record, scenario: str = "") -> str:
    """The metric that tables of ratings begin with: squared error, absolute in older records."""
    return metrics_of(record, scenario)[0]


def ratings(
    title: str,
    record: records.Record,
    scenario: str,
    arms: Sequence[str],
    heads: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Prints arms by every stored measure of ratings: RMSE and nDCG@5, with differences, then MAE.

    Args:
      pairs: the (arm, other arm) whose difference is printed.
    """
    known = metrics_of(record, scenario)
    for metric in (m for m in (*tables.COMPARED, "mae") if m in known):
        measure = of_ratings(record, scenario, metric)
        table(title, measure, arms, heads, 4)
        if metric in (*tables.COMPARED, known[0]):
            differences(title, measure, pairs, heads, 4)
    rows = {arm: (scenario, arm, records.ALL) for arm in arms}
    tables.show_distributions(record, f"{title}, {heads[records.ALL]}", rows)
    if "mse" not in known:
        print(OLDER)


OF_ITEMS = (
    "Intervals are over items, seeds averaged first; nDCG@5 of an item ranks those who rated it."
)


def columns(record: records.Record, most: str = "all") -> dict[str, str]:
    """Condition -> heading: each stored K, then all of the support."""
    return {f"k={k}": f"K = {k}" for k in record.shots} | {records.ALL: f"K = {most}"}


def told(x: intervals.Interval, digits: int = 3) -> str:
    """A mean with its interval."""
    return f"{x:.{digits}f}"


def signed(x: intervals.Interval, digits: int = 3) -> str:
    """A difference with its interval; a star if that excludes 0."""
    star = "*" if x.low > 0 or x.high < 0 else " "
    return f"{x.mean:+.{digits}f}{star}[{x.low:+.{digits}f}, {x.high:+.{digits}f}]"


def controls(
    record: records.Record, title: str, scenario: str, arms: Sequence[str], metric: str,
    head: str = "arm",
) -> None:  # fmt: skip
    """Prints what each control changes in the metric of some arms, minus it as it is."""
    measured = [records.N0, records.N1, records.N2, records.N3]
    rows = []
    for arm in arms:
        get = lambda condition, a=arm: record.of(scenario, a, condition, metric)
        gaps = [records.difference(get(c), get(records.ALL)) for c in measured]
        rows.append([arm, *map(signed, gaps)])
    tables.terminal(tables.Grid(title, [head, *measured], rows))


def table(
    title: str, measure: Measure, arms: Sequence[str], heads: Mapping[str, str], digits: int = 3
) -> None:
    """Prints the measure of each arm at each K."""
    rows = [[arm, *(told(measure.of(arm, c), digits) for c in heads)] for arm in arms]
    tables.terminal(tables.Grid(f"{title}: {measure.name}", ["arm", *heads.values()], rows))


def differences(
    title: str,
    measure: Measure,
    pairs: Sequence[tuple[str, str]],
    heads: Mapping[str, str],
    digits: int = 3,
) -> None:
    """Prints the paired difference of each (arm, other arm) at each K."""
    rows = [
        [f"{a} - {b}", *(signed(measure.gap(a, b, c), digits) for c in heads)] for a, b in pairs
    ]
    what = f"{title}: paired differences in {measure.compared or measure.name}"
    notes = ["A star marks an interval that excludes 0."]
    tables.terminal(tables.Grid(what, ["arms", *heads.values()], rows, notes=notes))


def curves(
    measure: Measure,
    arms: Sequence[str],
    heads: Mapping[str, str],
    path: pathlib.Path,
    axis: str,
) -> None:
    """Saves the measure over K, one line per arm."""
    places = np.arange(len(heads))
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(arms):
            found = [measure.of(arm, c) for c in heads]
            plots.banded(axes, i, places, found, arm)
        axes.set_xticks(places, [text.removeprefix("K = ") for text in heads.values()])
        plots.finish(axes, axis, measure.name, len(arms))
