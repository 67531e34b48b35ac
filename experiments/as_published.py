"""The field's learners at the settings they were published with: what does their adapting do?

Each learner is trained with the network, rates and batches of its program, for as many epochs (at
most --max-steps outer steps), and its last parameters are judged: nothing is chosen. On the same
test tasks stand the learner adapted, the same with no support (N0), and with the labels of the
support shuffled (N1). Differences are paired by task.

References: of every row in docs/methods; settings from the authors' repositories.
Run: python -m experiments.as_published
Published: the last column; of the same metric, and where drawn rows are unpublished of other rows.
Deviates: the line under the table for each row; nothing is tuned here.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import as_published_report, as_published_warm, metaemb_report, tables
from experiments.as_published_rows import ROWS, Row
from metajax import benchmark, evaluate, journal, losses, progress, report, train
from metajax.command import Preset, cli
from metajax.data.episodes import Source
from metajax.problem import Problem, Run, freeze
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

NAME = "as_published"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    preset: Preset = "paper"
    """Size of the run; other options override it."""
    rows: tuple[str, ...] = ()
    """Only the learners whose name has one of these words."""
    dataset: str = ""
    """Another data set for all rows, such as synthetic; else each its own."""
    data_dir: pathlib.Path | None = None
    """Folder of the data sets; else METAJAX_DATA, else ../shared/data."""
    seeds: int = 1
    """Number of training seeds."""
    max_steps: int = 1500
    """Outer steps of a learner at most; whole epochs are run."""
    out: pathlib.Path = pathlib.Path("out/as_published")
    """Folder of record, plot and checkpoints: the same command goes on from there."""
    publish: bool = False
    """Store the record in paper/results too."""
    from_records: bool = False
    """Print the table of the stored record, without running anything."""


PRESETS: dict[Preset, dict[str, Any]] = {
    "quick": {"dataset": "synthetic", "max_steps": 20},
    "paper": {},
    "gpu": {"seeds": 5, "max_steps": 20_000},
}


def fitted(
    name: str,
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    sample: train.Sampler,
    source: Source,
    config: Config,
    num_steps: int,
    block: int,
) -> train.Fitted:
    """The last parameters (S, ...) after so many steps, from the last checkpoint of the folder."""
    keys = jax.random.split(jax.random.key(1), config.seeds)
    with progress.bar(name, num_steps) as update, journal.opened(config.out, name) as keep:
        return train.fit(
            learner,
            tx,
            sample,
            source,
            keys,
            num_steps,
            block=block,
            report=lambda *now: (update(*now), keep(*now)),
            checkpoint=config.out / "checkpoints" / journal.slug(name),
        )


def schedule(row: Row, given: Problem, most: int) -> tuple[int, int, int]:
    """Outer steps of an epoch, epochs to run, and outer steps as published."""
    per_epoch = row.per_epoch or max(1, len(given.train.tasks.owner) // row.num_tasks)
    return per_epoch, max(1, min(row.epochs, most // per_epoch)), per_epoch * row.epochs


def scores_of(
    learner: MetaLearner,
    params: Params,
    source: Source,
    tasks: Episode,
    metrics: benchmark.Metrics,
) -> dict[str, np.ndarray]:
    """Per-task values (S, T) of a learner by "condition|metric".

    Conditions are ``all`` of the support, none of it (``k=0``), and its labels ``shuffled``.

    The metric ``change`` is the mean absolute change of a prediction caused by adapting.
    """
    alterations = {
        "all": evaluate.unaltered,
        "k=0": evaluate.first_shots(0),
        "shuffled": evaluate.shuffled_labels,
    }
    key, key_ties = jax.random.split(jax.random.key(2))

    def of_seed(params: PyTree) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        scores: dict[str, jax.Array] = {}
        for condition, alter in alterations.items():
            scores[condition] = evaluate.predictions(learner, params, source, tasks, key, alter)
            values = metrics(scores[condition], tasks, key_ties)
            found |= {f"{condition}|{metric}": v for metric, v in values.items()}
        moved = jnp.abs(scores["all"] - scores["k=0"])
        return found | {"all|change": jax.vmap(losses.masked_mean)(moved, tasks.query.mask)}

    return jax.tree.map(np.asarray, jax.jit(lambda p: jax.lax.map(of_seed, p))(params))


def of_part(
    part: tables.Part, names: list[str], config: Config
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Scores of the learners of one data set and protocol, whose test is opened once; and facts."""
    part = part._replace(dataset=config.dataset or part.dataset)
    given = tables.prepared(part, Run(data_dir=config.data_dir, num_support=90))
    ready: dict[str, tuple[Problem, MetaLearner, Params]] = {}
    facts: dict[str, Any] = {}
    for name in names:
        row, began = ROWS[name], time.perf_counter()
        mine = row.prepare(given)
        learner, tx = row.build(mine)
        per_epoch, epochs, published = schedule(row, mine, config.max_steps)
        sample = as_published_warm.sampler(row.num_tasks, (90, mine.split.num_query))
        found = fitted(name, learner, tx, sample, mine.train, config, per_epoch * epochs, per_epoch)
        ready[name] = mine, learner, found.params
        facts[name] = {
            "steps": per_epoch * epochs,
            "published_steps": published,
            "history": found.history,
            "seconds": time.perf_counter() - began,
        }
    ticket = freeze(config, {name: {"steps": facts[name]["steps"]} for name in names})
    _, opened = given.open_test(ticket)
    scores = {}
    for name, (mine, learner, params) in ready.items():
        for scenario, tasks in opened.items():
            values = scores_of(learner, params, mine.valid[0], tasks, tables.metrics_of(part))
            scores |= {
                f"{part.dataset} {scenario}|{name}|{k}": value for k, value in values.items()
            }
        facts[name] |= {
            "data": part.dataset,
            "metric": "mae" if part.kind == "melu" else "ndcg@5",
            "given": ROWS[name].given,
            "differs": ROWS[name].differs,
            "published": {f"{part.dataset} {k}": v for k, v in ROWS[name].published.items()}
            if not config.dataset
            else {},
            "scenarios": [f"{part.dataset} {k}" for k in ROWS[name].published or ["user_cold"]],
            "test": ticket._asdict() | {"times_opened": len(given.opened)},
        }
    return scores, facts


