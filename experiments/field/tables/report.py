"""How the field's tables are printed: every arm beside the method, and whether the method is ahead.

Differences are paired by user. The p-values of a scenario's comparisons are adjusted by Holm's
method; a star says that the adjusted one is below 0.05 and the interval excludes 0.
"""

import numpy as np

from metajax.results import intervals, plots, records, tables
from metajax.results.tables import lower_is_better

from ..metaemb import report as metaemb_report

ORDER = ("ndcg@5", "precision@5", "mrr@5")
"""What T1 is judged by: how a list is ordered. The errors of its scores say nothing."""


def shown_of(table: str, record: records.Record) -> tuple[str, ...]:
    """The metrics that a table shows; `compared_of` are the first of them."""
    if table == "T1":
        return ORDER
    known = tables.metrics_of(record)
    return tuple(metric for metric in tables.MEASURES if metric in known)


def compared_of(table: str, record: records.Record) -> tuple[str, ...]:
    """The metrics that arms are compared in; the first decides which arms diverged."""
    return ORDER[:1] if table == "T1" else tables.COMPARED


def judged_by(record: records.Record) -> str:
    """The metric that a record of these or of other tables is judged by."""
    table = record.extra.get("table", "")
    return ORDER[0] if table == "T1" else tables.metrics_of(record)[0]


def ahead(
    record: records.Record, scenario: str, condition: str, metric: str
) -> dict[str, tuple[intervals.Interval, float]]:
    """Other arm -> (method minus arm, Holm-adjusted p), for every other arm of a record."""
    method = record.method
    mine = record.of(scenario, method, condition, metric)
    others = [arm for arm in record.names() if arm != method]
    gaps = [records.difference(mine, record.of(scenario, a, condition, metric)) for a in others]
    adjusted = intervals.holm(np.array([g.p if np.isfinite(g.p) else 0.0 for g in gaps]))
    return {a: (g, float(p)) for a, g, p in zip(others, gaps, adjusted, strict=True)}


def better(gap: intervals.Interval, p: float, metric: str) -> bool:
    """Whether the method is ahead: its interval on the good side of 0, and p below 0.05."""
    good = gap.high < 0 if lower_is_better(metric) else gap.low > 0
    return bool(good and p < 0.05)


def _cell(gap: intervals.Interval, p: float, digits: int = 4) -> str:
    star = "*" if p < 0.05 and (gap.low > 0 or gap.high < 0) else " "
    return f"{gap.mean:+.4f}{star}[{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"


def _lost(record: records.Record, scenario: str, arm: str, condition: str = records.ALL) -> bool:
    """Whether nobody may be ahead of the arm, since it diverged: as it is, or in the condition."""
    metric = judged_by(record)
    each = dict.fromkeys((records.ALL, condition))
    return any(tables.diverged(record, scenario, arm, one, metric) for one in each)


def scenario_grid(table: str, name: str, record: records.Record, scenario: str) -> tables.Grid:
    """One scenario: arms by metrics, with paired differences in those that arms are compared in."""
    metrics, compared = shown_of(table, record), compared_of(table, record)
    with_ends = ORDER if table == "T1" else compared
    gaps = {metric: ahead(record, scenario, records.ALL, metric) for metric in compared}
    rows, bold = [], []
    for i, arm in enumerate(record.names()):
        lost = any(_lost(record, scenario, one) for one in (arm, record.method))
        cells = [tables.named(record, scenario, arm, records.ALL, judged_by(record))]
        for metric in metrics:
            found = records.interval(record.of(scenario, arm, records.ALL, metric), metric)
            ends = f" [{found.low:.4f}, {found.high:.4f}]" if metric in with_ends else ""
            cells.append(f"{found.mean:.4f}{ends}")
        for metric in compared:
            gap = gaps[metric].get(arm)
            told = ["diverged", ""] if gap and lost else ["", ""]
            cells += [_cell(*gap), f"{gap[1]:.4f}"] if gap and not lost else told
        cells.append(str(record.arm(arm).settings.get("trials", "")))
        rows.append(cells)
        if arm == record.method:
            bold.append(i)
    method, headings = records.label(record.method), ["arm"]
    headings += [tables.heading(m) + " [95 %]" * (m in with_ends) for m in metrics]
    for metric in compared:
        headings += [f"{method} - arm, {tables.of_differences(metric)}", "p (Holm)"]
    count = record.tasks[scenario]
    title = (
        f"{table} {name.split('-', 2)[2]}, {scenario.replace('_', '-')}: {count} test tasks, "
        f"{record.config['seeds']} seeds"
    )
    notes = [] if table == "T1" else tables.of_the_link(record)
    return tables.Grid(title, [*headings, "trials"], rows, notes=notes, bold=bold)


