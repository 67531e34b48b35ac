"""The field's tables T1 to T5: equal tuning of all arms, five seeds, paired intervals, Holm.

T1 MetaRec ratings and clicks, with --folds 0 1 ... on several tenths of the users in turn; T2
MeLU's four scenarios; T3 k-shot curves of cold users; T4 items warming up, click by click; T5 one
learner with one setting on other data sets.

Run: python -m experiments tables T2
     python -m experiments tables T2 --from-records prints from the stored records, in seconds.
A stopped run goes on: trials, checkpoints and finished parts are kept in --out.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from tyro.conf import Positional

from metajax import benchmark, losses
from metajax.benchmark import mixture, problem
from metajax.data import split
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.evaluation import evaluate, protocols
from metajax.results import records as report
from metajax.results.groups import GROUPS
from metajax.settings import Data, Output, replace
from metajax.training import journal
from metajax.types import Episode, UserError

from ..metaemb import metaemb
from ..metaemb import report as metaemb_report
from . import clicks, contenders
from . import report as tables_report

RIDGE = "A6 ridge head"
GRADIENT = ("A6 MAML", "A6 ANIL", "A6 Meta-SGD")
NEURAL = ("A6 CNP", "A6 TaNP", "A6 CMML")


class Design(NamedTuple):
    """How the tasks of a record are made, chosen by and judged.

    Attributes:
      name: the last part of the record's name.
      protocol: prepares the log, and judges.
      split: (log, seed, fold) -> who is in training, and who is tested.
      valid: the loss that choices on meta-validation are made by.
      goal: what the arms are set for.
      metric: the one that stands first in a table.
    """

    name: str
    protocol: protocols.Protocol
    split: Callable[[Interactions, int, int], split.Split]
    valid: losses.Loss
    goal: contenders.Goal
    metric: str


def _folds(table: Interactions, seed: int, fold: int) -> split.Split:
    return split.user_disjoint(table, seed, fold=fold)


def _active(table: Interactions, seed: int, fold: int) -> split.Split:
    return split.user_disjoint(table, seed, max_rows=None)


def _melu(table: Interactions, seed: int, fold: int) -> split.Split:
    return split.melu(table, seed)


METAREC, CLICKS = protocols.metarec_rating(), protocols.metarec_click()
RATING = Design("rating", METAREC, _folds, losses.misordered, "lists", "ndcg@5")
CLICK = Design("click", CLICKS, _folds, losses.misordered, "lists", "ndcg@5")
MELU = Design("melu", protocols.melu(), _melu, losses.squared_error, "ratings", "mse")
USERS = Design("users", METAREC, _active, losses.squared_error, "ratings", "mse")
"""`RATING` with users of any activity above 12, judged by the error of ratings."""


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the tables."""

    table: Positional[Literal["T1", "T2", "T3", "T4", "T5"]]
    """Which table. T3 is the k-shot curve of T2's record."""
    _: dataclasses.KW_ONLY
    trials: int = 30
    """Settings tried for every arm, on meta-validation."""
    trial_steps: benchmark.Positive = 150
    """Outer steps of a trial."""
    folds: tuple[int, ...] = (0,)
    """T1: which tenths of the users are tested, one after the other; 0 is the published split.
    Several are pooled in a further record, of the first method and the arms that do not
    meta-learn."""
    parts: tuple[str, ...] = ()
    """Only the records whose name contains one of these words, such as click or ml-100k."""


class Part(NamedTuple):
    """One record of a table.

    Attributes:
      dataset: the data.
      design: the name of its design.
      run: (configuration, part) -> the record, made and written.
      methods: the meta-learners in it, the first of which the others are compared with.
    """

    dataset: str
    design: str
    run: Callable[[Config, Any], report.Record]
    methods: tuple[str, ...] = (RIDGE,)


def metrics_of(design: Design) -> benchmark.Metrics:
    """The errors of ratings, and what the protocol judges by."""

    def metrics(scores: jax.Array, episodes: Episode, key: jax.Array) -> dict[str, jax.Array]:
        errors = evaluate.rating_metrics(scores, episodes, key)
        return errors | design.protocol.judge(scores, episodes.query, key)

    return metrics


