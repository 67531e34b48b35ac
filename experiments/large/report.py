"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metajax.results import records, tables
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
    shown = ["rmse" if m == "mse" else m for _, m in columns]  # `records.interval` takes the root
    heads = [f"{name}\n{condition}" for name, (condition, _) in zip(shown, columns, strict=True)]
    sized = any(arm.bytes_per_task is not None for arm in record.arms)
    rows = []
    for arm in record.arms:
        cells = [arm.name]
        for condition, metric in columns:
            scores = record.scores.get(records.Key(record.scenario, arm.name, condition, metric))
            r = None if scores is None else records.interval(scores, metric)
            cells.append(f"{r.mean:.4f} [{r.low:.4f}, {r.high:.4f}]" if r else "")
        sizes = [f"{arm.bytes_per_task or 0:,}"] * sized
        rows.append([*cells, f"{arm.seconds or 0.0:.0f}", *sizes])
    heads = ["arm", *heads, "seconds", *["bytes per user"] * sized]
    quoted = few_shot.published(record.experiment).items()
    notes = [f"published: {row}: {text}" for row, text in quoted]
    tables.terminal(tables.Grid(title, heads, rows, notes=notes))
