"""Records and tables of the experiments with large models: arms by conditions, seconds, bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from metajax.results import records
from metajax.settings import flat
from metajax.training import journal

from ..classics import few_shot


def written(
    name: str,
    experiment: str,
    scenario: str,
    arms: Sequence[str],
    config: Any,
    scores: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
    **facts: Any,
) -> records.Record:
    """The record, after writing it to the folder of the configuration, and publishing it if asked.

    Args:
      scores: as `report.score_name` names them.
      facts: what else the record should hold: ``data``, ``settings``, ``bytes`` per user.
    """
    known = {
        "experiment": experiment,
        "scenario": scenario,
        "arms": list(arms),
        "config": flat(config),
        "config_hash": records.config_hash(config),
        "environment": records.environment(),
        "seconds": dict(seconds),
        "peak_memory": journal.peak_memory(),
    }
    record = records.Record(known | facts, dict(scores))
    records.write(config.output.folder(name), name, record)
    if config.output.publish:
        records.write(records.RESULTS, name, record)
    return record


def stored(name: str) -> records.Record:
    """The published record of that name."""
    return records.read(records.RESULTS / f"{name}.json")


def show(
    record: records.Record, columns: Sequence[tuple[str, str]], title: str, digits: int = 4
) -> None:
    """Prints the mean of each arm with its interval over people, seeds averaged first.

    Args:
      columns: (condition, metric) of each column; an arm without such scores has an empty cell.
    """
    facts = record.facts
    table = Table(title=title, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for condition, metric in columns:
        told = "rmse" if metric == "mse" else metric  # `report.interval` takes the root
        table.add_column(f"{told}\n{condition}", justify="right", no_wrap=True)
    quoted = few_shot.published(facts["experiment"])
    for heading in ("seconds", *(["bytes per user"] if "bytes" in facts else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in facts["arms"]:
        cells = []
        for condition, metric in columns:
            name = records.score_name(facts["scenario"], arm, condition, metric)
            if name not in record.scores:
                cells.append("")
                continue
            r = records.interval(record.scores[name], metric)
            cells.append(f"{r.mean:.{digits}f} [{r.low:.{digits}f}, {r.high:.{digits}f}]")
        cells.append(f"{facts['seconds'].get(arm, 0.0):.0f}")
        if "bytes" in facts:
            cells.append(f"{facts['bytes'].get(arm, 0):,}")
        table.add_row(arm, *cells)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 60 + 26 * len(columns))
    console.print(table)
    for row, text in quoted.items():
        console.print(f"published: {row}: {text}")