def prepared(
    dataset: str,
    design: Design,
    data_dir: pathlib.Path | None,
    split_seed: int = 0,
    num_support: int = 64,
    fold: int = 0,
) -> problem.Problem:
    """A data set, split and represented."""
    table = design.protocol.prepare(named.load(dataset, data_dir))
    parts = design.split(table, split_seed, fold)
    return problem.problem_of(table, parts, num_support, design.valid)


def run_part(design: Design, config: Config, part: Part) -> report.Record:
    """Tunes and trains every arm of a part, opens its test, and writes its record."""
    name = name_of(config, part)
    folder = config.output.folder("tables") / name
    if config.folds == (0,):
        record = one_fold(design, config, part, 0, folder)
    else:
        part = part._replace(methods=part.methods[:1])
        each = [_kept_fold(design, config, part, fold, folder) for fold in config.folds]
        of_all = {"config": report.settings_of(config), "config_hash": report.config_hash(config)}
        record = dataclasses.replace(pooled(each), **of_all)
    report.write(folder, name, record, config.output.publish)
    tables_report.save_figures(name, record, folder)
    journal.write_checksums(folder)
    return record


def _kept_fold(
    design: Design, config: Config, part: Part, fold: int, folder: pathlib.Path
) -> report.Record:
    """The record of a fold, from the folder if this configuration has left it there."""
    config = dataclasses.replace(config, folds=(fold,))
    name, config_hash = f"fold-{fold}", report.config_hash(config)
    path = report.path_of(name, folder)
    if path.is_file():
        record = report.read(path)
        if record.config_hash == config_hash:
            return record
    record = one_fold(design, config, part, fold, folder / name)
    report.write(folder, name, record)
    return record


def pooled(folds: list[report.Record]) -> report.Record:
    """The test users of all folds in one record; the learning curves are those of the first."""
    first = folds[0]
    scores = {k: np.concatenate([f.scores[k] for f in folds], axis=1) for k in first.scores}
    tasks = {s: sum(f.tasks[s] for f in folds) for s in first.tasks}
    arms = []
    for arm in first.arms:
        each = [f.arm(arm.name) for f in folds]
        settings = {"trials": arm.settings.get("trials", ""), "folds": [a.settings for a in each]}
        seconds = sum(a.seconds or 0.0 for a in each)
        arms.append(dataclasses.replace(arm, settings=settings, seconds=seconds))
    splits = tuple(f.split.checksum for f in folds if f.split)
    extra = {k: v for k, v in first.extra.items() if k != GROUPS}  # those are of one fold
    return dataclasses.replace(
        first,
        extra=extra,
        arms=tuple(arms),
        scores=scores,
        split=first.split and dataclasses.replace(first.split, tasks=tasks, folds=splits),
        seconds={name: sum(f.seconds[name] for f in folds) for name in first.seconds},
        opened=tuple(opening for f in folds for opening in f.opened),
    )


def one_fold(
    design: Design, config: Config, part: Part, fold: int, folder: pathlib.Path
) -> report.Record:
    """The record of one division of the users."""
    began = time.perf_counter()
    data_dir, training = config.data.data_dir, config.training
    divided = (config.split.split_seed, training.num_support, fold)
    ready = prepared(part.dataset, design, data_dir, *divided)
    budget = contenders.Budget(config.trials, config.trial_steps, folder)
    made, notes = contenders.all_arms(part.methods, ready, training, budget, design.goal)
    method, metrics = part.methods[0], metrics_of(design)
    record = benchmark.judged(
        *("tables", config, method, ready, made, {}, began, metrics),
        main=design.metric,
        notes=notes,
    )
    return dataclasses.replace(
        record,
        config=report.settings_of(replace(config, dataset=part.dataset)),
        protocol=design.protocol.name,
        extra={**record.extra, "table": config.table},
    )


