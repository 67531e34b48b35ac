"""How T6 is printed: arms by the number of shown items, and the meta-learner minus every arm."""

import pathlib

import numpy as np
from rich.console import Console

from metajax.results import intervals, plots, records, tables

METRICS = {"ndcg@10": "nDCG@10", "recall@20": "Recall@20"}


def grid_of(record: records.Record, scenario: str, metric: str) -> tables.Grid:
    """Arms by shots: the mean over users with its 95 % interval."""
    rows, bold = [], []
    for arm in record.names():
        if arm == record.method:
            bold.append(len(rows))
        each = [
            tables.with_interval(
                records.interval(record.of(scenario, arm, f"k={k}", metric), metric)
            )
            for k in record.shots
        ]
        rows.append([arm, *each, str(record.arm(arm).settings.get("trials", ""))])
    title = (
        f"T6 {record.dataset}, {scenario.replace('_', '-')}: {METRICS[metric]} of "
        f"{record.extra['candidates'][scenario]} items, {record.tasks[scenario]} users"
    )
    return tables.Grid(title, ["arm", *_heads(record), "trials"], rows, bold=bold)


def gaps_of(record: records.Record, scenario: str, metric: str) -> tables.Grid:
    """The method minus every arm by shots, paired by user."""
    rows = []
    for arm in record.names():
        if arm == record.method:
            continue
        of = lambda name, k: record.of(scenario, name, f"k={k}", metric)
        each = [
            tables.signed(records.difference(of(record.method, k), of(arm, k)))
            for k in record.shots
        ]
        rows.append([arm, *each])
    defined = ~np.isnan(record.of(scenario, record.method, f"k={record.shots[0]}", metric)[0])
    notes = [
        "Paired by user; * marks an interval that excludes 0. Means rest on the "
        f"{int(defined.sum())} of {record.tasks[scenario]} users who met something to be found. "
        f"{tables.opened(record)}"
    ]
    title = f"{METRICS[metric]}: {record.method} minus the arm"
    return tables.Grid(title, ["arm", *_heads(record)], rows, notes=notes)


def _heads(record: records.Record) -> list[str]:
    return [f"K={k}" for k in record.shots]


def compared(record: records.Record) -> list[str]:
    """The arms but for those that leave out a part of another."""
    return record.names(records.METHOD, records.BASELINE)


def behind(record: records.Record, scenario: str, metric: str = "ndcg@10") -> list[str]:
    """A line for each number of shots: of which arms the method is not ahead, after Holm."""
    lines = []
    for k in record.shots:
        others = [arm for arm in compared(record) if arm != record.method]
        of = lambda name, k=k: record.of(scenario, name, f"k={k}", metric)
        gaps = [records.difference(of(record.method), of(arm)) for arm in others]
        p = intervals.holm(np.array([gap.p for gap in gaps]))
        left = [
            arm
            for arm, gap, value in zip(others, gaps, p, strict=True)
            if not (gap.low > 0 and value < 0.05)
        ]
        told = f"not ahead of {', '.join(left)}" if left else "ahead of every arm"
        lines.append(f"{scenario.replace('_', '-')}, K={k}, {METRICS[metric]}: {told}")
    return lines


def show(record: records.Record, console: Console | None = None) -> None:
    """Prints the tables of one log."""
    for scenario in record.tasks:
        for metric in METRICS:
            tables.terminal(grid_of(record, scenario, metric), console)
        tables.terminal(gaps_of(record, scenario, "ndcg@10"), console)
        for line in behind(record, scenario):
            print("  " + line) if console is None else console.print("  " + line)


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves nDCG@10 of new users by the number of shown items, one line per arm."""
    places = np.arange(len(record.shots))
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(compared(record)):
            found = [
                records.interval(record.of("user_cold", arm, f"k={k}", "ndcg@10"), "ndcg@10")
                for k in record.shots
            ]
            width = 1.8 if arm == record.method else 1.0
            plots.banded(axes, i, places, found, arm, linewidth=width)
        axes.set_xticks(places, [str(k) for k in record.shots])
        plots.finish(
            axes,
            f"items that the new user has shown ({record.dataset})",
            "nDCG@10, whole catalogue",
            len(compared(record)),
        )