def of_items(names: list[str], config: Config) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Scores of the ways to warm items up, and facts."""
    warm, own = as_published_warm, not config.dataset
    dataset = config.dataset or "ml-1m"
    data = warm.load(dataset, config.data_dir)
    bases: dict[int, Params] = {}
    scores, facts = {}, {}
    for name in names:
        way, began = warm.WAYS[name], time.perf_counter()
        mine = warm.with_base(data, way)
        fit = functools.partial(fitted, source=data.source, config=config)
        if way.dim not in bases:
            steps = min(warm.BASE_STEPS, config.max_steps)
            base = warm.click_model(mine, way.dim)
            sample, tx = warm.sampler(20, (60, 40)), optax.adam(1e-3)
            alone = dataclasses.replace(config, seeds=1)
            found = fit(f"click model {way.dim}", base, tx, sample, num_steps=steps,
                        block=steps, config=alone)  # fmt: skip
            bases[way.dim] = jax.tree.map(lambda x: x[0], found.params["model"])
        learner, judged, tx = warm.build(name, mine, bases[way.dim])
        steps = min(way.steps, config.max_steps)
        sample = warm.sampler(way.num_tasks, way.rows)
        found = fit(name, learner, tx, sample, num_steps=steps, block=_block(steps))
        scenario = f"{dataset} {metaemb_report.SCENARIO}"
        values = warm.judged(mine, judged, found.params)
        scores |= {f"{scenario}|{name}|{k}": value for k, value in values.items()}
        facts[name] = {
            "steps": steps,
            "published_steps": way.steps,
            "history": found.history,
            "seconds": time.perf_counter() - began,
            "data": dataset,
            "metric": "auc",
            "given": way.given,
            "differs": way.differs,
            "published": {scenario: way.published[-1]} if way.published and own else {},
            "scenarios": [scenario],
        }
    return scores, facts


def _block(steps: int) -> int:
    """The longest block of at most 100 steps that divides them."""
    return next(b for b in range(min(100, steps), 0, -1) if steps % b == 0)


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


def main(config: Config) -> report.Record:
    """The record of the rows, made or read, and the table printed."""
    if config.from_records:
        record = report.read(report.RESULTS / f"{NAME}.json")
        as_published_report.show(record)
        return record
    began, names = time.perf_counter(), chosen(config)
    parts: dict[Any, list[str]] = {}
    for name in names:
        parts.setdefault(ROWS[name].part if name in ROWS else None, []).append(name)
    scores: dict[str, np.ndarray] = {}
    rows: dict[str, Any] = {}
    for part, mine in parts.items():
        made: Callable = functools.partial(of_part, part) if part else of_items
        more, facts = made(mine, config)
        scores |= more
        rows |= facts
    facts = {
        "experiment": NAME,
        "arms": names,
        "rows": rows,
        "config": dataclasses.asdict(config),
        "config_hash": report.config_hash(config),
        "environment": report.environment(),
        "seconds": {"total": time.perf_counter() - began},
        "peak_memory": journal.peak_memory(),
    }
    record = report.Record(facts, scores)
    path = report.write(config.out, NAME, record)
    as_published_report.plot(record, config.out / "as_published.png")
    journal.write_checksums(config.out)
    if config.publish:
        report.write(report.RESULTS, NAME, record)
    as_published_report.show(record)
    print(f"record {path}\nplot   {config.out / 'as_published.png'}")
    return record


if __name__ == "__main__":
    cli(main, Config)
