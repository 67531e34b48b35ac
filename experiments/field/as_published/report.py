"""The learners as published, as a table and a forest plot: what adapting changes, and how much."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.results import plots, records, tables
from metajax.results.intervals import Interval

from ..metaemb.report import SCENARIO

SHOWN = {"mse": "RMSE", "mae": "MAE", "ndcg@5": "nDCG@5", "auc": "AUC"}


def shown(facts: Mapping[str, Any]) -> list[str]:
    """The metrics of a row's lines: ratings have squared error first, nDCG@5, and MAE."""
    rated = facts["metric"] == "mse" or facts.get("ordinal", {}).get("levels", 0) > 2
    return ["mse", "ndcg@5", "mae"] if rated else [facts["metric"]]


def mean_of(record: records.Record, scenario: str, arm: str, condition: str, metric: str) -> float:
    """The mean of a metric over tasks, seeds averaged first; of AUC, that over all rows."""
    return records.interval(record.of(scenario, arm, condition, metric), metric).mean


def gap(record: records.Record, scenario: str, arm: str, metric: str, condition: str) -> Interval:
    """Adapted minus another condition, paired by task; of AUC by a bootstrap over items."""
    if metric != "auc":
        pair = (record.of(scenario, arm, c, metric) for c in ("all", condition))
        return records.difference(*pair)
    of = lambda c, name: record.of(scenario, arm, c, name).mean(axis=0)
    mean = float((of("all", "auc") - of(condition, "auc"))[0])
    draws = of("all", "auc_draws") - of(condition, "auc_draws")
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(mean, float(low), float(high), np.nan, draws.size, 0)


def told(d: Interval) -> str:
    """A difference with its interval, starred where that excludes 0; small ones in full.

    >>> told(Interval(-0.0123, -0.02, -0.004, 0.0, 9, 0))
    '-0.0123*[-0.0200, -0.0040]'
    >>> told(Interval(2e-6, -1e-6, 5e-6, 0.3, 9, 0))
    '+2.0e-06 [-1.0e-06, +5.0e-06]'
    """
    wide = max(abs(d.low), abs(d.high)) >= 1e-4 or d.low == d.high
    form = "+.4f" if wide else "+.1e"
    star = "*" if d.low > 0 or d.high < 0 else " "
    return f"{d.mean:{form}}{star}[{d.low:{form}}, {d.high:{form}}]"


def changed(value: float) -> str:
    """A mean absolute change: four digits behind the point, or two that count."""
    return f"{value:.4f}" if value >= 1e-3 or value == 0 else f"{value:.1e}"


def cells(record: records.Record, arm: str, scenario: str, metric: str) -> list[str]:
    """The cells of a learner in one scenario, by one metric."""
    facts: Mapping[str, Any] = record.extra["rows"][arm]
    own = "mae" if facts["metric"] == "mse" else facts["metric"]
    published = facts["published"].get(scenario) if metric == own else None
    mean = lambda condition: f"{mean_of(record, scenario, arm, condition, metric):.4f}"
    return [
        arm,
        scenario,
        SHOWN[metric],
        f"{facts['steps']} / {facts['published_steps']}",
        mean("all"),
        mean("k=0"),
        told(gap(record, scenario, arm, metric, "k=0")),
        told(gap(record, scenario, arm, metric, "shuffled")),
        changed(mean_of(record, scenario, arm, "all", "change")),
        "" if published is None else f"{published:.4f}".rstrip("0"),
    ]


def grid(record: records.Record) -> tables.Grid:
    """The table of a record."""
    rows, sections, notes = [], [], []
    for arm, facts in record.extra["rows"].items():
        sections.append(len(rows))
        rows += [
            cells(record, arm, scenario, metric)
            for scenario in facts["scenarios"]
            for metric in shown(facts)
            if records.Key(scenario, arm, "all", metric) in record.scores
        ]
        differs = f" Differs: {facts['differs']}." if facts["differs"] else ""
        notes.append(f"{arm}. As given: {facts['given']}.{differs}")
    heads = (
        "learner",
        "tasks",
        "metric",
        "steps / published",
        "adapted",
        "unadapted",
        "adapted - unadapted [95 %]",
        "adapted - labels shuffled [95 %]",
        "mean |change|",
        "published",
    )
    seeds = record.config["seeds"]
    title = f"As published: {seeds} seed{'s' * (seeds != 1)}, nothing tuned, last parameters"
    legend = (
        "RMSE and MAE: lower is better; nDCG@5 and AUC: higher is better. Lines of RMSE compare "
        "squared errors. A star marks a difference whose interval, paired by task (AUC: by item), "
        "excludes 0. Mean |change|: how much adapting changes a prediction, in rating points or, "
        "for clicks, in probability. Steps: outer steps taken here / published."
    )
    return tables.Grid(title, heads, rows, 4, (legend, *notes), sections)


def show(record: records.Record) -> None:
    """Prints the tables."""
    tables.terminal(grid(record))
    if any(key.metric == "crps" for key in record.scores):
        tables.terminal(distributions(record))


def distributions(record: records.Record) -> tables.Grid:
    """The table of distributions over ratings, or over clicks, of the adapted learners."""
    rows, sections = [], []
    for arm, facts in record.extra["rows"].items():
        if "ordinal" not in facts:
            continue
        sections.append(len(rows))
        for scenario in facts["scenarios"]:
            of = lambda m, s=scenario, a=arm: records.interval(record.of(s, a, "all", m), m)
            told = [tables.with_interval(of(metric)) for metric in tables.CALIBRATED]
            rows.append([arm, scenario, str(facts["ordinal"]["levels"]), *told])
    heads = ("learner", "tasks", "levels", *map(tables.heading, tables.CALIBRATED))
    notes = tables.of_the_link(record, "as many ratings as there are levels, of clicks over two")
    title = "As published, adapted: distributions over ratings"
    return tables.Grid(title, heads, rows, 2, notes, sections)


def gains(record: records.Record) -> list[tuple[str, Interval]]:
    """What adapting gains each learner, positive where it helps, by its first cold scenario."""
    found = []
    for arm, facts in record.extra["rows"].items():
        metric = facts["metric"]
        cold = [s for s in facts["scenarios"] if s.endswith(("user_cold", SCENARIO))]
        d = gap(record, (cold or facts["scenarios"])[0], arm, metric, "k=0")
        if metric in ("mse", "mae"):
            d = d._replace(mean=-d.mean, low=-d.high, high=-d.low)
        name = "squared error" if metric == "mse" else SHOWN[metric]
        found.append((f"{arm}, {name}", d))
    return found


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves what adapting gains each learner, with its interval."""
    plots.forest(gains(record), path, "gain by adapting, as published")
