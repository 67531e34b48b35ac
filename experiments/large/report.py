"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from metajax.results import records
from metajax.training import journal

from ..classics import few_shot


def written(
    name: str,
    experiment: str,
    scenario: str,
    arms: Sequence[str],
    config: Any,
    scores: Mapping[records.Key, np.ndarray],
    seconds: Mapping[str, float],
    *,
    opened: Sequence[records.Opening],
    data: records.Data | None = None,
    settings: Mapping[str, Any] | None = None,
    size: Mapping[str, int] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> records.Record:
    """The record, after writing it to the folder of the configuration, and publishing it if asked.

    Args:
      scores: by `report.Key`.
      opened: the lines of the ledger, of `records.open_tests`; empty where nothing is tested.
      settings: of the arms, by name or by "NAME, PART".
      size: arm -> bytes that a service keeps of one person.
      extra: what else the record should hold.
    """
    record = records.made(
        experiment,
        config,
        records.arms_of(arms, settings=settings, seconds=seconds, bytes_per_task=size),
        scores,
        scenario=scenario,
        data=data,
        seconds={name: value for name, value in seconds.items() if name not in arms},
        peak_memory=journal.peak_memory(),
        opened=tuple(opened),
        extra=extra or {},
    )
    records.write(config.output.folder(name), name, record, config.output.publish)
    return record


def stored(name: str) -> records.Record:
    """The published record of that name."""
    return records.stored(name)


def show(record: records.Record, columns: Sequence[tuple[str, str]], title: str) -> None:
    """Prints the mean of each arm with its interval over people, seeds averaged first.

    Args:
      columns: (condition, metric) of each column; an arm without such scores has an empty cell.
    """
    table = Table(title=title, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for condition, metric in columns:
        told = "rmse" if metric == "mse" else metric  # `report.interval` takes the root
        table.add_column(f"{told}\n{condition}", justify="right", no_wrap=True)
    sized = any(arm.bytes_per_task is not None for arm in record.arms)
    quoted = few_shot.published(record.experiment)
    for heading in ("seconds", *(["bytes per user"] if sized else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in record.arms:
        cells = []
        for condition, metric in columns:
            name = records.Key(record.scenario, arm.name, condition, metric)
            if name not in record.scores:
                cells.append("")
                continue
            r = records.interval(record.scores[name], metric)
            cells.append(f"{r.mean:.4f} [{r.low:.4f}, {r.high:.4f}]")
        cells.append(f"{arm.seconds or 0.0:.0f}")
        if sized:
            cells.append(f"{arm.bytes_per_task or 0:,}")
        table.add_row(arm.name, *cells)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 60 + 26 * len(columns))
    console.print(table)
    for row, text in quoted.items():
        console.print(f"published: {row}: {text}")