def curve_grid(name: str, record: records.Record, metric: str) -> tables.Grid:
    """T3: arms by shots, and below each arm the method's paired difference."""
    conditions = [*(f"k={k}" for k in record.shots), records.ALL]
    gaps = {c: ahead(record, "user_cold", c, metric) for c in conditions}
    lost = lambda arm, when: any(
        _lost(record, "user_cold", one, when) for one in (arm, record.method)
    )
    rows, bold = [], []
    for arm in record.names():
        values = [
            records.interval(record.of("user_cold", arm, c, metric), metric) for c in conditions
        ]
        if arm == record.method:
            bold.append(len(rows))
        rows.append([arm, *(tables.with_interval(v) for v in values)])
        if arm in gaps[records.ALL]:
            told = lambda when, a=arm: "diverged" if lost(a, when) else _cell(*gaps[when][a], 3)
            rows.append([f"  {records.label(record.method)} - arm", *map(told, conditions)])
    headings = ["arm", *(c.replace("k=", "K=") for c in conditions)]
    label = records.label(record.method)
    note = (
        f"Means with 95 % intervals. Below each arm stands the difference {label} minus that arm, "
        f"{tables.of_differences(metric)}, paired by user; * marks a Holm-adjusted p < 0.05. An "
        "arm that diverged there or with all ratings is compared with nothing."
    )
    title = f"T3 {tables.heading(metric)} of cold users by shots, {name}"
    return tables.Grid(title, headings, rows, 1, [note], (), bold)


def verdicts(record: records.Record, scenario: str, condition: str, metric: str) -> str:
    """One line: is the method ahead of every non-meta arm, and if not, of which it is not."""
    where = f"{scenario.replace('_', '-')}, {condition}, {tables.heading(metric)}"
    if _lost(record, scenario, record.method, condition):
        return f"{where}: {record.method} diverged, and is ahead of nobody"
    gaps = ahead(record, scenario, condition, metric)
    baselines = {arm: g for arm, g in gaps.items() if record.arm(arm).role != records.METHOD}
    lost = [arm for arm in baselines if _lost(record, scenario, arm, condition)]
    behind = [
        arm for arm, (gap, p) in baselines.items() if arm not in lost and not better(gap, p, metric)
    ]
    but = f" ({', '.join(lost)} diverged and is left out)" if lost else ""
    if not behind:
        return f"{where}: ahead of every non-meta arm{but}"
    told = "; ".join(f"{arm} {_cell(*gaps[arm])}" for arm in behind)
    return f"{where}: NOT ahead of {told}{but}"


def show_scenarios(table: str, name: str, record: records.Record) -> None:
    """Prints a record, scenario by scenario, with its verdicts and its gap of control N1."""
    main = judged_by(record)
    for scenario in record.tasks:
        tables.terminal(scenario_grid(table, name, record, scenario))
        for metric in compared_of(table, record):
            print("  " + verdicts(record, scenario, records.ALL, metric))
        gap = tables.gap(record, scenario, record.method, metric=main)
        told = tables.adaptation(record, scenario, record.method, main)
        label, measure = records.label(record.method), tables.of_differences(main)
        print(f"  N1 gap of {label}, {measure}: {tables.signed(gap)}: adapts {told}")
    for line in (*tables.of_diverged(record), *record.extra.get("notes", ())):
        print(line)


def show_curves(table: str, name: str, record: records.Record) -> None:
    """Prints T3: the measures of cold users that all shots have, with the verdicts."""
    conditions = [*(f"k={k}" for k in record.shots), records.ALL]
    known = lambda metric: all(
        records.Key("user_cold", arm, when, metric) in record.scores
        for arm in record.names()
        for when in conditions
    )
    for metric in filter(known, tables.MEASURES):
        tables.terminal(curve_grid(name, record, metric))
        if metric in tables.COMPARED:
            for condition in conditions:
                print("  " + verdicts(record, "user_cold", condition, metric))
    for line in tables.of_diverged(record):
        print(line)


def show_warm_up(table: str, name: str, record: records.Record) -> None:
    """Prints T4: items that warm up."""
    metaemb_report.show(record)


def save_figures(name: str, record: records.Record, folder) -> None:
    """Saves the k-shot curve, the learning curves and the forest plot of a part."""
    plots.k_shot(record, "user_cold", folder / "k_shot.png")
    plots.learning(record, folder / "learning.png")
    metric = judged_by(record)
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap)
        for scenario in record.tasks
        for arm, (gap, _) in ahead(record, scenario, records.ALL, metric).items()
        if not any(_lost(record, scenario, one) for one in (arm, record.method))
    ]
    label = f"{tables.of_differences(metric)}, {records.label(record.method)} minus the arm"
    plots.forest(rows, folder / "forest.png", label)
