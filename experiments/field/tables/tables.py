"""The field's tables T1 to T5: every arm tuned by equal trials, five seeds, paired intervals, Holm.

T1 MetaRec ratings and clicks, with --folds 0 1 ... on several tenths of the users in turn; T2
MeLU's four scenarios; T3 k-shot curves of cold users; T4 items warming up, click by click; T5 one
learner with one setting on other data sets.

Run: python -m experiments tables T2
     python -m experiments tables T2 --from-records prints from the stored records, in seconds.
A stopped run goes on: trials, checkpoints and finished parts are kept in --out.
"""

import dataclasses
import pathlib
import time
from typing import Literal, NamedTuple

import jax
import numpy as np
from tyro.conf import Positional

from metajax import benchmark, losses
from metajax.benchmark import problem
from metajax.data import split
from metajax.data.sources import named
from metajax.evaluation import evaluate, protocols
from metajax.results import records as report
from metajax.settings import Data, Output, Training, flat, replace
from metajax.training import journal
from metajax.types import Episode, UserError

from ..metaemb import metaemb
from ..metaemb import report as metaemb_report
from . import clicks, contenders
from . import report as tables_report

RIDGE = "A6 ridge head"
GRADIENT = ("A6 MAML", "A6 ANIL", "A6 Meta-SGD")


class Part(NamedTuple):
    """One record of a table.

    Attributes:
      dataset: the data.
      kind: the protocol: rating, click, melu, ctr, or users, which is rating with users of any
        activity above 12.
      methods: the meta-learners in it, the first of which the others are compared with.
    """

    dataset: str
    kind: str
    methods: tuple[str, ...] = (RIDGE,)


NEURAL = ("A6 CNP", "A6 TaNP", "A6 CMML")
CROSS_SETS = ("movietweetings-100k", "ciaodvd", "amazon-musical-instruments", "jester5k")
TABLES: dict[str, tuple[Part, ...]] = {
    "T1": tuple(
        Part(dataset, kind, (RIDGE, "A6 MAML", "A6 TaNP", "A6 LWA"))
        for dataset in ("ml-100k", "ml-1m")
        for kind in ("rating", "click")
    ),
    "T2": (Part("ml-1m", "melu", (RIDGE, *GRADIENT, *NEURAL)),),
    "T3": (Part("ml-1m", "melu", (RIDGE, *GRADIENT, *NEURAL)),),
    "T4": (Part("ml-100k", "ctr"), Part("ml-1m", "ctr")),
    "T5": tuple(Part(dataset, "users", (RIDGE, "A6 MAML")) for dataset in CROSS_SETS),
}


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the tables."""

    table: Positional[Literal["T1", "T2", "T3", "T4", "T5"]]
    """Which table. T3 is the k-shot curve of T2's record."""
    _: dataclasses.KW_ONLY
    training: Training = Training(seeds=5, num_steps=600, num_tasks=32)
    trials: int = 5
    """Settings tried for every arm, on meta-validation."""
    trial_steps: benchmark.Positive = 150
    """Outer steps of a trial."""
    folds: tuple[int, ...] = (0,)
    """T1: which tenths of the users are tested, one after the other; 0 is the published split. More
    than one are pooled in a record of its own, whose arms are the first method and the non-meta
    ones."""
    parts: tuple[str, ...] = ()
    """Only the records whose name has one of these words, such as click or ml-100k."""


def name_of(config: Config, part: Part) -> str:
    """The name of a part's record; T3 reads T2's."""
    table = "T2" if config.table == "T3" else config.table
    several = f"-folds-{'-'.join(map(str, config.folds))}" if config.folds != (0,) else ""
    return f"tables-{table}-{part.dataset}-{part.kind}{several}"


def protocol_of(part: Part) -> protocols.Protocol:
    """The protocol of a part."""
    made = {"melu": protocols.melu, "click": protocols.metarec_click}
    return made.get(part.kind, protocols.metarec_rating)()


def metrics_of(part: Part) -> benchmark.Metrics:
    """The errors of ratings, and what the protocol judges by."""
    judge = protocol_of(part).judge

    def metrics(scores: jax.Array, episodes: Episode, key: jax.Array) -> dict[str, jax.Array]:
        return evaluate.rating_metrics(scores, episodes, key) | judge(scores, episodes.query, key)

    return metrics


