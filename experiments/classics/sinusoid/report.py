"""Records, tables and plots of the sinusoid experiments."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metajax.results import plots, records, tables
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
    scores: Mapping[records.Key, np.ndarray],
    gradients: Mapping[str, records.Gradients] | None = None,
    *,
    opened: records.Opening,
) -> records.Record:
    """The record, after writing it and its plot to the folder of the configuration.

    Where only some arms were run, the record has the others' scores as they are stored, and says
    under ``later`` where the new ones are from.

    Raises:
      UserError: some arms were run and there is no record of the others under the same settings.
    """
    record = records.made(
        "sinusoid",
        config,
        records.arms_of(arms, settings=settings, seconds=seconds, gradients=gradients),
        scores,
        scenario=scenario,
        opened=(opened,),
        peak_memory=journal.peak_memory(),
    )
    if getattr(config, "arms", ()) and config.output.publish:
        record = joined(records.stored(name), record)
    known = {key.arm for key in record.scores}
    record = dataclasses.replace(record, arms=tuple(a for a in record.arms if a.name in known))
    records.write(config.output.folder("sinusoid"), name, record, config.output.publish)
    plot(record, config.output.folder("sinusoid") / f"{name}.png")
    journal.write_checksums(config.output.folder("sinusoid"))
    return record


def joined(stored: records.Record, new: records.Record) -> records.Record:
    """The stored record with the arms of the new one, in the order of the new one's list.

    Raises:
      UserError: the two were not made with the same settings.
    """
    for setting, value in new.config.items():
        old = stored.config.get(setting)
        if setting not in (*records.PLACES, "arms", "shots") and old != value:
            raise UserError(
                f"the stored record has {setting} {old}, this run {value}; run all arms"
            )
    scores = {**stored.scores, **new.scores}
    ran, known = new.config["arms"], {key.arm for key in scores}
    arms = [new.arm(n) if n in ran else stored.arm(n) for n in new.names() if n in known]
    later = stored.extra.get("later", {}) | {
        arm: dataclasses.asdict(new.environment) for arm in ran
    }
    extra = {**stored.extra, "later": later}
    opened = (*stored.opened, *new.opened)
    return dataclasses.replace(stored, arms=tuple(arms), scores=scores, opened=opened, extra=extra)


def conditions(record: records.Record) -> list[int]:
    """The numbers of inner steps that the record was judged at."""
    return sorted(int(had.removeprefix("steps=")) for had in record.conditions())


def show(record: records.Record) -> None:
    """Prints mean squared errors with intervals over tasks at some numbers of steps."""
    scenario = record.scenario
    steps = [s for s in conditions(record) if s in (0, 1, 5, 10, 100)]
    some = next(iter(record.scores.values()))
    title = f"Sinusoid, {scenario}: mean squared error [95 %] after n steps, {len(some[0])} tasks"
    heads, rows = ["arm", *(f"n = {step}" for step in steps), "published", "seconds"], []
    quoted = few_shot.published("sinusoid")
    for arm in record.arms:
        cells = []
        for step in steps:
            r = records.interval(record.of(scenario, arm.name, f"steps={step}", METRIC), METRIC)
            cells.append(f"{r:.3f}")
        published = quoted.get(f"{scenario}|{arm.name}", "")
        rows.append([arm.name, *cells, published, f"{arm.seconds or 0.0:.0f}"])
    note = f"{some.shape[0]} seeds, averaged per task; test tasks opened once, "
    note += f"on {record.environment.date}."
    tables.terminal(tables.Grid(title, heads, rows, notes=[note]))


def show_stored(command: str, pattern: str, out: pathlib.Path) -> None:
    """Prints the tables of the stored records of a pattern, and draws their curves in ``out``.

    Raises:
      UserError: there are none; it names the command that makes them.
    """
    found = few_shot.stored(command, pattern)
    for name in sorted(found, key=lambda name: (len(name), name)):
        show(found[name])
        plot(found[name], out / f"{name}.png")


def plot(record: records.Record, path: pathlib.Path) -> None:
    """Saves the curve of the error over inner steps, one line per arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, scenario = conditions(record), record.scenario
    for i, arm in enumerate(record.names()):
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
