"""Fresh evidence: a registered comparison on splits that nobody has opened, each opened once.

A registration (paper/registrations) says method, budget, primary measures, hypothesis and rule
before its splits are drawn. The command refuses a registration that is not committed, and a split
whose test was opened before. Every arm is searched and trained by the same budget on each split,
then its test is opened; differences are pooled over splits and users.

Run: python -m experiments fresh paper/registrations/fresh-splits.toml
     python -m experiments fresh FIRST.toml SECOND.toml   several of the same splits
     --from-records prints the record that is stored.
Registrations of the same splits and budget share the arms and the one opening. A split that was
run for another registration is not run again if this one was committed before its test was opened.
Each split has a record; `--publish` stores it as soon as it is made. A stopped run goes on: a split
that is done is not opened again. No verdict is printed before all splits are done.
"""

import dataclasses
import datetime
import hashlib
import pathlib
import subprocess
import time
import tomllib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from tyro.conf import Positional

from metajax import benchmark, losses
from metajax.benchmark import problem
from metajax.data import split
from metajax.data.sources import named
from metajax.evaluation import evaluate
from metajax.results import intervals, ledger, records, registered, rounding
from metajax.settings import Hardware, Output, Training
from metajax.types import UserError

from ..tables import contenders
from ..tables import tables as field
from . import report


class Registration(NamedTuple):
    """What was said before; see the files in paper/registrations.

    Attributes:
      budget: trials and trial_steps, and what `Training` is made of.
      digest: of the file.
      design: one of `DESIGNS`; a file that does not say it is about MeLU's protocol.
      shots: numbers of support ratings that are shown of each task and judged one by one; a file
        that does not say any is about tasks as they are.
    """

    method: str
    dataset: str
    split_seeds: tuple[int, ...]
    scenarios: tuple[str, ...]
    primary: tuple[str, ...]
    hypothesis: str
    rule: str
    budget: dict[str, int]
    digest: str
    design: str = "melu"
    shots: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; what is compared stands in the registration alone."""

    registrations: Positional[tuple[pathlib.Path, ...]]
    """Files of registrations; several must name the same data, splits and budget."""
    _: dataclasses.KW_ONLY
    output: Output = Output()
    hardware: Hardware = Hardware()
    data_dir: pathlib.Path | None = None
    """Folder of the named data sets; by default METAJAX_DATA, else ./data."""


SHOWN = ("mae", "mae_calibrated", "mse_calibrated", "log_loss", "crps")
"""Measures that are stored beside the primary ones, of tasks as they are."""
DESIGNS = {design.name: design for design in (field.MELU, field.USERS)}
"""Whose tasks a split has: MeLU's four scenarios, or new users of any activity above 12."""
BUDGET = {"trials", "trial_steps", "seeds", "num_steps", "num_tasks", "num_support"}


def read(path: pathlib.Path) -> Registration:
    """The registration of a file.

    Raises:
      UserError: there is none, or it does not say what it has to.
    """
    try:
        content = path.read_bytes()
        told: dict[str, Any] = tomllib.loads(content.decode())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no registration ({error})") from error
    free = {"design", "shots"}
    fields = set(Registration._fields) - free - {"digest"}
    if told.keys() - free != fields or told["budget"].keys() != BUDGET:
        raise UserError(
            f"{path} must say {', '.join(sorted(fields))}, and of the budget "
            f"{', '.join(sorted(BUDGET))}; nothing else"
        )
    if told["method"] not in contenders.METHODS:
        known = ", ".join(contenders.METHODS)
        raise UserError(f"{path}: the method is {told['method']!r}; it is one of {known}")
    if told.get("design", "melu") not in DESIGNS:
        raise UserError(
            f"{path}: the design is {told['design']!r}; it is one of {', '.join(DESIGNS)}"
        )
    if told.get("shots") and told["scenarios"] != ["user_cold"]:
        raise UserError(f"{path}: claims with shots are about user_cold alone")
    if unknown := set(told.get("shots", ())) - set(evaluate.SHOTS):
        raise UserError(
            f"{path}: nothing is judged after {min(unknown)} ratings; shots are some of "
            f"{', '.join(map(str, evaluate.SHOTS))}"
        )
    several = ("split_seeds", "scenarios", "primary", "shots")
    told |= {k: tuple(told[k]) for k in several if k in told}
    return Registration(**told, digest=hashlib.blake2b(content, digest_size=8).hexdigest())


