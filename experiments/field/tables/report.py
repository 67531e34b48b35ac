"""How the field's tables are printed: every arm beside the method, and whether the method is ahead.

Differences are paired by user. The p-values of a scenario's comparisons are adjusted by Holm's
method; a star says that the adjusted one is below 0.05 and the interval excludes 0.
"""

import numpy as np

from metajax.results import intervals, plots, records, tables
from metajax.results.tables import lower_is_better

from ..metaemb import report as metaemb_report

METRICS = {
    "T1": ("ndcg@5", "precision@5", "mrr@5"),
    "T2": ("mae", "ndcg@1", "ndcg@3", "ndcg@5"),
    "T5": ("mae", "ndcg@5"),
}
NAMES = {"mae": "MAE", "mse": "RMSE"}


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


def _cell(gap: intervals.Interval, p: float) -> str:
    if not np.isfinite(gap.low):
        return "diverged"
    star = "*" if p < 0.05 and (gap.low > 0 or gap.high < 0) else " "
    return f"{gap.mean:+.4f}{star}[{gap.low:+.4f}, {gap.high:+.4f}]"


def scenario_grid(table: str, name: str, record: records.Record, scenario: str) -> tables.Grid:
    """One scenario: arms by metrics, the paired difference in the first metric, and its p."""
    metrics = METRICS[table]
    gaps = ahead(record, scenario, "all", metrics[0])
    rows, bold = [], []
    for i, arm in enumerate(record.names()):
        cells = [arm]
        for metric in metrics:
            found = records.interval(record.of(scenario, arm, "all", metric), metric)
            cells.append(f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]")
        gap = gaps.get(arm)
        cells += [_cell(*gap), f"{gap[1]:.4f}"] if gap else ["", ""]
        cells.append(str(record.arm(arm).settings.get("trials", "")))
        rows.append(cells)
        if arm == record.method:
            bold.append(i)
    shown = [NAMES.get(m, m.replace("ndcg", "nDCG")) for m in metrics]
    headings = [
        "arm",
        *shown,
        f"{records.label(record.method)} - arm, {shown[0]}",
        "p (Holm)",
        "trials",
    ]
    count = record.tasks[scenario]
    return tables.Grid(
        f"{table} {name.split('-', 2)[2]}, {scenario.replace('_', '-')}: {count} test tasks, "
        f"{record.config['seeds']} seeds",
        headings,
        rows,
        bold=bold,
    )


def curve_grid(name: str, record: records.Record, metric: str) -> tables.Grid:
    """T3: arms by shots, and below each arm the method's paired difference."""
    conditions = [f"k={k}" for k in record.shots] + ["all"]
    gaps = {c: ahead(record, "user_cold", c, metric) for c in conditions}
    rows, bold = [], []
    for arm in record.names():
        values = [
            records.interval(record.of("user_cold", arm, c, metric), metric) for c in conditions
        ]
        if arm == record.method:
            bold.append(len(rows))
        rows.append([arm, *(f"{v.mean:.4f}" for v in values)])
        if arm in gaps["all"]:
            rows.append(
                ["", *(_cell(*gaps[c][arm]).replace(" [", "[").split("[")[0] for c in conditions)]
            )
    headings = ["arm", *(c.replace("k=", "K=") for c in conditions)]
    label = NAMES.get(metric, metric.replace("ndcg", "nDCG"))
    note = (
        f"Below each arm: {records.label(record.method)} minus that arm; * Holm-adjusted p < 0.05."
    )
    return tables.Grid(
        f"T3 {label} of cold users by shots, {name}", headings, rows, 1, [note], (), bold
    )


def verdicts(record: records.Record, scenario: str, condition: str, metric: str) -> str:
    """One line: is the method ahead of every non-meta arm, and if not, of which it is not."""
    gaps = ahead(record, scenario, condition, metric)
    baselines = {arm: g for arm, g in gaps.items() if record.arm(arm).role != records.METHOD}
    behind = [arm for arm, (gap, p) in baselines.items() if not better(gap, p, metric)]
    where = f"{scenario.replace('_', '-')}, {condition}, {NAMES.get(metric, metric)}"
    if not behind:
        return f"{where}: ahead of every non-meta arm"
    told = "; ".join(f"{arm} {_cell(*gaps[arm])}" for arm in behind)
    return f"{where}: NOT ahead of {told}"


def show_scenarios(table: str, name: str, record: records.Record) -> None:
    """Prints a record, scenario by scenario, with its verdicts and its gap of control N1."""
    for scenario in record.tasks:
        tables.terminal(scenario_grid(table, name, record, scenario))
        for metric in dict.fromkeys((METRICS[table][0], "ndcg@5")):
            print("  " + verdicts(record, scenario, "all", metric))
        gap = tables.gap(record, scenario, record.method)
        print(f"  N1 gap of {records.label(record.method)}, MAE: {tables.signed(gap)}")


def show_curves(table: str, name: str, record: records.Record) -> None:
    """Prints T3: the errors and the order of cold users' lists by shots, with the verdicts."""
    for metric in ("mae", "ndcg@5"):
        tables.terminal(curve_grid(name, record, metric))
        for condition in [f"k={k}" for k in record.shots] + ["all"]:
            print("  " + verdicts(record, "user_cold", condition, metric))


def show_warm_up(table: str, name: str, record: records.Record) -> None:
    """Prints T4: items that warm up."""
    metaemb_report.show(record)


def save_figures(name: str, record: records.Record, folder) -> None:
    """Saves the k-shot curve, the learning curves and the forest plot of a part."""
    plots.k_shot(record, "user_cold", folder / "k_shot.png")
    plots.learning(record, folder / "learning.png")
    table = record.extra["table"]
    metric = METRICS.get(table, METRICS["T2"])[0]
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap)
        for scenario in record.tasks
        for arm, (gap, _) in ahead(record, scenario, "all", metric).items()
        if np.isfinite(gap.low)
    ]
    label = f"{metric}, {records.label(record.method)} minus the arm"
    plots.forest(rows, folder / "forest.png", label)
