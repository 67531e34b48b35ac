"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metajax.results import plots, records, tables
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


def plotted(record: records.Record, condition: str, metric: str, path: pathlib.Path) -> None:
    """Saves the mean of each arm with its interval over people, the first arm on top."""
    found = [
        records.interval(record.of(record.scenario, arm, condition, metric), metric)
        for arm in record.names()
    ]
    with plots.page(path, 0.8 + 0.25 * len(found)) as axes:
        bars = np.array([[r.mean - r.low, r.high - r.mean] for r in found]).T
        places = np.arange(len(found))[::-1]
        axes.errorbar(
            [r.mean for r in found], places, xerr=bars, color="black", fmt="o", markersize=3.8
        )
        axes.set_yticks(places, record.names())
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_xlabel(f"{metric}, {condition} ({record.dataset})")
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)


def show(
    record: records.Record,
    columns: Sequence[tuple[str, str]],
    title: str,
    *,
    quoted: bool = True,
) -> None:
    """Prints the mean of each arm with its interval over people, seeds averaged first.

    Args:
      columns: (condition, metric) of each column; an arm without such scores has an empty cell.
      quoted: print published numbers below, where they are of the same data.
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
    published = few_shot.published(record.experiment) if quoted else {}
    notes = [f"published: {row}: {text}" for row, text in published.items()]
    tables.terminal(tables.Grid(title, heads, rows, notes=notes))
