"""The records of the benchmark for the terminal and for the documentation."""

import pathlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from metajax import report
from metajax.types import UserError

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "speed.md"
HEADINGS = ("tasks/s", "ms a step", "compile s", "peak MB", "of peak", "matmul GFLOP/s")

HEAD = """# Speed

Written by `python -m experiments.benchmark --from-records` from the records in `paper/results`; do
not edit. Whole outer steps, the outer Adam included. Each way ran in a process of its own, all of
them in turns on one core with one thread: figures are medians of processor time in one run, so
compare within a table, not across machines. *of peak* is the rate of the matrix products that the
program makes against the same library's product of two 1024 x 1024 matrices, measured in the same
rounds; where the matmul columns differ, as much of a ratio is the library's BLAS. Compile seconds
are processor time up to and with the first step; peak MB is the process at its largest.
"""


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of one way as text."""
    if "skipped" in row:
        return ["skipped: " + row["skipped"], *[""] * (len(HEADINGS) - 1)]
    share = row["share_of_peak"]
    return [
        f"{row['tasks_per_second']:,.0f}",
        f"{row['milliseconds']:,.2f}",
        f"{row['compile_seconds']:.1f}",
        f"{row['peak_mb']:,.0f}",
        "" if share is None else f"{100 * share:.0f} %",
        f"{row['matmul_gflops']:.0f}",
    ]


def ratios(record: report.Record) -> Iterator[str]:
    """How many times as fast this library is as each other way, one line each."""
    rows = [row for row in record.facts["rows"] if "skipped" not in row]
    ours = next((row for row in rows if row["variant"] == "metajax"), None)
    if ours is None:
        return
    for row in rows:
        if row is ours:
            continue
        ratio = row["milliseconds"] / ours["milliseconds"]
        blas = ours["matmul_gflops"] / row["matmul_gflops"]
        yield f"{ratio:.2f}x {row['variant']} (matrix products alone: {blas:.2f}x)"


def show(record: report.Record) -> None:
    """Prints the table and the ratios of one record."""
    facts = record.facts
    table = Table(title=f"{facts['scenario']}: {facts['title']}", header_style="bold")
    table.add_column("way", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row in facts["rows"]:
        table.add_row(row["variant"], *cells(row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(table)
    for line in ratios(record):
        console.print(f"{facts['scenario']}: {line}", highlight=False)


def markdown(record: report.Record) -> str:
    """The section of one record."""
    facts = record.facts
    lines = [f"## {facts['scenario']}", "", facts["title"].capitalize() + ".", ""]
    lines += [f"| way | {' | '.join(HEADINGS)} |", "|" + " --- |" + " ---: |" * len(HEADINGS)]
    lines += [f"| {row['variant']} | {' | '.join(cells(row))} |" for row in facts["rows"]]
    lines += ["", *(f"- {line}" for line in ratios(record)), ""]
    return "\n".join(lines)


def write() -> pathlib.Path:
    """Writes the page of all stored records and returns its path.

    Raises:
      UserError: there are none.
    """
    found = [report.read(p) for p in sorted(report.RESULTS.glob("speed-w*.json"))]
    if not found:
        raise UserError(f"no records in {report.RESULTS}; run experiments.benchmark --publish")
    PAGE.write_text("\n".join([HEAD, *map(markdown, found)]))
    return PAGE