def prepared(
    part: Part,
    data_dir: pathlib.Path | None,
    split_seed: int = 0,
    num_support: int = 64,
    fold: int = 0,
) -> problem.Problem:
    """The data of a part, split and represented."""
    protocol = protocol_of(part)
    table = protocol.prepare(named.load(part.dataset, data_dir))
    if part.kind == "melu":
        return problem.problem_of(table, split.melu(table, split_seed), num_support)
    if part.kind == "users":
        parts = split.user_disjoint(table, split_seed, max_rows=None)
        return problem.problem_of(table, parts, num_support)
    parts = split.user_disjoint(table, split_seed, fold=fold)
    return problem.problem_of(table, parts, num_support, losses.misordered)


def run_part(config: Config, part: Part) -> report.Record:
    """Tunes and trains every arm of a part, opens its test, and writes its record."""
    name = name_of(config, part)
    folder = config.output.folder("tables") / name
    if config.folds == (0,):
        record = one_fold(config, part, 0, folder)
    else:
        part = part._replace(methods=part.methods[:1])
        record = pooled([_kept_fold(config, part, fold, folder) for fold in config.folds])
    report.write(folder, name, record)
    if config.output.publish:
        report.publish(name, record)
    tables_report.save_figures(name, record, folder)
    journal.write_checksums(folder)
    return record


def _kept_fold(config: Config, part: Part, fold: int, folder: pathlib.Path) -> report.Record:
    """The record of a fold, from the folder if this configuration has left it there."""
    config = dataclasses.replace(config, folds=(fold,))
    name, config_hash = f"fold-{fold}", report.config_hash(config)
    if (folder / f"{name}.json").is_file():
        record = report.read(folder / f"{name}.json")
        if record.config_hash == config_hash:
            return record
    record = one_fold(config, part, fold, folder / name)
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
    return dataclasses.replace(
        first,
        arms=tuple(arms),
        scores=scores,
        split=first.split and dataclasses.replace(first.split, tasks=tasks, folds=splits),
        seconds={name: sum(f.seconds[name] for f in folds) for name in first.seconds},
        opened=tuple(opening for f in folds for opening in f.opened),
    )


def one_fold(config: Config, part: Part, fold: int, folder: pathlib.Path) -> report.Record:
    """The record of one division of the users."""
    began = time.perf_counter()
    training = config.training
    ready = prepared(
        part, config.data.data_dir, config.split.split_seed, training.num_support, fold
    )
    budget = contenders.Budget(config.trials, config.trial_steps, folder)
    goal = "lists" if part.kind in ("rating", "click") else "ratings"
    made = contenders.all_arms(part.methods, ready, training, budget, goal)
    record = benchmark.judged(
        "tables", config, part.methods[0], ready, made, {}, began, metrics_of(part)
    )
    placed = flat(replace(config, dataset=part.dataset, out=folder))
    return dataclasses.replace(
        record,
        config=report.plain(placed),
        protocol=protocol_of(part).name,
        extra={"table": config.table},
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
        trials=config.trials,
        trial_steps=config.trial_steps,
    )
    training = dataclasses.replace(config.training, num_support=60)
    budget = contenders.Budget(config.trials, config.trial_steps, folder)
    shots = protocols.ctr_warmup().shots
    also = lambda table, parts: clicks.arms(part.methods, table, parts, training, budget, shots)
    record = metaemb.run(settings, also)
    report.write(folder, name, record)
    if config.output.publish:
        report.publish(name, record)
    metaemb_report.plot(record, folder / "warm_up.png")
    journal.write_checksums(folder)
    return record


def main(config: Config) -> list[report.Record]:
    """The records of a table, made or read, and the table printed."""
    wanted = [
        part
        for part in TABLES[config.table]
        if not config.parts or any(word in name_of(config, part) for word in config.parts)
    ]
    if not wanted:
        names = ", ".join(name_of(config, part) for part in TABLES[config.table])
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
    tables_report.show(config.table, found)
    return list(found.values())


def _one(config: Config, part: Part) -> report.Record | None:
    name = name_of(config, part)
    if config.output.from_records:
        return report.stored(name) if report.path_of(name).is_file() else None
    return run_clicks(config, part) if part.kind == "ctr" else run_part(config, part)
