"""Tables and pictures of clusters, read from records alone."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from metajax.data.sources import named
from metajax.results import groups, intervals, plots, records, tables

from . import shots

SCENARIO, STABILITY = "user_cold", "stability of trained"
ONE, HARD, SOFT, GATE = "one start", "k-means", "soft clusters", "learned gate"
RANDOM = "random clusters"
ROLES = {ONE: records.BASELINE, HARD: records.METHOD, SOFT: records.METHOD}
ROLES |= {GATE: records.METHOD, RANDOM: records.CONTROL}
FEWEST = 10
"""A cluster of fewer test users has no row and is not the worst."""
FEW = "k=5"


def name_of(config: Any) -> str:
    """The name of a run's record."""
    return f"clusters-{named.short_name(config.data.dataset)}"


def of_clusters(record: records.Record) -> Iterator[tuple[int, np.ndarray]]:
    """(cluster, which test users) of each cluster with enough of them."""
    group = np.asarray(record.extra["groups"])
    for cluster in np.unique(group):
        if (group == cluster).sum() >= FEWEST:
            yield int(cluster), group == cluster


def worst(record: records.Record, arm: str, condition: str) -> tuple[float, np.ndarray]:
    """The largest mean error over the clusters, squared if stored, and that cluster's users."""
    found = record.of(SCENARIO, arm, condition, shots.leading(record))
    error = intervals.mean_of_seeds(found)
    return max(
        ((float(np.nanmean(error[mine])), mine) for _, mine in of_clusters(record)),
        key=lambda pair: pair[0],
    )


def worst_measure(record: records.Record) -> shots.Measure:
    """The error in the cluster that is the worst for one start at that K."""
    metric = shots.leading(record)
    get = lambda arm, condition: record.of(SCENARIO, arm, condition, metric)[
        :, worst(record, ONE, condition)[1]
    ]
    mean = lambda arm, c: records.interval(get(arm, c), metric)
    gap = lambda a, b, c: records.difference(get(a, c), get(b, c))
    where = f"in the cluster that is the worst for {ONE}"
    name, compared = (of(metric) for of in (tables.heading, tables.of_differences))
    return shots.Measure(f"{name} {where}", mean, gap, f"{compared} {where}")


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    arms, heads = record.names(), shots.columns(record)
    pairs = [(arm, ONE) for arm in arms if arm != ONE]
    metric = shots.leading(record)
    measure, apart = shots.of_ratings(record, SCENARIO, metric), worst_measure(record)
    users = len(record.extra["groups"])
    title = f"{record.dataset}, {users} new users"
    shots.ratings(title, record, SCENARIO, arms, heads, pairs)
    shots.table(title, apart, arms, heads, 4)
    shots.differences(title, apart, pairs, heads, 4)
    tables.terminal(by_cluster(record))
    shown = f"{title}: {measure.compared} at K = 5"
    groups.show(record, SCENARIO, (HARD, ONE), metric, title=shown, condition=FEW)
    told = record.extra["stability"] | record.extra[STABILITY]
    for name, value in told.items():
        print(f"adjusted Rand index between seeds, {name}: {value:.2f} (1 the same, 0 chance)")
    print(f"silhouette of k-means: {record.extra['silhouette']:.3f} (1 apart, 0 one cloud)")
    for line in liked(record):
        print(line)
    axis = f"ratings of the new user ({record.dataset})"
    shots.curves(measure, arms, heads, folder / "error.png", axis)
    rows = [
        (f"{arm}, K = {c.removeprefix('k=')}", measure.gap(arm, ONE, c))
        for arm, _ in pairs
        for c in ("k=1", FEW, records.ALL)
    ]
    plots.forest(rows, folder / "differences.png", f"{measure.compared} minus {ONE}")
    print(f"plots  {folder}/error.png, differences.png")


def by_cluster(record: records.Record) -> tables.Grid:
    """The error of each arm in each cluster of test users after five ratings."""
    arms = record.names()
    metric = shots.leading(record)
    get = lambda arm, mine: record.of(SCENARIO, arm, FEW, metric)[:, mine]
    rows = []
    for cluster, mine in of_clusters(record):
        means = [f"{np.nanmean(get(arm, mine)):.4f}" for arm in arms]
        gap = records.difference(get(HARD, mine), get(ONE, mine))
        rows.append([str(cluster + 1), str(mine.sum()), *means, shots.signed(gap, 4)])
    rows.append(["worst", "", *(f"{worst(record, arm, FEW)[0]:.4f}" for arm in arms), ""])
    heads = ["cluster", "users", *arms, f"{HARD} - {ONE}"]
    what = f"{tables.of_differences(metric)} at K = 5 by cluster of the new users"
    return tables.Grid(f"{record.dataset}: {what}", heads, rows)


def liked(record: records.Record) -> list[str]:
    """What the clusters of training users like more than others do; nothing of older records."""
    told = record.extra
    if "lift" not in told:
        return []
    lines = []
    for cluster, row in enumerate(told["lift"]):
        most = np.argsort(row)[::-1][:3]
        what = ", ".join(f"{told['genres'][g]} {row[g]:.2f}" for g in most)
        lines.append(f"cluster {cluster + 1} likes, times the share among all: {what}")
    own, permuted = told["unevenness"]
    lines.append(
        f"mean size of log2 of these, over genres and clusters: {own:.2f}; of clusters of permuted "
        f"interactions {permuted:.2f} (0: every cluster likes what everybody likes)"
    )
    return lines
