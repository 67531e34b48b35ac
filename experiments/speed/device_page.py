"""The record of an accelerator's benchmark for the terminal and for the documentation."""

from collections.abc import Iterator
from typing import Any

from metajax.results.records import Record
from metajax.results.tables import Grid, terminal

from . import page

HEADINGS = (
    "ms a step",
    "tasks/s",
    "TFLOP/s",
    "of matmul",
    "GB accessed",
    "of copy",
    "temporary MB",
    "compile s",
)

HEAD = """## On a GPU

Wall time of whole outer steps, until the result is ready: medians of rounds in which the ways of a
table take turns on the same card, with the same inputs and the same loss. *tf32* is float32 in
which the card rounds the factors of products, *bf16* has bfloat16 activations and float32 weights,
accumulation and scores; both hold for all ways. *of matmul* is the rate of the matrix products,
divided by that of an 8192 x 8192 product in the same precision. *of copy* is the rate of the bytes
that the compiler counts as accessed, divided by that of a copy of 2 GB (counted as read and
written); it can exceed 1, because accesses to the cache count too. Both are measured in the same
run. The loop over tasks is timed on 8 tasks.

- *metajax* is what was chosen before this run. `experiments/speed/choices.py` has been changed by
  its results since: W2 now takes *on chip* in bf16 and is differentiated like *plain* in tf32; W3
  in bf16 now takes *halves ten steps*. *ten steps* scans ten outer steps in one program;
  *metajax* scans 50 in W1.
- *on chip* convolves without an array of patches (`experiments/speed/on_chip.py`), and leaves
  other products to cuBLAS, as *library products* does; *metajax* in W2, bf16, also takes both
  moments of a normalization in one pass; *one kernel* has the whole inner loop of a task in one
  kernel (`experiments/speed/one_kernel.py`); *halves* cuts the supports of one
  half of the tasks, the shorter ones, to a smaller size.
- The compilers of all ways ran side by side, so that *compile s* is longer than it is alone.
  Nothing compiled while ways were timed, but for the rows of *torch.func compiled*, the last.
- A way that takes more than 100 s to compile is left out, as all ways of metajax in W4 were.
"""


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of one way as text."""
    if "skipped" in row:
        return ["skipped: " + row["skipped"], *[""] * (len(HEADINGS) - 1)]
    percent = lambda name: f"{100 * row[name]:.1f} %" if name in row else ""
    figure = lambda name, form: f"{row[name]:{form}}" if row.get(name) is not None else ""
    return [
        f"{row['milliseconds']:,.3f}",
        f"{row['tasks_per_second']:,.0f}",
        figure("tflops", ".1f"),
        percent("share_of_matmul"),
        figure("gigabytes", ".2f"),
        percent("share_of_copy"),
        figure("temporary_mb", ",.0f"),
        f"{row['compile_seconds']:.1f}",
    ]


def groups(record: Record) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The title and the rows of each cell."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in record.extra["rows"]:
        order = "" if row["second"] else ", first order"
        plural = "s" if row["num_steps"] > 1 else ""
        title = f"{row['name']}, {row['num_steps']} inner step{plural}{order}, {row['tasks']} tasks"
        found.setdefault(f"{title}, {row['precision']}", []).append(row)
    yield from found.items()


def ratios(rows: list[dict[str, Any]]) -> str:
    """How many times as fast as each other way the library is, in a line; empty if unknown."""
    timed = {row["variant"]: row["milliseconds"] for row in rows if "skipped" not in row}
    ours = timed.pop("metajax", None)
    if ours is None:
        return ""
    return ", ".join(f"{ms / ours:.2f}x as fast as {name}" for name, ms in timed.items())


def ceilings(record: Record) -> str:
    """What the card reaches at best, in a line."""
    best = record.extra["ceilings"]
    products = ", ".join(f"{name} {best[name]:.0f}" for name in ("float32", "tf32", "bf16"))
    return f"{record.environment.device}: products {products} TFLOP/s, copy {best['copy']:.2f} TB/s"


def show(record: Record) -> None:
    """Prints the tables and the ratios of a record."""
    print(ceilings(record))
    for title, rows in groups(record):
        lines = [[row["variant"], *cells(row)] for row in rows]
        terminal(Grid(title, ("way", *HEADINGS), lines, notes=[f"{title}: {ratios(rows)}"]))


def markdown(record: Record) -> str:
    """The section of a record."""
    lines = [HEAD, f"{ceilings(record)}.", ""]
    for title, rows in groups(record):
        lines += [f"### {title}", ""]
        lines += page.table(("way", *HEADINGS), ([row["variant"], *cells(row)] for row in rows))
        lines += ["", f"metajax is {ratios(rows)}." if ratios(rows) else "", ""]
    return "\n".join(lines)
