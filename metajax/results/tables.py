"""Tables of records: for the terminal at any width, and as Markdown, LaTeX, Typst and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from metajax.results import intervals, records

BASELINES = ("A2 fold-in", "A4 fine-tuned")
WIDE = 150


class Grid(NamedTuple):
    """A table of text, to be shown in any of the formats.

    Attributes:
      title: a sentence without its full stop.
      headings: of the columns.
      rows: cells, as many per row as there are headings.
      left: how many columns, from the left, hold words and not numbers.
      notes: lines to stand below.
      sections: indices of the rows that begin a new group.
      bold: indices of the rows that matter most.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    notes: Sequence[str] = ()
    sections: Sequence[int] = ()
    bold: Sequence[int] = ()


def terminal(grid: Grid, console: Console | None = None) -> None:
    """Prints the table; where standard output is no terminal, as wide as it needs to be."""
    console = console or Console()
    table = Table(title=grid.title, header_style="bold")
    if console.is_terminal and console.width < WIDE:
        table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
    for i, heading in enumerate(grid.headings):
        table.add_column(heading, justify="left" if i < grid.left else "right", no_wrap=True)
    for i, row in enumerate(grid.rows):
        if i in grid.sections:
            table.add_section()
        table.add_row(*row, style="bold" if i in grid.bold else None)
    if not console.is_terminal:
        needed = Measurement.get(console, console.options.update(max_width=10_000), table)
        console.width = max(console.width, 180, needed.maximum)
    console.print(table)
    for note in grid.notes:
        console.print(note, highlight=False)


def markdown(grid: Grid) -> str:
    """The table in GitHub's Markdown."""
    safe = lambda cell: cell.replace("|", "\\|")
    line = lambda cells: "| " + " | ".join(map(safe, cells)) + " |\n"
    rule = ["---" if i < grid.left else "---:" for i in range(len(grid.headings))]
    bold = lambda i, row: [f"**{c}**" if c and i in grid.bold else c for c in row]
    body = "".join(line(bold(i, row)) for i, row in enumerate(grid.rows))
    notes = "".join(f"\n{note}\n" for note in grid.notes)
    return f"**{grid.title}**\n\n{line(grid.headings)}{line(rule)}{body}{notes}"


def csv_text(grid: Grid) -> str:
    """The table as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(grid.headings)
    writer.writerows(grid.rows)
    return text.getvalue()


LATEX: dict[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2212": "$-$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
}


def latex(grid: Grid, label: str = "") -> str:
    """The table in LaTeX with booktabs, as a floating ``table``."""

    def safe(cell: str) -> str:
        return "".join(LATEX.get(c, c) for c in cell)

    columns = "l" * grid.left + "r" * (len(grid.headings) - grid.left)
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{safe(' '.join([grid.title + '.', *grid.notes]))}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(safe, grid.headings)) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(grid.rows):
        if i and i in grid.sections:
            lines.append(r"\midrule")
        cells = [rf"\textbf{{{safe(c)}}}" if c and i in grid.bold else safe(c) for c in row]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def typst(grid: Grid, label: str = "", *, across: bool = False) -> str:
    """The table in Typst, as a floating ``figure`` with horizontal rules only.

    Args:
      across: over all columns of the page.
    """
    columns = ", ".join(["left"] * grid.left + ["right"] * (len(grid.headings) - grid.left))
    cell = lambda text, strong=False: (
        f"[*{typst_text(text)}*]" if strong else f"[{typst_text(text)}]"
    )
    lines = [
        "#figure(",
        '  placement: auto, scope: "parent",' if across else "  placement: auto,",
        f"  caption: [{typst_text(' '.join([grid.title + '.', *grid.notes]))}],",
        f"  table(columns: {len(grid.headings)}, align: ({columns},), stroke: none,",
        "    table.hline(),",
        f"    table.header({', '.join(cell(h, True) for h in grid.headings)}),",
        "    table.hline(stroke: 0.5pt),",
    ]
    for i, row in enumerate(grid.rows):
        if i and i in grid.sections:
            lines.append("    table.hline(stroke: 0.3pt),")
        lines.append("    " + ", ".join(cell(c, bool(c) and i in grid.bold) for c in row) + ",")
    lines += ["    table.hline(),", "  ),", f"){f' <{label}>' if label else ''}", ""]
    return "\n".join(lines)


def typst_text(text: str) -> str:
    """Text with Typst's signs escaped, so that it is shown as it is."""
    return "".join(f"\\{c}" if c in "\\*_`$#@<>[]~=+-/" else c for c in text)


def heading(metric: str) -> str:
    """A metric as a heading; mse is shown as its root.

    >>> heading("mse"), heading("mae"), heading("ndcg@5")
    ('RMSE', 'MAE', 'nDCG@5')
    """
    short = {"mse": "RMSE", "mae": "MAE", "rmse": "RMSE", "auc": "AUC"}
    return short.get(metric, metric.replace("ndcg", "nDCG"))


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return metric in ("mae", "mse", "rmse", "loss", "log_loss", "nll", "brier", "ece") or (
        metric.endswith(" error")
    )