def run_clicks(config: Config, part: Part) -> report.Record:
    """T4: the warm-up experiment with the table's seeds, and the arms of every table beside it."""
    name = name_of(config, part)
    folder = config.output.folder("tables") / name
    settings = metaemb.Config(
        output=Output(out=folder),
        data=Data(part.dataset, config.data.data_dir),
        seeds=config.training.seeds,
        hot=100 if part.dataset == "ml-100k" else 200,
        num_steps=config.training.num_steps,
        patience=config.training.patience,
        trials=config.trials,
        trial_steps=config.trial_steps,
    )
    training = dataclasses.replace(config.training, num_support=60)
    budget = contenders.Budget(config.trials, config.trial_steps, folder)
    shots = protocols.ctr_warmup().shots
    also = lambda table, parts: clicks.arms(part.methods, table, parts, training, budget, shots)
    record = metaemb.run(settings, also)
    report.write(folder, name, record, config.output.publish)
    metaemb_report.plot(record, folder / "warm_up.png")
    journal.write_checksums(folder)
    return record


def rated(dataset: str, design: Design, *methods: str) -> Part:
    """A record of ratings or clicks of users."""
    return Part(dataset, design.name, functools.partial(run_part, design), methods)


class Table(NamedTuple):
    """A table.

    Attributes:
      parts: its records.
      show: prints one: (table, name of the record, record).
      stored: the table whose records they are, where it is another's.
    """

    parts: tuple[Part, ...]
    show: Callable[[str, str, report.Record], None] = tables_report.show_scenarios
    stored: str = ""


FOUR_SCENARIOS = (rated("ml-1m", MELU, RIDGE, *GRADIENT, *NEURAL, mixture.MIXED),)
CROSS_SETS = ("movietweetings-100k", "ciaodvd", "amazon-musical-instruments", "jester5k")
TABLES: dict[str, Table] = {
    "T1": Table(
        tuple(
            rated(dataset, design, RIDGE, "A6 MAML", "A6 TaNP", "A6 LWA")
            for dataset in ("ml-100k", "ml-1m")
            for design in (RATING, CLICK)
        )
    ),
    "T2": Table(FOUR_SCENARIOS),
    "T3": Table(FOUR_SCENARIOS, tables_report.show_curves, stored="T2"),
    "T4": Table(
        tuple(Part(dataset, "ctr", run_clicks) for dataset in ("ml-100k", "ml-1m")),
        tables_report.show_warm_up,
    ),
    "T5": Table(tuple(rated(name, USERS, RIDGE, "A6 MAML", mixture.MIXED) for name in CROSS_SETS)),
}


def name_of(config: Config, part: Part) -> str:
    """The name of a part's record."""
    table = TABLES[config.table].stored or config.table
    several = f"-folds-{'-'.join(map(str, config.folds))}" if config.folds != (0,) else ""
    return f"tables-{table}-{part.dataset}-{part.design}{several}"


def main(config: Config) -> list[report.Record]:
    """The records of a table, made or read, and the table printed."""
    table = TABLES[config.table]
    wanted = [
        part
        for part in table.parts
        if not config.parts or any(word in name_of(config, part) for word in config.parts)
    ]
    if not wanted:
        names = ", ".join(name_of(config, part) for part in table.parts)
        raise UserError(f"no record of {config.table} has such a name; there are {names}")
    published = config.folds == (0,)
    if not published and (config.table != "T1" or not set(config.folds) <= set(range(10))):
        raise UserError("--folds is for T1, from 0 to 9: each tests another tenth of the users")
    records = [_one(config, part) for part in wanted]
    found = {name_of(config, p): r for p, r in zip(wanted, records, strict=True) if r}
    if not found:
        raise UserError(
            f"no record of {config.table} in {report.RESULTS}; run python -m experiments tables "
            f"{config.table} --publish first"
        )
    for name, record in found.items():
        table.show(config.table, name, record)
    return list(found.values())


def _one(config: Config, part: Part) -> report.Record | None:
    name = name_of(config, part)
    if config.output.from_records:
        return report.stored(name) if report.path_of(name).is_file() else None
    return part.run(config, part)
