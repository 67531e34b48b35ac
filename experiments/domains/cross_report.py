"""Tables and pictures of cross_domain, read from records alone."""

import pathlib
from collections.abc import Iterable

import numpy as np

from metajax.results import grid, groups, intervals, plots, records, tables
from metajax.results.readings import metrics_of

ITEM, FOLD_IN, NO_SOURCE = "item mean", "target-only fold-in", "ours, no source"
CMF, EMCDR, EMCDR_MLP = "CMF", "EMCDR, linear", "EMCDR, MLP"
TMCDR, PTUPCDR, OURS, BY_EM = "TMCDR", "PTUPCDR", "ours", "ours, by EM alone"
WRONG_EMCDR, WRONG_OURS = "EMCDR, linear, mismatched", "ours, mismatched"
SHOWN = ("k=0", "k=1", "k=5", records.ALL)
"""The conditions of the tables; all of a support is 10 rows."""
NAMES = {"k=0": "K=0", "k=1": "K=1", "k=5": "K=5", records.ALL: "K=10"}
START, TRAINED = "its start by EM", "the meta-trained one"
"""What is kept of an arm with a start of its own; stored in its settings."""
RIVALS = (FOLD_IN, EMCDR, EMCDR_MLP, TMCDR, PTUPCDR)


def roles(names: Iterable[str]) -> dict[str, str]:
    """The role of each arm."""
    found = dict.fromkeys(names, records.BASELINE)
    found |= dict.fromkeys((NO_SOURCE, BY_EM), records.ABLATION)
    return found | {WRONG_EMCDR: records.CONTROL, WRONG_OURS: records.CONTROL, OURS: records.METHOD}


def metrics(record: records.Record) -> tuple[str, str]:
    """The metrics of the record's labels: an error or AUC first, then nDCG."""
    return ("auc", "ndcg@10") if record.extra["implicit"] else ("mse", "ndcg@5")


TOLD = {"mse": "MSE", "ndcg@5": "nDCG@5", "auc": "AUC", "ndcg@10": "nDCG@10"}


def signed(gap: intervals.Interval) -> str:
    """A difference with its interval; a star where the interval excludes 0."""
    star = "*" if gap.low > 0 or gap.high < 0 else ""
    return f"{gap:+.3f}{star}"


def report(record: records.Record, folder: pathlib.Path) -> None:
    """Prints the tables and saves the pictures."""
    for scenario in record.extra["scenarios"]:
        grid.terminal(values(record, scenario))
        grid.terminal(gaps(record, scenario))
        if "mae" in metrics_of(record, scenario):
            grid.terminal(absolute(record, scenario))
        last = f"{record.dataset}, {scenario}, {NAMES[records.ALL]}"
        rows = {arm: (scenario, arm, records.ALL) for arm in record.names()}
        tables.show_distributions(record, last, rows)
        title = f"{record.dataset}, {scenario}: {TOLD[metrics(record)[0]]} at K=0 by group"
        pair = (OURS, EMCDR)
        found = groups.table(
            record, scenario, pair, metrics(record)[0], title=title, condition="k=0"
        )
        if found:
            grid.terminal(found)
    for line in notes(record):
        print(line)
    curve(record, folder / "shots.png")
    picture(record, folder / "gaps.png")
    print(f"plots  {folder}/shots.png, gaps.png")


def values(record: records.Record, scenario: str) -> grid.Grid:
    """Each arm's error and ranking after K ratings, with 95 % intervals."""
    metric, rank = metrics(record)
    people = record.of(scenario, OURS, records.ALL, metric).shape[1]
    head = "RMSE" if metric == "mse" else TOLD[metric]
    mean = lambda arm, at, one: records.interval(record.of(scenario, arm, at, one), one)
    rows = [
        [arm, *(f"{mean(arm, at, one):.3f}" for one in (metric, rank) for at in SHOWN)]
        for arm in record.names()
    ]
    heads = ["arm", *(f"{name} {NAMES[at]}" for name in (head, TOLD[rank]) for at in SHOWN)]
    title = f"{record.dataset}, {scenario}: {people} people, new in the target"
    return grid.Grid(title, heads, rows)