def metrics_of(record: records.Record) -> list[str]:
    """The metrics of a record's test; the first is the one that differences are taken of."""
    known = dict.fromkeys(key.metric for key in record.scores if key.condition == records.ALL)
    first = [metric for metric in ("mae", "mse", "ndcg@5") if metric in known]
    return [*first, *(metric for metric in known if metric not in first)]


def gap(
    record: records.Record, scenario: str, arm: str, control: str = records.N1
) -> intervals.Interval:
    """What a control costs the arm: the first metric under it minus as it is, paired by task."""
    metric = metrics_of(record)[0]
    changed = record.of(scenario, arm, control, metric)
    return records.difference(changed, record.of(scenario, arm, records.ALL, metric))


def adapts(found: intervals.Interval, metric: str = "mae") -> bool:
    """Whether a control is worse than the arm as it is, with the whole interval of their gap."""
    return found.low > 0 if lower_is_better(metric) else found.high < 0


def opened(record: records.Record) -> str:
    """How often the test tasks of a record were opened, in a sentence."""
    times = max([line.times_opened or 1 for line in record.opened], default=1)
    others = max([line.times_by_others for line in record.opened], default=0)
    unnamed = max([line.times_unnamed for line in record.opened], default=0)
    often = lambda n: "once" if n == 1 else f"{n} times"
    also = f" Other experiments opened them {often(others)} before." * (others > 0)
    told = f" Earlier records of it opened test tasks {often(unnamed)} that they do not name."
    also += told * (unnamed > 0)
    if times == 1:
        return f"Test tasks opened once, on {record.environment.date}.{also}"
    configurations = max(line.configurations or 1 for line in record.opened)
    under = "one configuration" if configurations == 1 else f"{configurations} configurations"
    return (
        f"Test tasks opened {times} times by this experiment, under {under}; for this record on "
        f"{record.environment.date}.{also}"
    )


def grid_of(record: records.Record, *, wide: bool = True) -> Grid:
    """One table of an experiment: scenarios by arms, with intervals, differences and control.

    Args:
      wide: with intervals, for 150 columns; else without, for 80.
    """
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
        *(
            f"{arm.name} diverged and is judged by its best parameters before: {said}."
            for arm in record.arms
            for said in arm.settings.get("diverged", ())
        ),
    ]
    notes += [*rests_on(record), *record.extra.get("notes", ())]
    return Grid(title, headings, rows, 2 if wide else 1, notes, sections, bold)


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
    """What the four controls cost every arm, in the first metric, with intervals."""
    metric = metrics_of(record)[0]
    rows, sections, bold = [], [], []
    for scenario in record.tasks:
        sections.append(len(rows))
        for i, arm in enumerate(record.names()):
            if arm == record.method:
                bold.append(len(rows))
            cells = [signed(gap(record, scenario, arm, control)) for control in CONTROLS]
            rows.append([scenario.replace("_", "-") if i == 0 else "", arm, *cells])
    notes = [
        f"{heading(metric)} under the control minus {heading(metric)} as it is. No support: the "
        "cold start. Another's support: that of a task drawn at random. Untrained: a fresh random "
        "initialization. A gap of 0 says that the arm makes no use of what the control takes away."
    ]
    title = f"Controls of {record.experiment} on {record.dataset}"
    return Grid(title, ["scenario", "arm", *CONTROLS.values()], rows, 2, notes, sections, bold)


def resting(record: records.Record) -> list[tuple[str, str]]:
    """The metrics that a task may lack, each with its name; MAE and RMSE are so together."""
    known = metrics_of(record)
    own = {"mae": "MAE and RMSE"} if "mse" in known else {}
    return [(m, own.get(m, heading(m))) for m in known if not (m == "mse" and "mae" in known)]


def rests_on(record: records.Record) -> list[str]:
    """A line for each mean that does not rest on all users of its scenario, if there are any."""
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
    """Prints the tables of an experiment, and where its method does not adapt."""
    console = console or Console()
    wide = not console.is_terminal or console.width >= WIDE
    terminal(grid_of(record, wide=wide), console)
    if wide and any(key.condition == records.N2 for key in record.scores):
        terminal(controls_of(record), console)
    method, metric = record.method, metrics_of(record)[0]
    for scenario in record.tasks:
        if not adapts(gap(record, scenario, method), metric):
            console.print(f"NO ADAPTATION: {method} on {scenario}: N1 gap touches 0", style="bold")


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


def with_interval(r: intervals.Interval) -> str:
    """A mean with its interval."""
    return f"{r.mean:.4f} [{r.low:.3f}, {r.high:.3f}]"


def signed(d: intervals.Interval, wide: bool = True) -> str:
    """A difference with its interval, starred where that excludes 0."""
    star = "*" if d.low > 0 or d.high < 0 else " "
    if not wide:
        return f"{d.mean:+.3f}{star}"
    return f"{d.mean:+.4f}{star}[{d.low:+.3f}, {d.high:+.3f}]"
