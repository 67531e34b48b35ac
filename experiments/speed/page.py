"""The records of the benchmark for the terminal and for the documentation."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from metajax import places
from metajax.results import records as report
from metajax.results.tables import Grid, terminal
from metajax.types import UserError

from .worker import TWO_CORES

PAGE = places.documents() / "speed.md"
HEADINGS = ("tasks/s", "ms a step", "compile s", "peak MB", "of peak", "matmul GFLOP/s")

HEAD = """# Speed

Written by `python -m experiments benchmark --from-records` from the records in `paper/results`; do
not edit. Whole outer steps, the outer Adam included. Each way ran in a process of its own, all of
them in turns on one core with one thread: figures are medians of processor time in one run, so
compare within a table, not across machines. A way whose loss is another, or that is compiled again
after its first step, stops the run. *of peak* is the rate of the matrix products that the
program makes against the same library's product of two 1024 x 1024 matrices, measured in the same
rounds: a ratio divided by it is what the same products could reach at best. Where the matmul
columns differ, as much of a ratio is the library's BLAS. Compile seconds
are processor time up to and with the first step; peak MB is the process at its largest.

*plain* is what one writes first in JAX, ``jit(grad(mean(vmap(task))))``; *plain, last place* is the
same without the places of the last layer that nothing reads, which metajax leaves out too. *torch
loop* is a plain statement of what *learn2learn* does; learn2learn 0.2.0 and TorchOpt are the
packages themselves (of learn2learn the algorithms alone: the rest does not build on a current
Python). *metajax, 2 cores* deals the tasks over two devices of the host.
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
    rows = [row for row in record.extra["rows"] if "skipped" not in row]
    ours = next((row for row in rows if row["variant"] == "metajax"), None)
    if ours is None:
        return
    for row in rows:
        if row is ours:
            continue
        if row["variant"] == TWO_CORES:
            ratio = ours["fastest_wall_ms"] / row["fastest_wall_ms"]
            yield f"{ratio:.2f}x by a second core (fastest steps, wall time)"
            continue
        ratio = row["milliseconds"] / ours["milliseconds"]
        blas = ours["matmul_gflops"] / row["matmul_gflops"]
        yield f"{ratio:.2f}x {row['variant']} (matrix products alone: {blas:.2f}x)"


GLANCE = ("plain", "torch.func compiled", "torch.func", "torch loop", "learn2learn", "torchopt")


def glance(records: Iterable[report.Record]) -> list[str]:
    """The lines of one table of all workloads: how many times as fast as each other way."""
    lines = []
    for record in records:
        rows = {row["variant"]: row for row in record.extra["rows"] if "skipped" not in row}
        if "metajax" not in rows:
            continue
        ours = rows["metajax"]
        ratio = lambda way, rows=rows, ours=ours: (
            f"{rows[way]['milliseconds'] / ours['milliseconds']:.2f}x" if way in rows else ""
        )
        lines.append([record.scenario, *map(ratio, GLANCE), cells(ours)[4]])
    return table(("workload", *GLANCE, "of peak"), lines)


def show(record: report.Record) -> None:
    """Prints the table and the ratios of one record."""
    facts = record.extra
    rows = [[row["variant"], *cells(row)] for row in facts["rows"]]
    notes = [f"{record.scenario}: {line}" for line in ratios(record)]
    title = f"{record.scenario}: {facts['title']}"
    terminal(Grid(title, ("way", *HEADINGS), rows, notes=notes))


def markdown(record: report.Record) -> str:
    """The section of one record."""
    facts = record.extra
    lines = [f"## {record.scenario}", "", facts["title"].capitalize() + ".", ""]
    lines += table(("way", *HEADINGS), ([row["variant"], *cells(row)] for row in facts["rows"]))
    lines += ["", *(f"- {line}" for line in ratios(record)), ""]
    return "\n".join(lines)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose first column is text and the others numbers."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def profile(record: report.Record) -> str:
    """The section of a profile: milliseconds by kind of operation, before and after."""
    facts = record.extra
    before, after = facts["rows"]
    kinds = list(dict.fromkeys([*before["kinds"], *after["kinds"]]))
    cell = lambda row, kind: f"{row['kinds'].get(kind, 0.0):,.2f}"
    rows = [[kind, cell(before, kind), cell(after, kind)] for kind in kinds]
    rows.append(["all", f"{before['milliseconds']:,.2f}", f"{after['milliseconds']:,.2f}"])
    lines = [f"### {record.scenario}", "", "Milliseconds of an outer step.", ""]
    return "\n".join([*lines, *table(("kind", before["variant"], after["variant"]), rows), ""])


def tables(record: report.Record) -> str:
    """The section of the step on large tables."""
    facts = record.extra
    sizes, ways = [], []
    for label in facts["milliseconds"]:
        way, size = label.rsplit(", ", 1)
        ways, sizes = [*ways, way], [*sizes, size]
    ways, sizes = list(dict.fromkeys(ways)), list(dict.fromkeys(sizes))
    value = lambda way, size: facts["milliseconds"].get(f"{way}, {size}")
    cell = lambda ms: "" if ms is None else f"{ms:,.2f}"
    rows = [[f"{int(size):,}", *(cell(value(way, size)) for way in ways)] for size in sizes]
    lines = ["## Large tables", "", "Milliseconds of an outer step on a table of 64 columns.", ""]
    lines += [*table(("rows", *ways), rows), ""]
    lines += [f"- {facts['growth']:.2f}x the time of the smallest table at the largest"]
    lines += [f"- {facts['ahead_of_torch']:.2f}x torch SparseAdam at the largest", ""]
    return "\n".join(lines)


CURVES = """## Cost curves

![Time and memory of an outer step](gallery/speed-curves.svg)

Time (above) and the compiler's planned temporary memory (below) of an outer step, one core: inner
steps with all intermediate results kept and computed anew (`python -m experiments.speed.curves`).
"""


def write(more: Iterable[str] = ()) -> pathlib.Path:
    """Writes the page of all stored records, with further sections, and returns its path.

    Raises:
      UserError: there are none.
    """
    stored = lambda pattern: list(report.all_stored(pattern).values())
    found = stored("speed-w*")
    if not found:
        raise UserError(
            f"no records in {report.RESULTS}; run python -m experiments benchmark --publish"
        )
    parts = [HEAD, "## At a glance\n", "\n".join([*glance(found), ""]), *map(markdown, found)]
    profiles = stored("speed-profile-*")
    parts += ["## Where the time goes\n"] * bool(profiles) + [*map(profile, profiles)]
    parts += map(tables, stored("speed-tables"))
    parts += [CURVES] * bool(stored("speed-curves"))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join([*parts, *more]))
    return PAGE
