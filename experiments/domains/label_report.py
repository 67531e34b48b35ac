"""Tables and pictures of multi_label, read from records alone."""

import pathlib
from typing import Any

import numpy as np

from metajax.data.sources import named
from metajax.results import groups, intervals, records, tables

from . import shots

PEOPLE, LABELS = "people", "labels"
FREQUENCY, FOLD = "label frequency", "fold-in"
EACH, OURS, PERMUTED = "binary relevance", "matrix head", "matrix head, permuted labels"
ROLES = dict.fromkeys((FREQUENCY, FOLD, EACH), records.BASELINE)
ROLES |= {OURS: records.METHOD, PERMUTED: records.CONTROL}
PAIRS = ((OURS, EACH), (OURS, FOLD), (OURS, FREQUENCY), (PERMUTED, FREQUENCY))


def name_of(config: Any) -> str:
    """The name of a run's record."""
    return f"multi_label-{named.short_name(config.data.dataset)}"


def micro(record: records.Record) -> shots.Measure:
    """The F1 of all decisions together, its intervals over people."""

    def parts(arm: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
        get = lambda metric: record.of(PEOPLE, arm, condition, metric).mean(axis=0)
        return 2 * get("hits"), get("said and liked")

    return shots.Measure(
        "micro F1 (higher is better)",
        lambda arm, c: intervals.ratio_bootstrap(parts(arm, c)),
        lambda a, b, c: intervals.ratio_bootstrap(parts(a, c), parts(b, c)),
    )


def measures(record: records.Record) -> dict[str, shots.Measure]:
    """Short name -> each measure of the experiment."""
    of = lambda scenario, metric, name: shots.per_task(record, scenario, metric, name)
    return {
        "micro": micro(record),
        "macro": of(LABELS, "f1", "macro F1 (higher is better; intervals over labels)"),
        "ap": of(PEOPLE, "ap", "label-ranking average precision (higher is better)"),
        "ece": of(LABELS, "ece", "calibration error (lower is better; intervals over labels)"),
    }


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    arms, heads = record.names(), shots.columns(record, "20")
    people = record.of(PEOPLE, OURS, records.ALL, "ap").shape[1]
    title = f"{record.dataset}, {people} new people"
    found = measures(record)
    for measure in found.values():
        shots.table(title, measure, arms, heads)
        shots.differences(title, measure, PAIRS, heads)
    tables.terminal(by_label(record))
    what = f"{record.dataset}: average precision with other support, minus with the own at K = 20"
    shots.controls(record, what, PEOPLE, (OURS, EACH), "ap")
    groups.show(record, PEOPLE, (OURS, EACH), "ap", title=f"{title}: average precision at K = 20")
    for name, axis in (("ap", "ap"), ("micro", "micro-f1")):
        shots.curves(
            found[name], arms, heads, folder / f"{axis}.png",
            f"ratings of the new person ({record.dataset})",
        )  # fmt: skip
    print(f"plots  {folder}/ap.png, micro-f1.png")


def by_label(record: records.Record) -> tables.Grid:
    """Each label: how many like it, and its F1 and calibration at K = 20."""
    heads = ["label", "liked by", f"F1, {OURS}", f"F1, {EACH}", f"F1, {FREQUENCY}", f"ECE, {OURS}"]
    get = lambda arm, metric: record.of(LABELS, arm, records.ALL, metric).mean(axis=0)
    columns = [get(OURS, "f1"), get(EACH, "f1"), get(FREQUENCY, "f1"), get(OURS, "ece")]
    rows = [
        [name, f"{share:.2f}", *(f"{column[i]:.3f}" for column in columns)]
        for i, (name, share) in enumerate(
            zip(record.extra["labels"], record.extra["share"], strict=True)
        )
    ]
    return tables.Grid(f"{record.dataset}: each label at K = 20", heads, rows)
