"""How registered comparisons are printed and drawn."""

import pathlib

from metajax.results import plots, records, registered, tables


def grid_of(record: records.Record, scenario: str) -> tables.Grid:
    """The means of all arms in the primary measures, and the method minus each baseline."""
    primary = record.extra["registration"]["primary"]
    each = {metric: registered.gaps(record, scenario, metric) for metric in primary}
    rows, bold = [], []
    for arm in record.names():
        if arm == record.method:
            bold.append(len(rows))
        cells = [arm]
        for metric in primary:
            found = records.interval(record.of(scenario, arm, records.ALL, metric), metric)
            cells.append(f"{found.mean:.4f}")
        for metric in primary:
            gap = each[metric].get(arm)
            told = "diverged" if tables.diverged(record, scenario, arm) else ""
            cells.append(f"{tables.signed(gap.found)} p {gap.p:.4f}" if gap else told)
        rows.append(cells)
    count = [sizes[scenario] for sizes in record.extra["tasks"]]
    names = [tables.heading(metric) for metric in primary]
    label = records.label(record.method)
    heads = [f"{label} - arm, {name.replace('RMSE', 'MSE')}" for name in names]
    note = "Pooled over splits and users by a two-way bootstrap; p after Holm over the arms."
    title = f"{scenario.replace('_', '-')}: {sum(count)} tasks of {len(count)} fresh splits"
    return tables.Grid(title, ["arm", *names, *heads], rows, notes=[note], bold=bold)


def show(record: records.Record) -> None:
    """Prints each registration, its tables and its verdicts."""
    for number in range(len(record.extra["registrations"])):
        _show(registered.view(record, number))


def _show(record: records.Record) -> None:
    told = record.extra["registration"]
    print(f"Registered at commit {told['commit'][:12]}: {' '.join(told['hypothesis'].split())}")
    print(" ".join(told["rule"].split()))
    for scenario in told["scenarios"]:
        tables.terminal(grid_of(record, scenario))
        for metric in told["primary"]:
            where = f"{scenario.replace('_', '-')}, {tables.heading(metric)}"
            print(f"  {where}: {registered.verdict(record, scenario, metric)}")


def plots_in(folder: pathlib.Path, record: records.Record) -> list[pathlib.Path]:
    """Where the plot of each registration goes."""
    methods = [told["method"] for told in record.extra["registrations"]]
    return [folder / f"{method.lower().replace(' ', '-')}.png" for method in methods]


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves a forest plot of the first primary measure of one registration."""
    told = record.extra["registration"]
    metric = told["primary"][0]
    rows = [
        (f"{scenario.replace('_', '-')}: {arm}", gap.found)
        for scenario in told["scenarios"]
        for arm, gap in registered.gaps(record, scenario, metric).items()
    ]
    name = tables.heading(metric).replace("RMSE", "MSE")
    plots.forest(rows, path, f"{name}, {records.label(record.method)} minus the arm")
