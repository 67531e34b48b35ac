"""Tables, differences and plots of `llm_uses`, read from the record alone."""

import dataclasses
import itertools
import pathlib

import numpy as np

from metajax.benchmark import baselines
from metajax.results import plots, records, tables

from .. import report as large_report
from . import content
from .prompts import LIKELIHOOD, RATING, YES_NO

KNOWN, NEW = "known items", "new items"
METRIC = "ndcg@5"


def permuted(arm: str) -> str:
    """The name of the control of an arm, in which every item has the title of another one."""
    return f"{arm}, titles permuted"


def shots_of(record: records.Record, scenario: str) -> list[int]:
    """The numbers of ratings, in order."""
    found = {key.condition for key in record.scores if key.scenario == scenario}
    return sorted(int(condition.removeprefix("k=")) for condition in found)


def of_scenario(record: records.Record, scenario: str) -> records.Record:
    """The record with the arms of one scenario, as its main one."""
    arms = {key.arm for key in record.scores if key.scenario == scenario}
    chosen = tuple(arm for arm in record.arms if arm.name in arms)
    return dataclasses.replace(record, scenario=scenario, arms=chosen)


def pairs(record: records.Record, scenario: str) -> list[tuple[str, str]]:
    """What is compared with what, as far as the record has it."""
    genres, prior = content.GENRES, f"{LIKELIHOOD} minus prior"
    asked = {
        KNOWN: [
            (RATING, "random"),
            (RATING, permuted(RATING)),
            (RATING, baselines.A0),
            (prior, "random"),
            (prior, permuted(prior)),
            (LIKELIHOOD, "random"),
            (LIKELIHOOD, permuted(LIKELIHOOD)),
            (YES_NO, "random"),
            (YES_NO, permuted(YES_NO)),
            (baselines.A7, baselines.A0),
        ],
        NEW: [
            (content.LARGE, content.PERMUTED),
            (content.LARGE, content.SMALL),
            (f"{genres} + {content.LARGE}", genres),
            (f"{genres} + {content.PERMUTED}", genres),
            (f"{genres} + {content.SMALL}", genres),
            (
                f"{genres} + {content.SMALL} + {content.LARGE}",
                f"{genres} + {content.SMALL}",
            ),
        ],
    }[scenario]
    there = {key.arm for key in record.scores if key.scenario == scenario}
    return [(a, b) for a, b in asked if a in there and b in there]


ADAPTED = "adapted to the person"


def in_one(record: records.Record, adapted: records.Record | None) -> tables.Grid:
    """Every use in one table: its ndcg@5, and how far it is from a bar on the same people.

    The bar is the item mean, where the items are known, and genres, where they are new.

    Args:
      adapted: a record of `llm_meta` with the same model and data set, whose people are others.
    """
    parts = [(KNOWN, record, KNOWN, baselines.A0), (NEW, record, NEW, content.GENRES)]
    if adapted is not None:
        parts.insert(1, (ADAPTED, adapted, adapted.scenario, baselines.A0))
    shots = [k for k in shots_of(record, KNOWN) if k > 0]
    few, most = shots[len(shots) // 2 - 1 if len(shots) > 1 else 0], shots[-1]
    shown = sorted({few, most})
    rows, sections = [], []
    for group, of, scenario, bar in parts:
        arms = of_scenario(of, scenario).names()
        if bar not in arms:
            continue  # a table without genres
        sections.append(len(rows))
        for arm in arms:
            cells = [group, arm]
            for k in shown:
                keys = [records.Key(scenario, name, f"k={k}", METRIC) for name in (arm, bar)]
                own, of_bar = (of.scores.get(key) for key in keys)
                if own is None or of_bar is None:
                    cells += ["", ""]
                    continue
                gap = "the bar" if arm == bar else f"{records.difference(own, of_bar):+.3f}"
                cells += [f"{records.interval(own, METRIC).mean:.3f}", gap]
            rows.append(cells)
    heads = [
        "question",
        "use",
        *(f"{what}\nK={k}" for k in shown for what in (METRIC, "minus bar")),
    ]
    notes = ["the bar: item mean for known items, genres for new ones, on the same people"]
    if adapted is None:
        notes.append("no rows of adapted people: llm_meta with the same model and data makes them")
    else:
        people = adapted.extra["people"]
        notes.append(f"{ADAPTED}: {people} other people, of the record of llm_meta")
    title = f"Which use pays? {record.dataset}, {record.extra['model']}"
    return tables.Grid(title, heads, rows, left=2, notes=notes, sections=sections)


def show(
    record: records.Record, folder: pathlib.Path, adapted: records.Record | None = None
) -> None:
    """Prints a table of each question, its differences, and all in one; saves the plots.

    Args:
      adapted: see `in_one`.
    """
    for scenario in (KNOWN, NEW):
        shots = shots_of(record, scenario)
        one = of_scenario(record, scenario)
        people = record.extra["people"] if scenario == KNOWN else record.extra["fresh people"]
        title = f"{scenario}, {people} new people, {record.dataset}, {record.extra['model']}"
        large_report.rated(one, [f"k={k}" for k in shots], title, quoted=False)
        for metric, k in itertools.product(("mse", METRIC), [k for k in shots if k > 0]):
            column, asked = (f"k={k}", metric), pairs(record, scenario)
            large_report.differences(one, f"{metric}, K={k}", column, asked)
    tables.terminal(in_one(record, adapted))
    cost = record.extra["cost"]
    print(
        f"a person in {np.median(cost['seconds']):.1f} s, {np.median(cost['processor']):.1f} s of "
        "processor time, for all prompts and numbers of ratings (medians)"
    )
    draw(record, folder)


def draw(record: records.Record, folder: pathlib.Path) -> None:
    """Saves nDCG@5 over the number of ratings, a line for each arm, for each question."""
    for scenario in (KNOWN, NEW):
        one, shots = of_scenario(record, scenario), shots_of(record, scenario)
        path = folder / f"{scenario.replace(' ', '-')}.png"
        with plots.page(path, 3.2) as axes:
            for i, arm in enumerate(one.names()):
                of = [records.Key(scenario, arm, f"k={k}", METRIC) for k in shots]
                there = [(k, key) for k, key in zip(shots, of, strict=True) if key in one.scores]
                means = [records.interval(one.scores[key], METRIC).mean for _, key in there]
                x = [shots.index(k) for k, _ in there]
                axes.plot(x, means, label=arm, **plots.look(i))
            axes.set_xticks(np.arange(len(shots)), [str(k) for k in shots])
            plots.finish(
                axes, "ratings known of the person", f"{METRIC}, {scenario}", len(one.names())
            )
        print(f"plot   {path}")
