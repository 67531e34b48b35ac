"""Runs side by side: one table with paired differences, and what differs in their configurations.

python -m metajax.results compare RUN... where RUN is a run folder or the file of a record;
python -m metajax.results show RECORD prints what it says beside its scores;
python -m metajax.results check FOLDER... re-hashes what runs have written.
"""

import dataclasses
import json
import pathlib
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from metajax.results import grid as grids
from metajax.results import intervals, ledger, reliability, rounding, tables
from metajax.results import records as report
from metajax.results.reliability import Entry, pairs, shown
from metajax.results.tables import lower_is_better
from metajax.training import journal
from metajax.types import UserError

Format = Literal["terminal", "markdown", "latex", "csv", "typst"]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares runs: a table with paired differences, and what differs in their configurations."""

    runs: Positional[tuple[pathlib.Path, ...]]
    """Run folders, or files of records."""
    metric: str = "mae"
    """Metric to compare; mse is shown as its root."""
    scenario: str | None = None
    """Scenario to compare; by default all."""
    condition: str = "all"
    """Condition of the support: all, shuffled, k=5, ..."""
    reference: str | None = None
    """Arm that the others are compared with; by default the method of the first run."""
    format: Format = "terminal"
    """How to print the table."""
    plots: pathlib.Path | None = None
    """Folder to save the figures in: forest, k-shot and learning curves, cost against quality."""


def find(paths: Sequence[pathlib.Path]) -> dict[str, report.Record]:
    """Name -> record, of run folders and of files; if two have one name, the folder is added to it.

    Raises:
      UserError: there is no record at a path, or one is given twice.
    """
    found: dict[str, report.Record] = {}
    seen: set[pathlib.Path] = set()
    for path in paths:
        files = report.files(path) if path.is_dir() else [path]
        if not files:
            raise UserError(f"no record in {path}; give a run folder or the file of a record")
        for file in files:
            name = file.stem if file.stem not in found else f"{file.parent.name}/{file.stem}"
            if name in found or file.resolve() in seen:
                raise UserError(f"{file} is given twice; give each run once")
            seen.add(file.resolve())
            found[name] = report.read(file)
    return found


def entries(
    records: Mapping[str, report.Record],
    metric: str,
    condition: str = "all",
    scenario: str | None = None,
) -> list[Entry]:
    """The arms of all records that have scores of the metric under the condition.

    An arm with the same scores in two records is listed once, in the first.

    Args:
      records: name -> record.
      condition: of the support, see `schema.Key`.
      scenario: of the test tasks; None for all.

    Raises:
      UserError: no record has such scores.
    """
    found: list[Entry] = []
    seen: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = {}
    for name, record in records.items():
        tasks = _tasks(name, record)
        for key, scores in record.scores.items():
            if (key.metric, key.condition) != (metric, condition):
                continue
            if scenario not in (None, key.scenario):
                continue
            before = seen.setdefault((key.scenario, key.arm), [])
            if not any(rounding.alike(scores, other) for run, other in before if run != name):
                found.append(Entry(name, key.arm, key.scenario, scores, tasks))
                before.append((name, scores))
    if not found:
        known = {(k.scenario, k.condition, k.metric) for r in records.values() for k in r.scores}
        shown = ", ".join("|".join(k) for k in sorted(known)[:6])
        raise UserError(f"no scores of {metric} under {condition}; there are {shown}, ...")
    return found


def _tasks(name: str, record: report.Record) -> str:
    """What two records share only if their test tasks are the same.

    The checksum of the split; else, where tasks are drawn by a fixed key, experiment and scenario;
    else the record's own name, so that nothing is paired by accident.
    """
    if record.split and record.split.checksum:
        return record.split.checksum
    return f"{record.experiment}: {record.scenario}" if record.scenario else name


def compare(found: Sequence[Entry], reference: str, metric: str) -> tables.Grid:
    """The table: means with intervals, paired differences to the reference, adjusted p-values.

    The p-values of a scenario are adjusted by Holm's method. If an arm was tested on other tasks
    than the reference, the two cannot be paired, and the cells stay empty.

    Args:
      found: the arms to compare.
      reference: the name of the arm that the others are compared with.
    """
    headings = (
        "scenario",
        "run",
        "arm",
        f"{shown(metric)} [95 %]",
        "- reference",
        "p (Holm)",
        "P(better)",
    )
    rows: list[list[str]] = []
    sections: list[int] = []
    bold: list[int] = []
    for scenario in dict.fromkeys(e.scenario for e in found):
        group = [e for e in found if e.scenario == scenario]
        base = next((e for e in group if e.arm == reference), None)
        paired = [base is not None and e is not base and pairs(e, base) for e in group]
        gaps = [
            report.difference(e.scores, base.scores) if ok and base else None
            for e, ok in zip(group, paired, strict=True)
        ]
        p = intervals.holm(np.array([np.nan if g is None else g.p for g in gaps]))
        sections.append(len(rows))
        for e, gap, p_value in zip(group, gaps, p, strict=True):
            if e is base:
                bold.append(len(rows))
            cells = [tables.with_interval(report.interval(e.scores, metric))]
            if gap is None:
                cells += ["reference" if e is base else "not paired" if base else "", "", ""]
            else:
                cells += [tables.signed(gap), f"{p_value:.4f}", f"{_better(e, base, metric):.2f}"]
            rows.append([scenario if len(rows) == sections[-1] else "", e.run, e.arm, *cells])
    notes = [
        f"Reference: {reference}. Differences are means over tasks, paired by task after averaging "
        "the seeds; * marks an interval that excludes 0.",
        "P(better): share of tasks on which the arm is better than the reference, ties one half.",
    ]
    return tables.Grid(
        f"{shown(metric)} of {len({e.run for e in found})} runs",
        headings,
        rows,
        3,
        notes,
        sections,
        bold,
    )


def _better(e: Entry, base: Entry | None, metric: str) -> float:
    assert base is not None
    gain = intervals.mean_of_seeds(e.scores) - intervals.mean_of_seeds(base.scores)
    gain = gain[~np.isnan(gain)] * (-1 if lower_is_better(metric) else 1)
    return float(np.mean(0.5 * (1 + np.sign(gain))))


def _plain(part: Any) -> dict[str, Any]:
    """A part of a record as a dictionary, without what is not known."""
    found: Any = part or {}
    found = dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found
    return {name: value for name, value in found.items() if value not in (None, ())}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names."""
    items: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        items |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return items


