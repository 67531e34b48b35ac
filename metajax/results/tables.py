"""Tables of records: for the terminal at any width, and as Markdown, LaTeX, Typst and CSV."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from metajax.results import groups, records
from metajax.results.grid import WIDE, Grid, markdown, signed, terminal, with_interval
from metajax.results.readings import (
    LEVEL,
    MEASURES,
    NOTHING,
    TASTE,
    UNTASTED,
    adaptation,
    diverged,
    gap,
    heading,
    lower_is_better,
    metrics_of,
    named,
    of_differences,
    opened,
    rated,
)

BASELINES = ("A2 fold-in", "A4 fine-tuned")
COMPARED = ("mse", "ndcg@5")
"""What arms are compared in, in tables of ratings: means have intervals, and differences stand."""
CALIBRATED = ("mae_calibrated", "mse_calibrated", "log_loss", "crps")
"""Measures of the distribution over ratings that the same calibration gives every arm."""
SHORT = {
    "ndcg@5": "nDCG",
    "mae_calibrated": "MAE c.",
    "mse_calibrated": "RMSE c.",
    "log_loss": "log-l.",
}
"""Measures as they are headed where there is little room."""
RATED_WIDE = 190
"""Columns that the wide table of a `rated` record takes."""

__all__ = [
    "BASELINES",
    "CONTROLS",
    "LEVEL",
    "MEASURES",
    "NOTHING",
    "TASTE",
    "UNTASTED",
    "Grid",
    "adaptation",
    "controls_of",
    "diverged",
    "gap",
    "grid_of",
    "heading",
    "lower_is_better",
    "markdown",
    "named",
    "of_differences",
    "of_diverged",
    "of_the_link",
    "opened",
    "rated",
    "resting",
    "rests_on",
    "show",
    "show_distributions",
    "signed",
    "terminal",
    "with_interval",
]


def grid_of(record: records.Record, *, wide: bool = True) -> Grid:
    """The table of an experiment: scenarios by arms, with intervals, differences and a control.

    Args:
      record: of an experiment of ratings, or of events, which have no squared error.
      wide: with intervals, for 150 columns; else without, for 80.
    """
    if rated(record):
        return _measures_of(record, wide=wide)
    metrics = metrics_of(record)
    names = [heading(metric) for metric in metrics]
    rows, sections, bold = [], [], []
    for scenario, count in record.tasks.items():
        sections.append(len(rows))
        name = f"{scenario.replace('_', '-')} ({count})"
        if not wide:
            rows.append([name, *[""] * (len(metrics) + 3)])
        for i, arm in enumerate(record.names()):
            if arm == record.method:
                bold.append(len(rows))
            cells = _row(record, scenario, arm, metrics, wide)
            rows.append([name if i == 0 else "", *cells] if wide else ["  " + cells[0], *cells[1:]])
    split = record.split or records.Split("none")
    title = (
        f"{record.experiment} on {record.dataset}, protocol {split.protocol}, "
        f"split {split.checksum}, {record.config['seeds']} seeds"
    )
    headings = [
        *(("scenario", "arm", f"{names[0]} [95 %]") if wide else ("arm", names[0])),
        *names[1:],
        *(f"{names[0]} - {other[:2]}" if wide else f"- {other[:2]}" for other in BASELINES),
        "N1 gap",
    ]
    notes = [
        f"{_directions(metrics)} Differences are paired by user; * marks an "
        "interval that excludes 0.",
        f"N1 gap: {names[0]} with shuffled support labels minus {names[0]}. {opened(record)}",
        *of_diverged(record),
    ]
    notes += [*rests_on(record), *record.extra.get("notes", ())]
    return Grid(title, headings, rows, 2 if wide else 1, notes, sections, bold)


def of_diverged(record: records.Record) -> list[str]:
    """A line for each seed of an arm whose training diverged."""
    return [
        f"{arm.name} diverged and is judged by the best parameters that it had before: {said}."
        for arm in record.arms
        for said in arm.settings.get("diverged", ())
    ]


def _measures_of(record: records.Record, *, wide: bool) -> Grid:
    """The table of a `rated` record: RMSE and nDCG@5 first, and the method minus every arm."""
    shown = [metric for metric in metrics_of(record) if metric in MEASURES]
    compared = [metric for metric in COMPARED if metric in shown]
    rows, sections, bold = [], [], []
    for scenario, count in record.tasks.items():
        sections.append(len(rows))
        empty = [""] * (len(shown) + len(compared))
        rows.append([f"{scenario.replace('_', '-')} ({count})", *empty])
        for arm in record.names():
            if arm == record.method:
                bold.append(len(rows))
            rows.append(_rated_row(record, scenario, arm, shown, wide))
    split, method = record.split or records.Split("none"), records.label(record.method)
    title = (
        f"{record.experiment} on {record.dataset}, protocol {split.protocol}, "
        f"split {split.checksum}, {record.config['seeds']} seeds"
    )
    names = [f"{MEASURES[m]} [95 %]" if m in COMPARED else MEASURES[m] for m in shown]
    gaps = [f"{of_differences(metric)}: {method} - arm" for metric in compared]
    if not wide:
        names = [SHORT.get(metric, MEASURES[metric]) for metric in shown]
        gaps = [f"d {of_differences(metric)[:4]}" for metric in compared]
    notes = [
        f"{' and '.join(gaps)}: differences, {method} minus the arm, paired by user; * marks "
        f"an interval that excludes 0. {_directions(shown)}",
        *of_the_link(record),
        opened(record),
        *of_diverged(record),
        *rests_on(record),
        *record.extra.get("notes", ()),
    ]
    return Grid(title, ["arm", *names, *gaps], rows, 1, notes, sections, bold)


def _rated_row(
    record: records.Record, scenario: str, arm: str, shown: Sequence[str], wide: bool
) -> list[str]:
    cells = [f"  {named(record, scenario, arm)}"]
    for metric in shown:
        r = records.interval(record.of(scenario, arm, records.ALL, metric), metric)
        whole = wide and metric in COMPARED
        cells.append(with_interval(r) if whole else f"{r.mean:.{4 if wide else 3}f}")
    compared = [metric for metric in COMPARED if metric in shown]
    if arm == record.method or not record.method:
        return [*cells, *[""] * len(compared)]
    lost = any(diverged(record, scenario, one) for one in (arm, record.method))
    for metric in compared:
        mine, other = (record.of(scenario, a, records.ALL, metric) for a in (record.method, arm))
        cells.append("diverged" if lost else signed(records.difference(mine, other), wide))
    return cells


def of_the_link(record: records.Record, over: str = "") -> list[str]:
    """What is said of the distributions over ratings, if there are any, and of their scale.

    Args:
      over: what they are over, where the record is of several scales; else ``extra`` tells.
    """
    known = {key.metric for key in record.scores}
    if "crps" not in known:
        return []
    told = record.extra.get("ordinal", {})
    count = told.get("levels", 0)
    root = " and RMSE cal. the RMSE of its mean" * ("mse_calibrated" in known)
    lines = [
        f"{', '.join(MEASURES[m] for m in CALIBRATED if m in known)} judge a distribution over "
        f"{over or f'{count} ratings'}. The same ordinal link, fitted to each arm's scores on "
        f"meta-validation, gives it; MAE cal. (calibrated) is the MAE of its median{root}."
    ]
    if told.get("even"):
        lines.append(
            f"The ratings are continuous: {count} evenly spaced levels stand for them, and each "
            f"counts as the nearest, at most {told['step'] / 2:.3g} away."
        )
    return lines


def show_distributions(
    record: records.Record,
    title: str,
    rows: Mapping[str, tuple[str, str, str]],
    notes: Sequence[str] = (),
) -> None:
    """Prints the measures of distributions over ratings, with intervals, if a record has them.

    Args:
      rows: what a row is called -> its scenario, arm and condition.
      notes: what else is said below.
    """
    places = [functools.partial(records.Key, *at) for at in rows.values()]
    has = lambda metric: all(place(metric) in record.scores for place in places)
    metrics = [metric for metric in CALIBRATED if has(metric)]
    if not places or not metrics:
        return
    cells = []
    for name, (scenario, arm, condition) in rows.items():
        of = [records.interval(record.of(scenario, arm, condition, m), m) for m in metrics]
        cells.append([name, *(f"{found:.4f}" for found in of)])
    heads, said = ["arm", *(heading(m) for m in metrics)], [*of_the_link(record), *notes]
    terminal(Grid(f"{title}: distributions over ratings", heads, cells, notes=said))


def _directions(metrics: Sequence[str]) -> str:
    """Which metrics are better when lower, and which when higher, in a sentence."""
    lower = ", ".join(heading(m) for m in metrics if lower_is_better(m))
    higher = ", ".join(heading(m) for m in metrics if not lower_is_better(m))
    if lower and higher:
        return f"{lower}: lower is better; {higher}: higher."
    return f"{lower}: lower is better." if lower else f"{higher}: higher is better."


CONTROLS = {
    records.N0: "N0 no support",
    records.N1: "N1 shuffled labels",
    records.N2: "N2 another's support",
    records.N3: "N3 untrained",
}


def controls_of(record: records.Record) -> Grid:
    """The table of the four controls: by how much each makes every arm worse, with intervals."""
    metric = metrics_of(record)[0]
    name = of_differences(metric)
    rows, sections, bold = [], [], []
    for scenario in record.tasks:
        sections.append(len(rows))
        for i, arm in enumerate(record.names()):
            if arm == record.method:
                bold.append(len(rows))
            cells = [_control_cell(record, scenario, arm, metric, c) for c in CONTROLS]
            name_of_arm = named(record, scenario, arm)
            rows.append([scenario.replace("_", "-") if i == 0 else "", name_of_arm, *cells])
    notes = [
        f"{name} under the control minus {name} as it is. No support: the "
        "cold start. Another's support: that of a task drawn at random. Untrained: a fresh random "
        "initialization. A gap of 0 says that the arm makes no use of what the control takes away."
    ]
    title = f"Controls of {record.experiment} on {record.dataset}"
    return Grid(title, ["scenario", "arm", *CONTROLS.values()], rows, 2, notes, sections, bold)


def _control_cell(
    record: records.Record, scenario: str, arm: str, metric: str, control: str
) -> str:
    """What the control costs; empty where the arm has no such control."""
    known = records.Key(scenario, arm, control, metric) in record.scores
    return signed(gap(record, scenario, arm, control)) if known else ""


def resting(record: records.Record) -> list[tuple[str, str]]:
    """The metrics that may be undefined for a task, with their names; errors go together."""
    known = metrics_of(record)
    errors = ("mae", *CALIBRATED) if rated(record) else ()
    return [(m, "errors" if m == "mse" else heading(m)) for m in known if m not in errors]


def rests_on(record: records.Record) -> list[str]:
    """A line for each mean that is not over all users of its scenario, if there are any."""
    lines = []
    for scenario, count in record.tasks.items():
        for metric, name in resting(record):
            arms = [record.of(scenario, arm, "all", metric) for arm in record.names()]
            users = {int((~np.isnan(x)).any(axis=0).sum()) for x in arms}
            if users != {count}:
                of = " to ".join(str(n) for n in sorted({min(users), max(users)}))
                lines.append(f"{scenario.replace('_', '-')}: {name} rest on {of} of {count} users.")
    return lines


def show(record: records.Record, console: Console | None = None) -> None:
    """Prints the tables of an experiment, and a warning where its method does not adapt."""
    console = console or Console()
    needed = RATED_WIDE if rated(record) else WIDE
    wide = not console.is_terminal or console.width >= needed
    terminal(grid_of(record, wide=wide), console)
    if wide and any(key.condition == records.N2 for key in record.scores):
        terminal(controls_of(record), console)
    if wide:
        _show_groups(record, console)
    if record.method:
        for scenario in record.tasks:
            found = adaptation(record, scenario, record.method)
            if found != TASTE:
                told = f"{record.method} on {scenario} adapts {found}: {WHY[found]}"
                console.print(told, style="bold")


def _show_groups(record: records.Record, console: Console) -> None:
    """Prints the method and a baseline in each group of test tasks, where the record has groups."""
    rival = next((name for name in BASELINES if name in record.names()), "")
    if not rival or record.method in ("", rival):
        return
    metric = metrics_of(record)[0]
    name = of_differences(metric)
    for scenario in record.tasks:
        title = f"{record.dataset}, {scenario.replace('_', '-')}: {name} by group"
        found = groups.table(record, scenario, (record.method, rival), metric, title=title)
        if found:
            terminal(found, console)


WHY = {
    LEVEL: "it is as good with shuffled labels, and worse with another's support or with none",
    NOTHING: "it is as good with shuffled labels, and with another's support or with none",
    UNTASTED: "it is as good with shuffled labels",
}


def _row(
    record: records.Record, scenario: str, arm: str, metrics: Sequence[str], wide: bool
) -> list[str]:
    cells, digits = [arm], 4 if wide else 3
    for metric in metrics:
        r = records.interval(record.of(scenario, arm, records.ALL, metric), metric)
        whole = metric == metrics[0] and wide
        cells.append(with_interval(r) if whole else f"{r.mean:.{digits}f}")
    mine = record.of(scenario, arm, records.ALL, metrics[0])
    for baseline in BASELINES:
        if arm == baseline or baseline not in record.names():
            cells.append("")
            continue
        other = record.of(scenario, baseline, records.ALL, metrics[0])
        cells.append(signed(records.difference(mine, other), wide))
    cells.append(signed(gap(record, scenario, arm), wide))
    return cells
