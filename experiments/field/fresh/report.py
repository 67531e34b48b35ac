"""How registered comparisons are printed and drawn."""

import pathlib

from metajax.results import plots, records, registered, tables
from metajax.results.registered import Comparison


def grid_of(found: Comparison, scenario: str, when: str = records.ALL) -> tables.Grid:
    """All arms by every measure, and the method minus each baseline in the primary ones."""
    primary, record = found.told["primary"], found.record
    others = [m for m in tables.metrics_of(record) if m not in primary and m in tables.MEASURES]
    others = others if when == records.ALL else []
    rows, bold = [], []
    for arm in record.names():
        if arm == record.method:
            bold.append(len(rows))
        lost = found.diverged(scenario, arm, when)
        cells = [f"{arm} (diverged)" if lost else arm]
        for metric in primary:
            mean = found.mean(scenario, metric, arm, when)
            cells.append(tables.with_interval(mean) if mean else "diverged")
        for metric in others:
            mean = records.interval(record.of(scenario, arm, when, metric), metric).mean
            cells.append(f"{mean:.4f}")
        for metric in primary:
            gap = found.gaps(scenario, metric, when).get(arm)
            told = "diverged" if lost else ""
            cells.append(f"{tables.signed(gap.found)} p {gap.p:.4f}" if gap else told)
        rows.append(cells)
    names = [f"{tables.heading(metric)} [95 %]" for metric in primary]
    names += [tables.heading(metric) for metric in others]
    label = records.label(record.method)
    heads = [f"{label} - arm, {tables.of_differences(metric)}" for metric in primary]
    note = "Pooled over splits and users by a two-way bootstrap; p after Holm over the arms."
    size, splits = found.size(scenario), len(found.splits)
    for metric in primary:
        left = [gap.found.num_dropped for gap in found.gaps(scenario, metric, when).values()]
        if max(left, default=0):
            note += f" {tables.heading(metric)}: tasks left out for every arm: {max(left)}."
    title = f"{registered.place(scenario, when)}: {size} tasks of {splits} fresh splits"
    notes = [note, *(tables.of_the_link(record) if others else ())]
    return tables.Grid(title, ["arm", *names, *heads], rows, notes=notes, bold=bold)


def grid_of_shots(found: Comparison, scenario: str, metric: str) -> tables.Grid | None:
    """After each number of ratings: the method, the best baseline, and who is behind or ahead.

    None where no scores of fewer ratings are stored.
    """
    record, rows = found.record, []
    best_of = min if tables.lower_is_better(metric) else max
    for ratings, gaps in found.by_ratings(scenario, metric).items():
        if not gaps:  # the method diverged
            continue
        means = found.estimates(scenario, metric)[f"k={ratings}"].means
        best = best_of(gaps, key=lambda arm: means[arm].mean)
        behind, ahead = registered.told_apart(gaps, metric)
        both = [records.rooted(means[arm], metric) for arm in (record.method, best)]
        cells = [tables.with_interval(both[0]), best, tables.with_interval(both[1])]
        told = [tables.signed(gaps[best]), f"{len(behind)} of {len(gaps)}"]
        rows.append([ratings, *cells, *told, ", ".join(ahead) or "none"])
    if not rows:
        return None
    name, label = tables.heading(metric), records.label(record.method)
    gap = f"{label} - best, {tables.of_differences(metric)}"
    heads = ["ratings", label, "best arm", name, gap, "behind", "ahead"]
    note = (
        "The best arm is the best of those that are no meta-learners; arms behind and ahead of the "
        f"{label} are those whose interval excludes 0, whether anything was registered or not."
    )
    title = f"{registered.place(scenario, records.ALL)} by the number of ratings of a user: {name}"
    return tables.Grid(title, heads, rows, notes=[note])


def show(found: Comparison) -> None:
    """Prints a registration, its tables and its verdicts."""
    told = found.told
    print(f"Registered at commit {told['commit'][:12]}: {' '.join(told['hypothesis'].split())}")
    print(" ".join(told["rule"].split()))
    for scenario, when in found.places():
        tables.terminal(grid_of(found, scenario, when))
        for metric in told["primary"]:
            where = f"{registered.place(scenario, when)}: {tables.heading(metric)}"
            print(f"  {where} {found.verdict(scenario, metric, when)}")
    for scenario in told["scenarios"]:
        for metric in told["primary"]:
            if grid := grid_of_shots(found, scenario, metric):
                tables.terminal(grid)


def plot(found: Comparison, folder: pathlib.Path) -> list[pathlib.Path]:
    """Saves a forest plot of the first primary measure, and its differences by ratings."""
    metric, label = found.told["primary"][0], records.label(found.record.method)
    rows = [
        (f"{registered.place(scenario, when)}: {arm}", gap.found)
        for scenario, when in found.places()
        for arm, gap in found.gaps(scenario, metric, when).items()
    ]
    name = found.record.method.lower().replace(" ", "-")
    saved = [folder / f"{name}.png"]
    said = f"{tables.of_differences(metric)}, {label} minus the arm"
    plots.forest(rows, saved[0], said)
    for scenario in found.told["scenarios"]:
        if curves := found.by_ratings(scenario, metric):
            saved.append(folder / f"{name}-{scenario.replace('_', '-')}-by-ratings.png")
            plots.gaps_by_shots(curves, saved[-1], said)
    return saved
