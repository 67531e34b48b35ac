"""How a registered comparison is told: differences pooled over splits, and the verdicts."""

import pathlib
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, plots, records, tables


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


def verdict(record: records.Record, scenario: str, metric: str) -> str:
    """One line: whether the hypothesis holds, and if not, against whom it does not."""
    where = f"{scenario.replace('_', '-')}, {tables.heading(metric)}"
    if tables.diverged(record, scenario, record.method):
        return f"{where}: DOES NOT HOLD: the method diverged"
    left = [arm for arm, gap in gaps(record, scenario, metric).items() if not ahead(gap, metric)]
    return f"{where}: " + (f"DOES NOT HOLD against {', '.join(left)}" if left else "holds")


def grid_of(record: records.Record, scenario: str) -> tables.Grid:
    """The means of all arms in the primary measures, and the method minus each baseline."""
    primary = record.extra["registration"]["primary"]
    each = {metric: gaps(record, scenario, metric) for metric in primary}
    rows, bold = [], []
    for arm in record.names():
        if arm == record.method:
            bold.append(len(rows))
        cells = [arm]
        for metric in primary:
            found = records.interval(record.of(scenario, arm, records.ALL, metric), metric)
            cells.append(f"{found.mean:.4f}")
        for metric in primary:
            gap = each[metric].get(arm)
            told = "diverged" if tables.diverged(record, scenario, arm) else ""
            cells.append(f"{tables.signed(gap.found)} p {gap.p:.4f}" if gap else told)
        rows.append(cells)
    count = [sizes[scenario] for sizes in record.extra["tasks"]]
    names = [tables.heading(metric) for metric in primary]
    label = records.label(record.method)
    heads = [f"{label} - arm, {name.replace('RMSE', 'MSE')}" for name in names]
    note = "Pooled over splits and users by a two-way bootstrap; p after Holm over the arms."
    title = f"{scenario.replace('_', '-')}: {sum(count)} tasks of {len(count)} fresh splits"
    return tables.Grid(title, ["arm", *names, *heads], rows, notes=[note], bold=bold)


def show(record: records.Record) -> None:
    """Prints the registration, the tables and the verdicts."""
    told = record.extra["registration"]
    print(f"Registered at commit {told['commit'][:12]}: {' '.join(told['hypothesis'].split())}")
    print(" ".join(told["rule"].split()))
    for scenario in told["scenarios"]:
        tables.terminal(grid_of(record, scenario))
        for metric in told["primary"]:
            print("  " + verdict(record, scenario, metric))


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves a forest plot of the first primary measure."""
    told = record.extra["registration"]
    metric = told["primary"][0]
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap.found)
        for scenario in told["scenarios"]
        for arm, gap in gaps(record, scenario, metric).items()
    ]
    name = tables.heading(metric).replace("RMSE", "MSE")
    plots.forest(rows, path, f"{name}, {records.label(record.method)} minus the arm")
