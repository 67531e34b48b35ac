"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metajax.data import episodes
from metajax.evaluation import judge, ordinal
from metajax.results import plots, records, tables
from metajax.training import journal
from metajax.types import Episode

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


def rated(
    record: records.Record, conditions: Sequence[str], title: str, *, quoted: bool = True
) -> None:
    """Prints every stored measure of ratings: RMSE, nDCG@5, MAE, then distributions over ratings.

    The first three are printed under each condition, the distributions under the last one alone;
    a record from before a measure was stored has no table of it.
    """
    known = {(k.condition, k.metric) for k in record.scores if k.scenario == record.scenario}
    for metric in (*tables.COMPARED, "mae"):
        columns = [(c, metric) for c in conditions if (c, metric) in known]
        if columns:
            show(record, columns, title, quoted=quoted)
    distributions(record, conditions[-1], title)


def distributions(record: records.Record, condition: str, title: str) -> None:
    """Prints the calibrated and proper scores under a condition, where the record has them."""
    judged = {k.arm for k in record.scores if (k.condition, k.metric) == (condition, "crps")}
    rows = {arm: (record.scenario, arm, condition) for arm in record.names() if arm in judged}
    tables.show_distributions(record, title, rows)


def believed(
    arms: Mapping[str, judge.Judged],
    links: Mapping[str, ordinal.Link],
    source: episodes.Source,
    tasks: Episode,
    where: tuple[str, str],
) -> dict[records.Key, np.ndarray]:
    """The `ordinal.PROPER` metrics (S, T) of arms on open test tasks with all of their support.

    Args:
      arms: name -> learner and parameters, leaves (S, ...).
      links: of the arms, fitted on meta-validation; an arm without one is left out.
      source: of the columns of the tasks.
      where: scenario and condition, as the record names them.
    """
    (scenario, condition), found = where, {}
    given = {"fetch": episodes.fetch, "source": source}
    for name, link in links.items():
        scores = judge.scored(arms[name], tasks, jax.random.key(3), **given)
        for metric, values in judge.believed(link, scores, tasks, jax.random.key(4)).items():
            found[records.Key(scenario, name, condition, metric)] = np.asarray(values)
    return found


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
