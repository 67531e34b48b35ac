"""How registered comparisons are printed and drawn."""

import pathlib

from metajax.results import plots, records, tables
from metajax.results.registered import Comparison


def grid_of(found: Comparison, scenario: str) -> tables.Grid:
    """The means of all arms in the primary measures, and the method minus each baseline."""
    primary, record = found.told["primary"], found.record
    rows, bold = [], []
    for arm in record.names():
        if arm == record.method:
            bold.append(len(rows))
        cells = [arm]
        for metric in primary:
            mean = records.interval(record.of(scenario, arm, records.ALL, metric), metric).mean
            cells.append(f"{mean:.4f}")
        for metric in primary:
            gap = found.gaps(scenario, metric).get(arm)
            told = "diverged" if tables.diverged(record, scenario, arm) else ""
            cells.append(f"{tables.signed(gap.found)} p {gap.p:.4f}" if gap else told)
        rows.append(cells)
    names = [tables.heading(metric) for metric in primary]
    label = records.label(record.method)
    heads = [f"{label} - arm, {name.replace('RMSE', 'MSE')}" for name in names]
    note = "Pooled over splits and users by a two-way bootstrap; p after Holm over the arms."
    where, splits = scenario.replace("_", "-"), len(found.sizes)
    title = f"{where}: {found.size(scenario)} tasks of {splits} fresh splits"
    return tables.Grid(title, ["arm", *names, *heads], rows, notes=[note], bold=bold)


def show(found: Comparison) -> None:
    """Prints a registration, its tables and its verdicts."""
    told = found.told
    print(f"Registered at commit {told['commit'][:12]}: {' '.join(told['hypothesis'].split())}")
    print(" ".join(told["rule"].split()))
    for scenario in told["scenarios"]:
        tables.terminal(grid_of(found, scenario))
        for metric in told["primary"]:
            where = f"{scenario.replace('_', '-')}, {tables.heading(metric)}"
            print(f"  {where}: {found.verdict(scenario, metric)}")


def plot(found: Comparison, folder: pathlib.Path) -> pathlib.Path:
    """Saves a forest plot of the first primary measure, named after the method."""
    method, metric = found.record.method, found.told["primary"][0]
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap.found)
        for scenario in found.told["scenarios"]
        for arm, gap in found.gaps(scenario, metric).items()
    ]
    path = folder / f"{method.lower().replace(' ', '-')}.png"
    name = tables.heading(metric).replace("RMSE", "MSE")
    plots.forest(rows, path, f"{name}, {records.label(method)} minus the arm")
    return path
