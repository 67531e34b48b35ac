"""Progress bars with ETA and live metrics; silent where standard error is no terminal."""

import contextlib
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

Update = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Update]:
    """A context manager of a progress bar, which ``update(done, metrics)`` moves."""
    console = Console(stderr=True)
    columns = (
        TextColumn(f"{title:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=total, metrics="")

        def update(done: int, metrics: Mapping[str, float]) -> None:
            text = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
            shown.update(task, completed=min(done, total), metrics=text)

        yield update