def name_of(registration: Registration, seed: int) -> str:
    """The name of the record of a split."""
    return f"fresh-{registration.dataset}-{seed}"


def together(paths: Sequence[pathlib.Path]) -> list[Registration]:
    """The registrations of files.

    Raises:
      UserError: there is none, or they are not about the same splits.
    """
    if not paths:
        raise UserError("give the file of a registration, such as those in paper/registrations")
    found = [read(path) for path in paths]
    first = found[0]
    for path, other in zip(paths, found, strict=True):
        for field_name in ("dataset", "split_seeds", "budget", "design"):
            if getattr(other, field_name) != getattr(first, field_name):
                raise UserError(
                    f"{path} has another {field_name} than {paths[0]}; run them one by one"
                )
    return found


def require_committed(path: pathlib.Path) -> str:
    """The commit that the file was last changed in.

    Raises:
      UserError: it has changes that are not committed, or is in no repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(path.resolve().parent), *arguments, "--", path.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return "?"
        return done.stdout.strip() if done.returncode == 0 else "?"

    commit, changes = git("log", "-1", "--format=%H"), git("status", "--porcelain")
    if changes or len(commit) < 40:
        raise UserError(
            f"{path} is not committed as it stands; commit the registration first: what is "
            "registered must be known before the splits are opened"
        )
    return commit


def committed_at(path: pathlib.Path) -> datetime.datetime:
    """When the file was last committed."""
    command = ["git", "-C", str(path.resolve().parent), "log", "-1", "--format=%cI", "--"]
    done = subprocess.run([*command, path.name], capture_output=True, text=True, check=True)
    return datetime.datetime.fromisoformat(done.stdout.strip())


def require_unopened(tests: str, seed: int) -> None:
    """Refuses a split whose test is in the ledger.

    Raises:
      UserError: somebody has opened it.
    """
    before = [line for line in ledger.everything(records.RESULTS) if line.get("split") == tests]
    if before:
        raise UserError(
            f"the test of split seed {seed} was opened before, by {before[0].get('experiment')} "
            f"at {before[0]['frozen']}; register other seeds"
        )


def of_split(
    asked_of: Sequence[Registration], seed: int, config: Config, folder: pathlib.Path
) -> records.Record:
    """The record of one split: every arm searched and trained, then its test opened."""
    began, registration = time.perf_counter(), asked_of[0]
    budget: dict[str, Any] = dict(registration.budget)
    spent = contenders.Budget(budget.pop("trials"), budget.pop("trial_steps"), folder)
    training = Training(**budget, devices=config.hardware.devices)
    design = DESIGNS[registration.design]
    table = design.protocol.prepare(named.load(registration.dataset, config.data_dir))
    if design is field.MELU:
        parts = split.melu(table, seed, redraw=True)
    else:
        parts = design.split(table, seed, 0)
    ready = problem.problem_of(table, parts, training.num_support, losses.squared_error)
    require_unopened(parts.checksum(), seed)
    methods = tuple(dict.fromkeys(each.method for each in asked_of))
    arms, notes = contenders.all_arms(methods, ready, training, spent, design.goal)
    asked = benchmark.Config(
        training=training, split=benchmark.SplitOptions(split_seed=seed, redraw=True)
    )
    metrics = field.metrics_of(design)
    return benchmark.judged(
        "fresh", asked, methods[0], ready, arms, {}, began, metrics, notes=notes
    )


def kept(
    asked: Sequence[Registration],
    commits: Sequence[str],
    seed: int,
    config: Config,
    folder: pathlib.Path,
) -> records.Record:
    """The record of a split: one that is there already, or a new one."""
    name, publish = name_of(asked[0], seed), config.output.publish
    for place in (folder, records.RESULTS):
        path = records.path_of(name, place)
        if path.is_file():
            stored = records.read(path)
            record = also_told(asked, commits, config.registrations, stored)
            if record is not stored or (publish and place != records.RESULTS):
                records.write(folder, name, record, publish)
            return record
    record = of_split(asked, seed, config, folder / name)
    record = told(asked, commits, record)
    records.write(folder, name, record, publish)
    return record


def also_told(
    asked: Sequence[Registration],
    commits: Sequence[str],
    paths: Sequence[pathlib.Path],
    record: records.Record,
) -> records.Record:
    """The record with those of the registrations that it was not run for, if they came in time.

    Raises:
      UserError: one was committed after the split was opened, or the split was run differently.
    """
    before = record.extra[registered.REGISTERED]
    digests, new = [one["digest"] for one in before], []
    for one, commit, path in zip(asked, commits, paths, strict=True):
        if one.digest in digests:
            continue
        opened = min(opening.frozen for opening in record.opened)
        if committed_at(path) >= datetime.datetime.fromisoformat(opened):
            raise UserError(
                f"{path} was committed after a split of it was opened, at {opened}; register "
                "other seeds"
            )
        same = before[0]["budget"] == one.budget and before[0].get("design", "melu") == one.design
        if not same or one.method not in record.names():
            raise UserError(
                f"a split of {path} was run with another budget, design or method; register "
                "other seeds"
            )
        new.append((one, commit))
    if not new:
        return record
    ones, of = zip(*new, strict=True)
    more = told(ones, of, record).extra[registered.REGISTERED]
    extra = {**record.extra, registered.REGISTERED: [*before, *more]}
    return dataclasses.replace(record, extra=extra)


def told(
    asked: Sequence[Registration], commits: Sequence[str], record: records.Record
) -> records.Record:
    """The record of a split with all that was registered about it, and `stored_scores` alone."""
    said = []
    for one, commit in zip(asked, commits, strict=True):
        unasked = contenders.unasked(one.method)
        arms = [name for name in record.names() if name not in unasked]
        said.append(one._asdict() | {"commit": commit, "arms": arms})
    extra = {**record.extra, registered.REGISTERED: records.plain(said)}
    primary = {metric for one in asked for metric in one.primary}
    return dataclasses.replace(record, extra=extra, scores=stored_scores(record, primary))


def stored_scores(
    record: records.Record, primary: Collection[str]
) -> dict[records.Key, np.ndarray]:
    """What is kept of a split's scores: a fifth of their bytes, and all that a verdict needs.

    Each task's mean over the seeds, (1, T), in the primary measures and in `SHOWN`; in the primary
    measures at each number of ratings, too. Controls are left out.
    """
    wanted = lambda key: (
        key.metric in {*primary, *SHOWN}
        if key.condition == records.ALL
        else key.metric in primary and key.condition.startswith("k=")
    )
    mean = lambda values: intervals.mean_of_seeds(values)[None]
    return rounding.rounded({k: mean(v) for k, v in record.scores.items() if wanted(k)})


def main(config: Config) -> list[records.Record]:
    """The record of each split, made or read, and the verdict on each registration printed."""
    asked = together(config.registrations)
    names = [name_of(asked[0], seed) for seed in asked[0].split_seeds]
    folder = config.output.folder(config.registrations[0].stem)
    places = (records.RESULTS, folder)
    if config.output.from_records:
        there = [n for n in names if any(records.path_of(n, p).is_file() for p in places)]
        each = [records.stored(name, otherwise=folder) for name in there or names[:1]]
    else:
        commits = [require_committed(path) for path in config.registrations]
        seeds = asked[0].split_seeds
        each = [kept(asked, commits, seed, config, folder) for seed in seeds]
    judged = registered.comparisons(each, [one.digest for one in asked])
    known = {found.told["digest"] for found in judged}
    for path, one in zip(config.registrations, asked, strict=True):
        if one.digest not in known:
            raise UserError(f"no stored record is of {path}; run it without --from-records first")
    for found in judged:
        report.show(found)
        if not config.output.from_records:
            print("".join(f"plot   {path}\n" for path in report.plot(found, folder)), end="")
    if not config.output.from_records:
        print("".join(f"record {records.path_of(name, folder)}\n" for name in names), end="")
    return each
