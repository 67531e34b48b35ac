"""The progress of a long run: a bar on a terminal, elsewhere a line about once a minute."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from metajax import places

Update = Callable[[int, Mapping[str, float]], None]
EVERY = 60.0
"""Seconds between two lines where standard error is no terminal."""


@contextlib.contextmanager
def bar(title: str, total: int, start: int = 0) -> Iterator[Update]:
    """A context manager of the progress of a run, which ``update(done, metrics)`` moves.

    On a terminal it is a bar with live metrics. Elsewhere, as in the log of a run in the
    background, it is a line about once a minute: what is done, the metrics, the time left.

    Args:
      title: of the run.
      total: steps of the whole run.
      start: steps that were done before, by a run that this one goes on from.
    """
    if places.process():  # the first of several processes speaks for all
        yield lambda done, metrics: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, total, start)
        return
    columns = (
        TextColumn(f"{title:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=console) as shown:
        task = shown.add_task(title, total=total, completed=start, metrics="")

        def update(done: int, metrics: Mapping[str, float]) -> None:
            shown.update(task, completed=min(done, total), metrics=_told(metrics))

        yield update


def say(line: str) -> None:
    """Prints a line about a run that goes on, on standard error.

    If that fails, because nobody reads it any more or the disk of a log is full, the run goes on:
    what it computes is worth more than the line.
    """
    if places.process():  # the first of several processes speaks for all
        return
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _lines(title: str, total: int, start: int) -> Update:
    """Prints a line where the last one, or the start, is `EVERY` seconds ago.

    The time left is counted from the first update on, before which a program is compiled; at the
    first update itself from the start, if a hundredth is done.
    """
    marks = [(time.monotonic(), start)]
    printed = marks[0][0]

    def update(done: int, metrics: Mapping[str, float]) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= EVERY:
            printed = now
            since, before = next((m for m in reversed(marks) if m[1] < done), (now, done))
            left = "time left unknown"
            if (len(marks) > 1 and before < done) or done - start >= total / 100:
                left = _left((now - since) * max(0, total - done) / (done - before))
            said = filter(None, (f"{title}: {done:,} of {total:,}", _told(metrics), left))
            say(", ".join(said))
        if len(marks) == 1:
            marks.append((now, done))

    return update


def _told(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())


def _left(seconds: float) -> str:
    """The time left: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min left"
