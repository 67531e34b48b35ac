"""The table and the picture of new_task, read from records alone."""

import pathlib

import numpy as np

from metajax.results import groups, intervals, plots, records, tables

SHARED, META = "head of shared features", "meta-trained head"
RAW, FINE = "head of raw inputs", "fine-tuned network"
GROUPED = (SHARED, META, RAW, FINE)
"""Arms that are judged in each group by itself."""
RANDOM, CART = "shared, last task random", "score of the last trained task"


def mean(record: records.Record, scenario: str, arm: str) -> intervals.Interval:
    """The AUC of an arm, seeds averaged first."""
    found = record.of(scenario, arm, records.ALL, "auc")
    return intervals.mean_interval(intervals.mean_of_seeds(found))


def scenarios(record: records.Record) -> list[str]:
    """The numbers of labels, in order."""
    return [f"K={k}" for k in record.config["shots"]]


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints a table for each number of labels, and saves the AUC over it."""
    for scenario in scenarios(record):
        tables.terminal(table(record, scenario))
        groups.show(
            record, scenario, GROUPED, "auc", title=f"{scenario[2:]} labels: AUC by group of rows",
            pair=(SHARED, RAW), condition=groups.APART,
        )  # fmt: skip
    if groups.GROUPS not in record.extra:
        print(groups.OLDER)
    trained, tasks = " and ".join(record.extra["trained"]), record.config["num_tasks"]
    print(
        f"trained on {trained}; new: {record.extra['new']}. Intervals are over {tasks} test tasks. "
        "N1: labels of the support permuted; N3: the same learner at random parameters."
    )
    picture(record, folder / "shots.png")
    print(f"plot   {folder}/shots.png")


def table(record: records.Record, scenario: str) -> tables.Grid:
    """Each arm: its AUC, differences paired by task, and its controls."""
    get = lambda arm, condition=records.ALL: record.of(scenario, arm, condition, "auc")
    title = f"{record.data.name if record.data else ''}, new task {record.extra['new']}"
    heads, rows = ["arm", "AUC", f"minus {RAW}", f"minus {FINE}", "N1", "N3"], []
    for arm in record.arms:
        cells = [f"{mean(record, scenario, arm.name):.3f}"]
        for other in (RAW, FINE):
            gap = records.difference(get(arm.name), get(other))
            cells.append("" if arm.name == other else f"{gap:+.3f}")
        for condition in (records.N1, records.N3):
            there = records.Key(scenario, arm.name, condition, "auc") in record.scores
            cells.append(f"{np.nanmean(get(arm.name, condition)):.3f}" if there else "")
        rows.append([arm.name, *cells])
    return tables.Grid(f"{title}, {scenario[2:]} labels: AUC", heads, rows)


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves the AUC of every arm over the number of labels."""
    shots = record.config["shots"]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(record.arms):
            rows = [mean(record, scenario, arm.name) for scenario in scenarios(record)]
            plots.banded(axes, i, shots, rows, arm.name)
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(k) for k in shots])
        axes.minorticks_off()
        plots.finish(
            axes, f"labels of the new task, {record.extra['new']}", "AUC", len(record.arms)
        )
