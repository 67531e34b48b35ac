"""Records, tables and plots of the sinusoid experiments."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from metajax.results import plots, records
from metajax.settings import flat
from metajax.training import journal
from metajax.types import UserError

from .. import few_shot

METRIC = "squared error"


def written(
    name: str,
    scenario: str,
    arms: Sequence[str],
    config: Any,
    settings: Mapping[str, Any],
    seconds: Mapping[str, float],
    scores: Mapping[str, np.ndarray],
    gradients: Mapping[str, Mapping[str, int]] | None = None,
) -> records.Record:
    """The record, after writing it and its plot to the folder of the configuration.

    Where only some arms were run, the record has the others' scores as they are stored, and says
    under ``later`` where the new ones are from.

    Raises:
      UserError: some arms were run and there is no record of the others under the same settings.
    """
    facts = {
        "experiment": "sinusoid",
        "scenario": scenario,
        "arms": list(arms),
        "config": flat(config),
        "config_hash": records.config_hash(config),
        "environment": records.environment(),
        "settings": dict(settings),
        "seconds": dict(seconds),
        "gradients": dict(gradients or {}),
        "peak_memory": journal.peak_memory(),
    }
    record = records.Record(facts, dict(scores))
    if getattr(config, "arms", ()) and config.output.publish:
        record = joined(records.read(records.RESULTS / f"{name}.json"), record)
    known = {full.split("|")[1] for full in record.scores}
    record.facts["arms"] = [arm for arm in record.facts["arms"] if arm in known]
    folder = config.output.folder("sinusoid")
    records.write(folder, name, record)
    if config.output.publish:
        records.write(records.RESULTS, name, record)
    plot(record, folder / f"{name}.png")
    journal.write_checksums(folder)
    return record


def joined(stored: records.Record, new: records.Record) -> records.Record:
    """The stored record with the arms of the new one, in the order of the new one's list.

    Raises:
      UserError: the two were not made with the same settings.
    """
    old = stored.facts["config"]
    for setting, value in new.facts["config"].items():
        told = json.loads(json.dumps(value, default=str))
        if setting not in (*records.PLACES, "arms", "shots") and old.get(setting) != told:
            raise UserError(
                f"the stored record has {setting} {old.get(setting)}, this run {told}; run all arms"
            )
    scores = stored.scores | new.scores
    known = {name.split("|")[1] for name in scores}
    facts = stored.facts | {
        "arms": [arm for arm in new.facts["arms"] if arm in known],
        "settings": stored.facts["settings"] | new.facts["settings"],
        "seconds": stored.facts["seconds"] | new.facts["seconds"],
        "later": stored.facts.get("later", {})
        | {arm: new.facts["environment"] for arm in new.facts["config"]["arms"]},
    }
    return records.Record(facts, scores)


def conditions(record: records.Record) -> list[int]:
    """The numbers of inner steps that the record was judged at."""
    found = {int(name.split("|")[2].removeprefix("steps=")) for name in record.scores}
    return sorted(found)


def show(record: records.Record) -> None:
    """Prints mean squared errors with intervals over tasks at some numbers of steps."""
    facts, scenario = record.facts, record.facts["scenario"]
    steps = [s for s in conditions(record) if s in (0, 1, 5, 10, 100)]
    some = next(iter(record.scores.values()))
    title = f"Sinusoid, {scenario}: mean squared error [95 %] after n steps, {len(some[0])} tasks"
    table = Table(title=title, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for step in steps:
        table.add_column(f"n = {step}", justify="right", no_wrap=True)
    table.add_column("published", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    quoted = few_shot.published("sinusoid")
    for arm in facts["arms"]:
        cells = []
        for step in steps:
            r = records.interval(record.of(scenario, arm, f"steps={step}", METRIC), METRIC)
            cells.append(f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]")
        published = quoted.get(f"{scenario}|{arm}", "")
        table.add_row(arm, *cells, published, f"{facts['seconds'].get(arm, 0.0):.0f}")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    console.print(
        f"{some.shape[0]} seeds, averaged per task; test tasks opened once, "
        f"on {facts['environment']['date']}."
    )


def show_stored(out: pathlib.Path) -> None:
    """Prints the tables of all stored records and draws their curves in the folder ``out``.

    Raises:
      UserError: there are none.
    """
    files = records.RESULTS.glob("sinusoid-*.json")
    paths = sorted(files, key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise UserError(
            f"no records in {records.RESULTS}; run python -m experiments sinusoid --publish"
        )
    for path in paths:
        record = records.read(path)
        show(record)
        plot(record, out / f"{path.stem}.png")


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves the curve of the error over inner steps, one line per arm."""
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, scenario = conditions(record), record.facts["scenario"]
    for i, arm in enumerate(record.facts["arms"]):
        results = [
            records.interval(record.of(scenario, arm, f"steps={s}", METRIC), METRIC) for s in steps
        ]
        color = (*plots.COLORS, "#000000")[i % (len(plots.COLORS) + 1)]
        axes.plot(
            steps,
            [r.mean for r in results],
            linestyle=plots.STYLES[i % len(plots.STYLES)],
            marker=plots.MARKERS[i % len(plots.MARKERS)],
            markersize=4,
            color=color,
            label=arm,
        )
        axes.fill_between(
            steps, [r.low for r in results], [r.high for r in results], color=color, alpha=0.1
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-4))  # the oracle's rounding errors lie below
    axes.set_xlabel("gradient steps on the new task")
    axes.set_ylabel("mean squared error")
    axes.set_title(f"Sinusoid, {scenario}", fontsize=10)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", fontsize=7, ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
