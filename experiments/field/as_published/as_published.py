"""The field's learners at their published settings: how much does adapting change their scores?

Each learner is trained with the network, rates, batches and number of epochs of its published
program (at most --max-steps outer steps), and its last parameters are judged: nothing is chosen.
Each is tested on the same tasks adapted, without support (N0), and with shuffled labels of the
support (N1). Differences are paired by task.

References: those of each learner in its own file beside this one; settings from the authors' code.
Run: python -m experiments as_published
Published: the last column, in the same metric; on other rows where the drawn rows are unpublished.
Deviates: as the line of each learner below the table says; nothing is tuned here.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, losses
from metajax.benchmark import belief
from metajax.benchmark.problem import Problem, freeze
from metajax.data import episodes
from metajax.data.episodes import Source
from metajax.evaluation import evaluate, judge
from metajax.results import records
from metajax.settings import Hardware, Output, Positive, Presets
from metajax.training import journal
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

from ..metaemb import report as metaemb_report
from ..tables import tables
from . import report as as_published_report
from . import warm as as_published_warm
from .parts import fitted
from .rows import ROWS, Row

NAME = "as_published"
Made = tuple[str, dict[records.Key, np.ndarray], dict[str, Any]]
"""A row's name, its scores and what the record says of it."""
CONDITIONS: dict[str, evaluate.Alteration] = {  # the second is what ``change`` is told from
    "all": evaluate.unaltered,
    "k=0": evaluate.first_shots(0),
    "shuffled": evaluate.shuffled_labels,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    rows: tuple[str, ...] = ()
    """Only learners whose name contains one of these words; the table shows all that were run."""
    dataset: str = ""
    """Another data set for all rows, such as synthetic; else each its own."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; by default METAJAX_DATA, else ./data."""
    seeds: Positive = 1
    """Number of training seeds."""
    max_steps: Positive = 2300
    """Outer steps of a learner at most; whole epochs are run."""

    PRESETS: ClassVar[Presets] = {
        "quick": {"dataset": "synthetic", "max_steps": 20},
        "gpu": {"seeds": 5, "max_steps": 20_000},
    }


def folder_of(config: Config) -> pathlib.Path:
    """Where the run keeps its files."""
    return config.output.folder("as_published")


def schedule(row: Row, given: Problem, most: int) -> tuple[int, int, int]:
    """Outer steps of an epoch, epochs to run, and outer steps as published."""
    per_epoch = row.per_epoch or max(1, len(given.train.tasks.owner) // row.num_tasks)
    return per_epoch, max(1, min(row.epochs, most // per_epoch)), per_epoch * row.epochs


def scores_of(
    learner: MetaLearner,
    params: Params,
    source: Source,
    opened: Mapping[str, Episode],
    metrics: benchmark.Metrics,
) -> dict[tuple[str, str, str], np.ndarray]:
    """Per-task values (S, T) of a learner by scenario, condition and metric.

    Conditions are ``all`` of the support, none of it (``k=0``), and its labels ``shuffled``; all of
    them are one list of tasks for one program, and ties are broken alike. The metric ``change`` is
    the mean absolute change of a prediction caused by adapting.
    """
    tasks = judge.together(list(opened.values()))
    ends = np.cumsum([len(t.query.label) for t in opened.values()])
    key_alter, key_predict, key_ties = jax.random.split(jax.random.key(2), 3)
    keys = jax.random.split(key_alter, int(ends[-1]))
    altered = [jax.vmap(alter)(keys, tasks) for alter in CONDITIONS.values()]
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *altered)

    def of_seed(source: Source, together: Episode, params: PyTree) -> dict[str, jax.Array]:
        fetch = episodes.fetch_from(source)
        scores = evaluate.predictions(learner, params, together, key_predict, fetch=fetch)
        score_CxTxQ = scores.reshape(len(CONDITIONS), -1, scores.shape[1])
        found = jax.vmap(lambda score: metrics(score, tasks, key_ties))(score_CxTxQ)
        moved = jnp.abs(score_CxTxQ - score_CxTxQ[1][None])
        change = jax.vmap(lambda m: jax.vmap(losses.masked_mean)(m, tasks.query.mask))(moved)
        return found | {"change": change}

    of_seeds = jax.jit(lambda s, t, p: jax.lax.map(functools.partial(of_seed, s, t), p))
    return {
        (scenario, condition, metric): part
        for metric, values in of_seeds(source, together, params).items()
        for i, condition in enumerate(CONDITIONS)
        for scenario, part in zip(
            opened, np.split(np.asarray(values)[:, i], ends[:-1], axis=1), strict=True
        )
    }


def believed(
    arm: tuple[MetaLearner, Params], given: Problem, opened: Mapping[str, Episode]
) -> dict[tuple[str, str, str], np.ndarray]:
    """(scenario, "all", metric of `ordinal.PROPER`) -> (S, T), by links fitted on validation.

    Args:
      arm: a learner with its parameters, leaves (S, ...).
      given: whose meta-validation tasks the links of its seeds are fitted on.
    """
    levels, tasks = belief.levels_of(given), judge.together(list(opened.values()))
    if levels is None:
        return {}
    (link,) = belief.links_of({"": arm}, given, levels).values()
    told = {"fetch": episodes.fetch, "source": given.valid[0]}
    found = judge.believed(
        link, judge.scored(arm, tasks, jax.random.key(3), **told), tasks, jax.random.key(4)
    )
    ends = np.cumsum([len(t.query.label) for t in opened.values()])[:-1]
    return {
        (scenario, "all", metric): part
        for metric, values in found.items()
        for scenario, part in zip(opened, np.split(np.asarray(values), ends, axis=1), strict=True)
    }


def of_users(
    dataset: str, design: tables.Design, names: list[str], config: Config
) -> Iterator[Made]:
    """The learners of one data set and design, one after the other.

    The test tasks are opened at once: there is nothing to choose, and ordinal links are fitted on
    meta-validation alone.
    """
    dataset = config.dataset or dataset
    given = tables.prepared(dataset, design, config.data_dir, 0, 90)
    ticket = freeze(dataclasses.replace(config, rows=()), {})
    _, opened = given.open_test(ticket, NAME)
    for name in names:
        row, began = ROWS[name], time.perf_counter()
        mine = row.prepare(given)
        learner, tx = row.build(mine)
        per_epoch, epochs, published = schedule(row, mine, config.max_steps)
        sample = as_published_warm.sampler(row.num_tasks, (90, mine.split.num_query))
        steps = per_epoch * epochs
        folder = (folder_of(config), config.seeds, config.hardware.devices)
        found = fitted(name, learner, tx, sample, mine.train, steps, per_epoch, *folder)
        values = scores_of(learner, found.params, mine.valid[0], opened, tables.metrics_of(design))
        values |= believed((learner, found.params), mine, opened)
        scores = {
            records.Key(f"{dataset} {scenario}", name, *rest): value
            for (scenario, *rest), value in values.items()
        }
        numbers = {f"{dataset} {k}": v for k, v in row.published.items()}
        yield (
            name,
            scores,
            {
                "steps": steps,
                "published_steps": published,
                "history": found.history,
                "seconds": time.perf_counter() - began,
                "data": dataset,
                "metric": design.metric,
                "given": row.given,
                "differs": row.differs,
                "published": {} if config.dataset else numbers,
                "scenarios": list(numbers) or [f"{dataset} user_cold"],
                "opened": given.opened[-1],
                **belief.scale_of(mine),
            },
        )


def of_items(names: list[str], config: Config) -> Iterator[Made]:
    """The ways to warm items up, one after the other."""
    warm, dataset = as_published_warm, config.dataset or "ml-1m"
    data = warm.load(dataset, config.data_dir)
    bases: dict[int, Params] = {}
    opened = records.open_tests(
        dataclasses.replace(config, rows=()), {}, NAME, data.split.checksum()
    )
    for name in names:
        way, began = warm.WAYS[name], time.perf_counter()
        mine = warm.with_base(data, way)
        place = {"folder": folder_of(config), "devices": config.hardware.devices}
        fit = functools.partial(fitted, source=data.source, **place)
        if way.dim not in bases:
            steps, label = min(warm.BASE_STEPS, config.max_steps), f"click model {way.dim}"
            model, sample = warm.click_model(mine, way.dim), warm.sampler(20, (60, 40))
            found = fit(label, model, optax.adam(1e-3), sample, num_steps=steps, block=steps)
            bases[way.dim] = jax.tree.map(lambda x: x[0], found.params["model"])
        learner, judged, tx = warm.build(way, mine, bases[way.dim])
        steps = min(way.steps, config.max_steps)
        sample, block = warm.sampler(way.num_tasks, way.rows), warm.block(steps)
        found = fit(name, learner, tx, sample, num_steps=steps, block=block, seeds=config.seeds)
        scenario = f"{dataset} {metaemb_report.SCENARIO}"
        shown = way.published is not None and not config.dataset
        values = warm.judged(mine, judged, found.params)
        yield (
            name,
            {records.Key(scenario, name, *which): value for which, value in values.items()},
            {
                "steps": steps,
                "published_steps": way.steps,
                "history": found.history,
                "seconds": time.perf_counter() - began,
                "data": dataset,
                "metric": "auc",
                "given": way.given,
                "differs": way.differs,
                "published": {scenario: way.published} if shown else {},
                "scenarios": [scenario],
                "opened": opened,
            },
        )


def chosen(config: Config) -> list[str]:
    """The names of the rows to run, in the order of the table.

    Raises:
      UserError: none has such a name.
    """
    names = [*ROWS, *as_published_warm.WAYS]
    words = [word.lower() for word in config.rows]
    wanted = [n for n in names if not words or any(word in n.lower() for word in words)]
    if not wanted:
        raise UserError(f"no such learner: --rows {' '.join(config.rows)}; there are {names}")
    return wanted


def kept(config: Config, names: list[str]) -> dict[str, records.Record]:
    """The finished rows of the folder that were made with these settings, by name."""
    same, found = settled(config), {}
    for name in names:
        path = records.path_of(journal.slug(name), folder_of(config) / "rows")
        if path.is_file():
            row = records.read(path)
            found |= {name: row} if row.config_hash == same else {}
    return found


def settled(config: Config) -> str:
    """The digest of the settings but for which rows are wanted."""
    return records.config_hash(dataclasses.replace(config, rows=()))


def make(config: Config, names: list[str]) -> None:
    """Makes the rows, and keeps each in the folder."""
    parts: dict[tuple[str, tables.Design] | None, list[str]] = {}
    for name in names:
        part = (ROWS[name].dataset, ROWS[name].design) if name in ROWS else None
        parts.setdefault(part, []).append(name)
    for part, mine in parts.items():
        made = of_users(*part, mine, config) if part else of_items(mine, config)
        for name, scores, facts in made:
            arm = records.Arm(name, records.PUBLISHED, history=facts.pop("history"))
            opened = (facts.pop("opened"),)
            row = records.made(NAME, config, [arm], scores, opened=opened, extra=facts)
            row = dataclasses.replace(row, config_hash=settled(config))
            records.write(folder_of(config) / "rows", journal.slug(name), row)


def main(config: Config) -> records.Record:
    """The record of the rows in the folder, made or read, and the table printed."""
    if config.output.from_records:
        record = records.stored(NAME)
        as_published_report.show(record)
        return record
    wanted, everything = chosen(config), chosen(dataclasses.replace(config, rows=()))
    done = kept(config, everything)
    make(config, [name for name in wanted if name not in done])
    rows = kept(config, everything)
    settings = dataclasses.replace(config, rows=())
    record = records.made(
        NAME,
        settings,
        [row.arms[0] for row in rows.values()],
        {k: v for row in rows.values() for k, v in row.scores.items()},
        seconds={"total": sum(row.extra["seconds"] for row in rows.values())},
        opened=tuple(dict.fromkeys(line for row in rows.values() for line in row.opened)),
        peak_memory=journal.peak_memory(),
        extra={"rows": {name: row.extra for name, row in rows.items()}},
    )
    path = records.write(folder_of(config), NAME, record, config.output.publish)
    as_published_report.plot(record, folder_of(config) / "as_published.png")
    journal.write_checksums(folder_of(config))
    as_published_report.show(record)
    print(f"record {path}\nplot   {config.output.folder('as_published') / 'as_published.png'}")
    return record