def differing(records: Mapping[str, report.Record]) -> tables.Grid:
    """What differs between runs: configuration, data, split, device, versions and commit."""
    parts = ("config", "data", "split", "environment")
    ignored = {
        "environment.date",
        "environment.command",
        *(f"config.{p}" for p in report.PLACES),
    }
    all_flat = {
        name: flat({part: _plain(getattr(record, part)) for part in parts})
        for name, record in records.items()
    }
    settings = sorted(set().union(*all_flat.values()) - ignored)
    rows = []
    for setting in settings:
        values = [str(f.get(setting, "-")) for f in all_flat.values()]
        if len(set(values)) > 1:
            rows.append([setting, *values])
    return tables.Grid("What differs", ("setting", *all_flat), rows, 1 + len(all_flat))


FORMATS = {
    "markdown": grids.markdown,
    "latex": grids.latex,
    "csv": grids.csv_text,
    "typst": grids.typst,
}


def main(config: Compare) -> None:
    """Prints the comparison and saves its figures."""
    records = find(config.runs)
    found = entries(records, config.metric, config.condition, config.scenario)
    first = next(iter(records.values()))
    reference = config.reference or first.method or found[0].arm
    if reference not in {e.arm for e in found}:
        arms = ", ".join(sorted({e.arm for e in found}))
        raise UserError(f"no arm is called {reference!r}; there are {arms}")
    grids = [
        compare(found, reference, config.metric),
        reliability.reliability(found, reference, config.metric),
    ]
    if config.metric in ("mae", "mse", "ndcg@5") and config.scenario in (None, "user_cold"):
        grids.append(
            reliability.cost_table(reliability.costs(records, metric=config.metric), config.metric)
        )
    for grid in (*grids, differing(records)):
        if not grid.rows:
            continue
        if config.format == "terminal":
            tables.terminal(grid)
        else:
            print(FORMATS[config.format](grid))
    if config.plots:
        from metajax.results import plots

        for path in plots.of_comparison(records, found, reference, config.metric, config.plots):
            print(f"plot {path}")


@dataclasses.dataclass(frozen=True)
class Show:
    """Prints a record without its scores, as JSON."""

    record: Positional[pathlib.Path]
    """The file of a record."""


def show(config: Show) -> None:
    """Prints the facts of a record, and the keys and shapes of its scores."""
    made = report.read(config.record)
    facts = dataclasses.asdict(dataclasses.replace(made, scores={}))
    shapes = {" | ".join(key): values.shape for key, values in made.scores.items()}
    print(json.dumps(report.plain(facts | {"scores": shapes}), indent=1))


@dataclasses.dataclass(frozen=True)
class Check:
    """Checks by their hashes that the files of run folders are as the runs wrote them."""

    folders: Positional[tuple[pathlib.Path, ...]]
    """Run folders."""


def check(config: Check) -> None:
    """Prints one line per folder that is whole."""
    for folder in config.folders:
        print(f"{folder}: {journal.check(folder)} files are as they were written")


@dataclasses.dataclass(frozen=True)
class Openings:
    """Prints how often each set of test tasks was opened, and by which experiment (the ledger)."""


def openings(config: Openings) -> None:
    """Prints a paragraph for each set of test tasks, the most opened first."""
    del config
    found: dict[str, list[str]] = {}
    for line in ledger.everything(report.RESULTS):
        found.setdefault(line.get("split", ""), []).append(line.get("experiment", "?"))
    for tests, who in sorted(found.items(), key=lambda pair: (pair[0] == "", -len(pair[1]))):
        by = ", ".join(f"{name} {n}" for name, n in sorted(Counter(who).items()))
        told = f"{tests or 'not named':16}  opened {len(who):>3}  by {by}"
        print(textwrap.fill(told, 110, subsequent_indent=" " * 33, break_on_hyphens=False))
    print("Lower bounds: a run whose record was never stored has left no line.")


def cli() -> None:
    """The command line of `python -m metajax.results`."""
    commands = {"compare": Compare, "show": Show, "check": Check, "openings": Openings}
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(commands)
        run = {Compare: main, Show: show, Check: check, Openings: openings}[type(chosen)]
        run(chosen)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C")
