"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
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


def plotted(record: records.Record, condition: str, metric: str, path: pathlib.Path) -> None:
    """Saves the mean of each arm with its interval over people, the first arm on top."""
    scores = lambda arm: record.of(record.scenario, arm, condition, metric)
    rows = [(arm, records.interval(scores(arm), metric)) for arm in record.names()]
    plots.arms(rows, path, f"{tables.heading(metric)}, {condition} ({record.dataset})")


def finished(
    record: records.Record, name: str, config: Any, column: tuple[str, str], plot: str = "arms.png"
) -> None:
    """Draws the arms of a run in its folder, by a (condition, metric), and says what lies there."""
    folder = config.output.folder(name)
    plotted(record, *column, folder / plot)
    print(f"record {folder / name}{records.SUFFIX}\nplot   {folder / plot}")


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
    heads = [f"{tables.heading(metric)}\n{condition}" for condition, metric in columns]
    sized = any(arm.bytes_per_task is not None for arm in record.arms)
    rows = []
    for arm in record.arms:
        cells = [arm.name]
        for condition, metric in columns:
            scores = record.scores.get(records.Key(record.scenario, arm.name, condition, metric))
            r = None if scores is None else records.interval(scores, metric)
            cells.append(f"{r:.4f}" if r else "")
        sizes = [f"{arm.bytes_per_task or 0:,}"] * sized
        rows.append([*cells, f"{arm.seconds or 0.0:.0f}", *sizes])
    heads = ["arm", *heads, "seconds", *["bytes per user"] * sized]
    published = few_shot.published(record.experiment) if quoted else {}
    notes = [f"published: {row}: {text}" for row, text in published.items()]
    tables.terminal(tables.Grid(title, heads, rows, notes=notes))


def differences(
    record: records.Record,
    label: str,
    column: tuple[str, str],
    pairs: Iterable[tuple[str, str]],
) -> None:
    """Prints how far apart two arms are, paired by person, of each pair that the record has.

    Args:
      label: what stands before each difference.
      column: (condition, metric).
    """
    for one, other in pairs:
        keys = [records.Key(record.scenario, arm, *column) for arm in (one, other)]
        if all(key in record.scores for key in keys):
            gap = records.difference(*(record.scores[key] for key in keys))
            print(f"{label}: {one} - {other}: {gap:+.4f}")
