"""Tables and pictures of explanations, read from records alone."""

import pathlib

import numpy as np

from metajax.explain.judged import SHARES
from metajax.results import intervals, plots, records, tables

LEFT_OUT, INFLUENCE, SURPRISE = "leave-one-out", "influence", "surprise"
CLOSED, ATTENTION, RANDOM = "closed form", "attention weights", "random"
HALFWAY = "influence, halfway"
WAYS = (LEFT_OUT, CLOSED, INFLUENCE, HALFWAY, SURPRISE, ATTENTION, RANDOM)
WORLD = "interests"
METRICS = {"fall": "deletion", "rise": "insertion", "agreement": "ranks", "recall": "causes found"}


def values(record: records.Record, scenario: str, way: str, metric: str) -> np.ndarray:
    """One number for each person for whom it is defined."""
    found = record.scores.get(records.Key(scenario, way, records.ALL, metric))
    return np.zeros(0) if found is None else found[0][np.isfinite(found[0])]


def cell(x: np.ndarray) -> str:
    """A mean with its interval over people."""
    if not len(x):
        return ""
    return f"{intervals.mean_interval(x):.3f}"


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    scenarios = list(dict.fromkeys(key.scenario for key in record.scores))
    for scenario in scenarios:
        tables.terminal(table(record, scenario))
    for line in notes(record, scenarios):
        print(line)
    for scenario in scenarios:
        path = folder / f"curves-{scenario.replace(', ', '-')}.png"
        curves(record, scenario, path)
    print(f"plots  {folder}/curves-*.png")


def table(record: records.Record, scenario: str) -> tables.Grid:
    """How true each way is for one learner."""
    people = len(next(x[0] for key, x in record.scores.items() if key.scenario == scenario))
    metrics = [m for m in METRICS if len(values(record, scenario, RANDOM, m))]
    heads = ["explained by", *(METRICS[m] for m in metrics), "deletion minus random"]
    rows = []
    for way in WAYS:
        mine = record.scores.get(records.Key(scenario, way, records.ALL, "fall"))
        if mine is None:
            continue
        floor = record.of(scenario, RANDOM, records.ALL, "fall")
        gap = records.difference(mine, floor)
        told = f"{gap:+.3f}" if way != RANDOM else ""
        cells = [cell(values(record, scenario, way, metric)) for metric in metrics]
        rows.append([way, *cells, told])
    return tables.Grid(f"{scenario}: {people} people, mean [95 %]", heads, rows)


def notes(record: records.Record, scenarios: list[str]) -> list[str]:
    """What stands below the tables."""
    lines = [
        "deletion: mean fall of the score as the ratings that raised it most go; insertion: mean "
        "rise as they come; both in units of the label. ranks: Spearman's correlation with "
        "leave-one-out. causes found: share of the planted causes among as many largest."
    ]
    for scenario in scenarios:
        sane = cell(values(record, scenario, LEFT_OUT, "sanity"))
        lines.append(f"{scenario}: ranks of a randomized model agree with the trained one's {sane}")
    for learner, found in record.extra["features"].items():
        if not found:
            continue
        mean = {k: float(np.nanmean(v)) for k, v in found.items()}
        lines.append(
            f"features, {learner}: integrated gradients miss completeness by "
            f"{max(found['gap']):.1e} at most; rank agreement with SHAP {mean['SHAP']:.2f}, with "
            f"LIME {mean['LIME']:.2f} (local R2 {mean['R2']:.2f}), {len(found['gap'])} people"
        )
    return lines


def curves(record: records.Record, scenario: str, path: pathlib.Path) -> None:
    """Saves the score of the explained item while ratings are deleted and inserted."""
    drawn = record.extra["curves"][scenario]
    with plots.page(path, 2.9) as axes:
        for i, way in enumerate(way for way in WAYS if way in drawn):
            look, one = plots.look(i), drawn[way]
            axes.plot(SHARES, one["deletion"], label=way, **look)
            axes.plot(SHARES, one["insertion"], **(look | {"markerfacecolor": "white"}))
        axes.axhline(0.0, color="#666666", linewidth=0.7)
        axes.set_title(scenario)
        plots.finish(
            axes, "share deleted (filled) or inserted (open)", "change of the score", len(drawn)
        )
