"""Tables and curves over the number K of ratings of a new user or item, read from records.

Several experiments of this room share them: each has its own arms and measures, and one look.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metajax.data.table import Interactions
from metajax.results import intervals, plots, records, tables


class Measure(NamedTuple):
    """A measure of a record's arms.

    Attributes:
      name: as a table prints it, with what is better.
      of: (arm, condition) -> its mean with an interval.
      gap: (arm, other arm, condition) -> their paired difference.
    """

    name: str
    of: Callable[[str, str], intervals.Interval]
    gap: Callable[[str, str, str], intervals.Interval]


def per_task(record: records.Record, scenario: str, metric: str, name: str) -> Measure:
    """The mean of a stored metric over the tasks of a scenario."""
    get = lambda arm, condition: record.of(scenario, arm, condition, metric)
    mean = lambda arm, condition: intervals.mean_interval(
        intervals.mean_of_seeds(get(arm, condition))
    )
    return Measure(name, mean, lambda a, b, c: records.difference(get(a, c), get(b, c)))


def data_of(table: Interactions) -> records.Data:
    """What a record says of a table."""
    size = (table.num_users, table.num_items, len(table))
    return records.Data(table.name, table.checksum(), *size)


def columns(record: records.Record, most: str = "all") -> dict[str, str]:
    """Condition -> heading: each stored K, then all of the support."""
    return {f"k={k}": f"K = {k}" for k in record.shots} | {records.ALL: f"K = {most}"}


def told(x: intervals.Interval, digits: int = 3) -> str:
    """A mean with its interval."""
    return f"{x.mean:.{digits}f} [{x.low:.{digits}f}, {x.high:.{digits}f}]"


def signed(x: intervals.Interval, digits: int = 3) -> str:
    """A difference with its interval; a star if that excludes 0."""
    star = "*" if x.low > 0 or x.high < 0 else " "
    return f"{x.mean:+.{digits}f}{star}[{x.low:+.{digits}f}, {x.high:+.{digits}f}]"


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
    shown = tables.Grid(
        f"{title}: paired differences in {measure.name}", ["arms", *heads.values()], rows,
        notes=["A star marks an interval that excludes 0."],
    )  # fmt: skip
    tables.terminal(shown)


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
            axes.plot(places, [x.mean for x in found], label=arm, **plots.look(i))
            low, high = [x.low for x in found], [x.high for x in found]
            axes.fill_between(places, low, high, color=plots.look(i)["color"], alpha=0.1, lw=0)
        axes.set_xticks(places, [text.removeprefix("K = ") for text in heads.values()])
        axes.set_xlabel(axis)
        axes.set_ylabel(measure.name)
        axes.grid(alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(arms))
