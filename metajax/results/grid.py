"""A table of text, printed in a terminal or as Markdown, LaTeX, Typst or CSV."""

import csv
import functools
import io
import shutil
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from metajax.results import intervals

WIDE = 150


class Grid(NamedTuple):
    """A table of text, to be shown in any of the formats.

    Attributes:
      title: a sentence without its full stop.
      headings: of the columns.
      rows: cells, as many per row as there are headings.
      left: how many columns, from the left, hold words; all others hold numbers.
      notes: lines printed below the table.
      sections: indices of the rows that begin a new group; one whose other cells are empty is the
        group's heading, and LaTeX and Typst let it run over all columns.
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
    """Prints the table; at full width if standard output is not a terminal.

    On a terminal that is too narrow each row is printed as several lines, so that no cell is cut.
    """
    console = console or Console()
    if console.is_dumb_terminal:  # of which rich believes that all have 80 columns
        console.width = shutil.get_terminal_size().columns
    table = Table(title=grid.title, header_style="bold")
    if console.is_terminal and console.width < WIDE:
        table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
    for i, heading in enumerate(grid.headings):
        table.add_column(heading, justify="left" if i < grid.left else "right", no_wrap=True)
    for i, row in enumerate(grid.rows):
        if i in grid.sections:
            table.add_section()
        table.add_row(*row, style="bold" if i in grid.bold else None)
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if not console.is_terminal:
        console.width = max(console.width, 180, needed)
    if needed > console.width:
        _print_rows(grid, console)
    else:
        console.print(table)
    for note in grid.notes:
        console.print(note, highlight=False, markup=False)


def _print_rows(grid: Grid, console: Console) -> None:
    """Prints each row as its words, and below them its numbers with their headings."""
    folded = functools.partial(textwrap.wrap, width=console.width, break_on_hyphens=False)
    console.print("\n".join(folded(grid.title)), style="bold", highlight=False, markup=False)
    headings = [" ".join(heading.split()) for heading in grid.headings]
    for i, row in enumerate(grid.rows):
        words = " ".join(filter(None, (cell.strip() for cell in row[: grid.left])))
        pairs = zip(headings[grid.left :], row[grid.left :], strict=True)
        text = "; ".join(f"{heading}: {cell.strip()}" for heading, cell in pairs if cell.strip())
        style = "bold" if i in grid.bold else None
        for lines in (folded(words), folded(text, initial_indent="  ", subsequent_indent="  ")):
            for line in lines:
                console.print(line, style=style, highlight=False, markup=False)


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


def _is_heading(grid: Grid, i: int) -> bool:
    """Whether a row is the heading of a group: it begins one, and has its first cell only."""
    return i in grid.sections and bool(grid.rows[i][0]) and not any(grid.rows[i][1:])


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
        if _is_heading(grid, i):
            span = len(grid.headings)
            lines.append(rf"\multicolumn{{{span}}}{{l}}{{\textit{{{safe(row[0])}}}}} \\")
            continue
        cells = [rf"\textbf{{{safe(c)}}}" if c and i in grid.bold else safe(c) for c in row]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def typst(grid: Grid, label: str = "", *, across: bool = False, floats: bool = True) -> str:
    """The table in Typst, as a ``figure`` with horizontal rules only.

    Args:
      across: over all columns of the page.
      floats: to the top of a page; else it stands where it is, and may go on on the next page.
    """
    place = '  placement: top, scope: "parent",' if across else "  placement: auto,"
    columns = ", ".join(["left"] * grid.left + ["right"] * (len(grid.headings) - grid.left))
    cell = lambda text, strong=False: (
        f"[*{typst_text(text)}*]" if strong else f"[{typst_text(text)}]"
    )
    lines = [
        "#figure(",
        # at the foot of the page one across both columns may hide what stands there in a column
        *([place] if floats else []),
        f"  caption: [{typst_text(' '.join([grid.title + '.', *grid.notes]))}],",
        f"  table(columns: {len(grid.headings)}, align: ({columns},), stroke: none,",
        "    table.hline(),",
        f"    table.header({', '.join(cell(h, True) for h in grid.headings)}),",
        "    table.hline(stroke: 0.5pt),",
    ]
    for i, row in enumerate(grid.rows):
        if i and i in grid.sections:
            lines.append("    table.hline(stroke: 0.3pt),")
        if _is_heading(grid, i):
            span = len(grid.headings)
            lines.append(f"    table.cell(colspan: {span}, align: left)[_{typst_text(row[0])}_],")
            continue
        lines.append("    " + ", ".join(cell(c, bool(c) and i in grid.bold) for c in row) + ",")
    lines += ["    table.hline(),", "  ),", f"){f' <{label}>' if label else ''}", ""]
    return "\n".join(lines)


def typst_text(text: str) -> str:
    """Text with Typst's signs escaped, so that it is shown as it is."""
    return "".join(f"\\{c}" if c in "\\*_`$#@<>[]~=+-/" else c for c in text)


def with_interval(r: intervals.Interval) -> str:
    """A mean with its interval, as text."""
    return f"{r.mean:.4f} [{r.low:.3f}, {r.high:.3f}]"


def signed(d: intervals.Interval, wide: bool = True) -> str:
    """A difference with its interval, as text; a star marks an interval that excludes 0."""
    star = "*" if d.low > 0 or d.high < 0 else " "
    if not wide:
        return f"{d.mean:+.3f}{star}"
    return f"{d.mean:+.4f}{star}[{d.low:+.3f}, {d.high:+.3f}]"