def absolute(record: records.Record, scenario: str) -> grid.Grid:
    """Each arm's absolute error after K ratings, with 95 % intervals."""
    mean = lambda arm, at: records.interval(record.of(scenario, arm, at, "mae"), "mae")
    rows = [[arm, *(f"{mean(arm, at):.3f}" for at in SHOWN)] for arm in record.names()]
    heads = ["arm", *(f"MAE {NAMES[at]}" for at in SHOWN)]
    return grid.Grid(f"{record.dataset}, {scenario}: absolute errors", heads, rows)


def gaps(record: records.Record, scenario: str) -> grid.Grid:
    """Ours minus each arm, paired by person."""
    places = [(at, one) for one in metrics(record) for at in ("k=0", "k=5")]
    rows = [
        [arm, *(signed(gap(record, scenario, arm, at, one)) for at, one in places)]
        for arm in record.names()
        if arm != OURS
    ]
    title = f"{record.dataset}, {scenario}: ours minus the arm, paired by person"
    return grid.Grid(title, ["arm", *(f"{TOLD[one]} {NAMES[at]}" for at, one in places)], rows)


def gap(
    record: records.Record, scenario: str, arm: str, condition: str, metric: str
) -> intervals.Interval:
    """Ours minus an arm."""
    get = lambda name: record.of(scenario, name, condition, metric)
    return records.difference(get(OURS), get(arm))


def notes(record: records.Record) -> list[str]:
    """What stands below the tables."""
    metric = metrics(record)[0]
    told, low = record.extra, metric == "mse"
    lines = [
        f"{told['shared']} people are in both domains; judged are hidden people with at least 13 "
        "target rows. Intervals are over people, seeds averaged first; * excludes 0. "
        + ("Below 0, ours is ahead." if low else "Above 0, ours is ahead."),
    ]
    if told["implicit"]:
        lines.append("A row is an event (1) or an item drawn at random (0), as many of each.")
    lines += guarded(record)
    for scenario in told["scenarios"]:
        for condition in ("k=0", "k=5"):
            found = {a: gap(record, scenario, a, condition, metric) for a in RIVALS}
            ahead = [a for a, g in found.items() if (g.high < 0 if low else g.low > 0)]
            behind = [a for a, g in found.items() if (g.low > 0 if low else g.high < 0)]
            lines.append(
                f"{scenario}, {NAMES[condition]}, {TOLD[metric]}: ours is ahead of "
                f"{len(ahead)} of {len(RIVALS)} ({', '.join(ahead) or 'none'}), "
                f"behind {len(behind)} ({', '.join(behind) or 'none'})"
            )
    return lines


def guarded(record: records.Record) -> list[str]:
    """What the one-standard-error rule kept of ours."""
    settings = record.arm(OURS).settings
    if any("kept" not in one for one in settings.values()):
        return [
            "This record is older than the one-standard-error rule: ours is the meta-trained one "
            "wherever its validation error was lower than that of its start by EM."
        ]
    return [
        f"{scenario}: ours is {one['kept']}; on {one['users']} validation people training gains "
        f"{one['gain']:+.4f} in MSE, standard error {one['standard_error']:.4f} (the start is kept "
        "unless the gain is above its standard error)."
        for scenario, one in settings.items()
    ]


def curve(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error over K where the fewest are hidden."""
    metric, scenario = metrics(record)[0], record.extra["scenarios"][0]
    arms = (ITEM, FOLD_IN, CMF, EMCDR, TMCDR, PTUPCDR, OURS)
    places = np.arange(len(SHOWN))
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(arms):
            rows = [records.interval(record.of(scenario, arm, c, metric), metric) for c in SHOWN]
            axes.plot(places, [r.mean for r in rows], label=arm, **plots.look(i))
        axes.set_xticks(places, [NAMES[c].removeprefix("K=") for c in SHOWN])
        plots.finish(
            axes, "ratings in the target", "RMSE" if metric == "mse" else TOLD[metric], len(arms)
        )


def picture(record: records.Record, path: pathlib.Path) -> None:
    """Saves ours minus each rival, for every share of hidden people."""
    metric = metrics(record)[0]
    rows = [
        (f"{scenario}, {NAMES[c]}: {arm}", gap(record, scenario, arm, c, metric))
        for scenario in record.extra["scenarios"]
        for c in ("k=0", "k=5")
        for arm in RIVALS
    ]
    plots.forest(rows, path, f"{TOLD[metric]}: ours minus the arm")
