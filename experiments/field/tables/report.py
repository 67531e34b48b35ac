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
MEASURED = {
    "T1": METRICS["T1"],
    "T2": ("mse", "ndcg@5", "mae", "mae_calibrated", "log_loss", "crps"),
    "T5": ("mse", "ndcg@5", "mae", "mae_calibrated", "log_loss", "crps"),
}
"""Of records with proper scores, which lead with RMSE and nDCG@5."""
NAMES = {"mae": "MAE", "mse": "RMSE"} | tables.MEASURES


def shown_of(table: str, record: records.Record) -> tuple[str, ...]:
    """The metrics that a table shows; the first is the one that differences are taken of."""
    return (MEASURED if tables.measured(record) else METRICS)[table]


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


def _left_out(record: records.Record, scenario: str, arm: str) -> bool:
    """Whether nobody may be ahead of the arm, since it diverged; told of measured records."""
    return tables.measured(record) and tables.diverged(record, scenario, arm)


def scenario_grid(table: str, name: str, record: records.Record, scenario: str) -> tables.Grid:
    """One scenario: arms by metrics, the paired difference in the first metric, and its p."""
    metrics = shown_of(table, record)
    gaps = ahead(record, scenario, "all", metrics[0])
    rows, bold = [], []
    for i, arm in enumerate(record.names()):
        cells = [arm]
        for place, metric in enumerate(metrics):
            found = records.interval(record.of(scenario, arm, "all", metric), metric)
            whole = place < 2 or not tables.measured(record)
            ends = f" [{found.low:.4f}, {found.high:.4f}]" if whole else ""
            cells.append(f"{found.mean:.4f}{ends}")
        gap = gaps.get(arm)
        if gap and _left_out(record, scenario, arm):
            cells += ["diverged", ""]
        else:
            cells += [_cell(*gap), f"{gap[1]:.4f}"] if gap else ["", ""]
        cells.append(str(record.arm(arm).settings.get("trials", "")))
        rows.append(cells)
        if arm == record.method:
            bold.append(i)
    shown = [NAMES.get(m, m.replace("ndcg", "nDCG")) for m in metrics]
    headings = [
        "arm",
        *shown,
        f"{records.label(record.method)} - arm, {shown[0].replace('RMSE', 'MSE')}",
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
        f"Below each arm stands the difference {records.label(record.method)} minus that arm; "
        "* marks a Holm-adjusted p < 0.05."
    )
    return tables.Grid(
        f"T3 {label} of cold users by shots, {name}", headings, rows, 1, [note], (), bold
    )


def verdicts(record: records.Record, scenario: str, condition: str, metric: str) -> str:
    """One line: is the method ahead of every non-meta arm, and if not, of which it is not."""
    gaps = ahead(record, scenario, condition, metric)
    baselines = {arm: g for arm, g in gaps.items() if record.arm(arm).role != records.METHOD}
    lost = [arm for arm in baselines if _left_out(record, scenario, arm)]
    behind = [
        arm for arm, (gap, p) in baselines.items() if arm not in lost and not better(gap, p, metric)
    ]
    where = f"{scenario.replace('_', '-')}, {condition}, {NAMES.get(metric, metric)}"
    if not behind:
        but = f" that did not diverge ({', '.join(lost)} did)" if lost else ""
        return f"{where}: ahead of every non-meta arm{but}"
    told = "; ".join(f"{arm} {_cell(*gaps[arm])}" for arm in behind)
    return f"{where}: NOT ahead of {told}"


def show_scenarios(table: str, name: str, record: records.Record) -> None:
    """Prints a record, scenario by scenario, with its verdicts and its gap of control N1."""
    for scenario in record.tasks:
        tables.terminal(scenario_grid(table, name, record, scenario))
        also = ("ndcg@5",) if table != "T1" else ()
        for metric in dict.fromkeys((shown_of(table, record)[0], *also)):
            print("  " + verdicts(record, scenario, "all", metric))
        gap = tables.gap(record, scenario, record.method)
        error = "MSE" if tables.measured(record) else "MAE"
        told = tables.adaptation(record, scenario, record.method)
        told = "" if told == tables.TASTE else f": adapts {told}"
        print(f"  N1 gap of {records.label(record.method)}, {error}: {tables.signed(gap)}{told}")
    for line in record.extra.get("notes", ()):
        print(line)


def show_curves(table: str, name: str, record: records.Record) -> None:
    """Prints T3: the errors and the order of cold users' lists by shots, with the verdicts."""
    for metric in ("mse" if tables.measured(record) else "mae", "ndcg@5"):
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
    metric = shown_of(table if table in METRICS else "T2", record)[0]
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap)
        for scenario in record.tasks
        for arm, (gap, _) in ahead(record, scenario, "all", metric).items()
        if np.isfinite(gap.low)
    ]
    label = f"{metric}, {records.label(record.method)} minus the arm"
    plots.forest(rows, folder / "forest.png", label)
