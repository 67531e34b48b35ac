"""Tables and pictures of multi_task on data, read from records alone."""

import pathlib

import numpy as np

from metajax.results import groups, intervals, plots, records, tables

SINGLE, BOTTOM, MANY = "single task", "shared bottom", "MMoE"
GROUPED = (SINGLE, BOTTOM, MANY)
"""Arms that are judged in each group by itself."""
OFF_SCALE = {"MMoE, last task random", "CVR of viewed rows"}
"""Arms whose score is no attempt at some tasks: in the tables, and not in those tasks' pictures."""
TOLD = {"auc": "AUC", "log_loss": "log loss", "unexplained": "variance not explained"}


def mean(scores: np.ndarray) -> intervals.Interval:
    """Of scores (S, blocks), seeds first."""
    return intervals.mean_interval(intervals.mean_of_seeds(scores))


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints a table of each task, and saves what sharing changes."""
    places = dict.fromkeys((key.scenario, key.metric) for key in record.scores)
    main = [place for place in places if place[1] != "log_loss"]
    for scenario, metric in main:
        tables.terminal(table(record, scenario, metric))
        by_group(record, scenario, metric)
    if groups.GROUPS not in record.extra:
        print(groups.OLDER)
    rows, seeds = record.extra["rows"], record.config["seeds"]
    told = ", ".join(
        f"{task} {share:.3f}"
        for task, share in zip(record.extra["tasks"], record.extra["share"], strict=True)
    )
    print(
        f"{record.dataset}: {rows[0]:,} rows in training, {rows[1]:,} in validation, {rows[2]:,} "
        f"in test; means of labels: {told}. Of {seeds} trials of each arm, each with a seed of its "
        "own, the better half on validation is judged; intervals are over blocks of people, seeds "
        "averaged first. The log loss is in nats."
    )
    for arm in record.arms:
        if "weights" in arm.settings:
            each = np.mean(arm.settings["weights"], axis=0)
            print(f"{arm.name}: " + ", ".join(
                f"{t} {w:.2f}" for t, w in zip(record.extra["tasks"], each, strict=True)
            ))  # fmt: skip
    for scenario, metric in main:
        short = scenario.replace(" ", "_")
        picture(record, scenario, metric, folder / f"{short}.png")
        print(f"plot   {folder}/{short}.png")


def table(record: records.Record, scenario: str, metric: str) -> tables.Grid:
    """Each arm on one task, beside three others."""
    get = lambda arm, m=metric: record.of(scenario, arm, records.ALL, m)
    logged = (
        metric == "auc" and records.Key(scenario, SINGLE, records.ALL, "log_loss") in record.scores
    )
    heads = ["arm", TOLD[metric], *(f"minus {other}" for other in (SINGLE, BOTTOM, MANY))]
    heads, rows = [*heads, *(["log loss"] if logged else []), "parameters"], []
    for arm in record.arms:
        if records.Key(scenario, arm.name, records.ALL, metric) not in record.scores:
            continue
        cells = [f"{mean(get(arm.name)):.4f}"]
        for other in (SINGLE, BOTTOM, MANY):
            gap = records.difference(get(arm.name), get(other))
            cells.append("" if arm.name == other else f"{gap:+.4f}")
        cells += [f"{mean(get(arm.name, 'log_loss')).mean:.4f}"] if logged else []
        rows.append([arm.name, *cells, f"{arm.settings['parameters']:,}"])
    return tables.Grid(f"{record.dataset}, {scenario}: {TOLD[metric]}", heads, rows)


def by_group(record: records.Record, scenario: str, metric: str) -> None:
    """Prints a task's score in each group of test rows by itself, if the record has groups."""
    groups.show(
        record, scenario, GROUPED, metric, title=f"{scenario}: {TOLD[metric]} by group of rows",
        pair=(MANY, SINGLE), condition=groups.APART, unit="blocks",
    )  # fmt: skip


def picture(record: records.Record, scenario: str, metric: str, path: pathlib.Path) -> None:
    """Saves each arm minus the networks apart."""
    left_out = OFF_SCALE if record.extra["tasks"][-1] in scenario else set()
    left_out |= OFF_SCALE - {"MMoE, last task random"}
    get = lambda arm: record.of(scenario, arm, records.ALL, metric)
    rows = [
        (arm.name, records.difference(get(arm.name), get(SINGLE)))
        for arm in record.arms
        if arm.name != SINGLE
        and arm.name not in left_out
        and records.Key(scenario, arm.name, records.ALL, metric) in record.scores
    ]
    plots.forest(rows, path, f"{scenario}: {TOLD[metric]} minus {SINGLE}")
