"""Every data set under one protocol: item mean, bias and fold-in, in closed form.

What can be had without meta-training, where users and items are new. There are four quadrants, as
in MeLU (warm, user-cold, item-cold, both-cold), with its published cold users and items where a
data set has them. Logs too thin for 10 query rows get 5 or 2; those without enough tasks in each
quadrant are cut by user alone. Measures are RMSE, nDCG@5 of the query rows, MAE and, for at most
500 tasks, nDCG@10 of the full catalogue (in item-cold tasks, of the cold items). The proper scores
are of an ordinal link that is fitted to each arm on meta-validation; of an implicit log, whose
labels are 0 and 1, its log-loss is that of the probability of an event, its CRPS the Brier score,
and its calibrated MAE the share of wrong guesses.

Run: python -m experiments datasets
Published: none under this protocol.
Deviates: an implicit log gets one random item of label 0 for each event, met or not.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax import benchmark, losses
from metajax.benchmark import belief
from metajax.benchmark.baselines import A0, A1, A2, closed_form_arm
from metajax.benchmark.problem import Problem, freeze, problem_of
from metajax.data import episodes, split
from metajax.data.sources import named
from metajax.data.table import Interactions
from metajax.evaluation import catalogue as ranking
from metajax.evaluation import ordinal, protocols
from metajax.evaluation.judge import judge
from metajax.results import intervals, records, tables
from metajax.settings import Output, Presets
from metajax.training import progress
from metajax.types import Episode, MetaLearner, UserError

CUTS = ((10, 13), (5, 8), (2, 4))  # query rows, fewest rows of a task
FEWEST_TASKS = 30
MOST_RANKED = 500  # tasks of a scenario whose full catalogue is ranked, drawn at random
DRAWS = 2000  # of the bootstrap of a cell
ARMS = (A0, A1, A2)
JOINT = "arms"
FIXED = 1e6  # a prior precision that no support can move


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    dataset: tuple[str, ...] = tuple(named.READERS)
    """The data sets, by name or path."""
    data_dir: pathlib.Path | None = None
    """Folder of the named data sets; by default METAJAX_DATA, else ./data."""
    split_seed: int = 0
    """Seed of every split."""

    PRESETS: ClassVar[Presets] = {"quick": {"dataset": ("ml-100k",)}}


def with_negatives(table: Interactions, seed: int = 0) -> Interactions:
    """An implicit log with one more row per event: a random item of label 0.

    Drawn uniformly over items, whether the user ever meets them or not; a repeated draw is left
    out. Draws that stayed clear of what a user met would tell, by what is missing among them, what
    the user is going to be asked: a model that learns from them would know something of the test.
    """
    rng = np.random.default_rng([seed, 7])
    item = rng.integers(0, table.num_items, len(table), dtype=np.int32)
    pair = table.user.astype(np.int64) * table.num_items + item
    fresh = np.isin(np.arange(len(item)), np.unique(pair, return_index=True)[1])
    both = lambda a, b: np.concatenate([a, b[fresh]])
    return dataclasses.replace(
        table,
        user=both(table.user, table.user),
        item=both(table.item, item),
        label=both(table.label, np.zeros(len(table), np.float32)),
        time=None if table.time is None else both(table.time, table.time),
        state=None,
    )


def cut(table: Interactions, seed: int) -> tuple[split.Split, int]:
    """The richest split with at least 30 tasks in every part, and the fewest rows of a task.

    Quadrants where there are enough tasks, else users alone.

    Raises:
      UserError: the log is too small for any.
    """
    for rule in (split.melu, split.user_disjoint):
        for num_query, min_rows in CUTS:
            try:
                parts = rule(table, seed, min_rows=min_rows, num_query=num_query)
            except UserError:
                continue
            tasks = [*parts.valid.values(), *parts.test.values()]
            if min(t.num_tasks for t in tasks) >= FEWEST_TASKS:
                return parts, min_rows
    raise UserError(f"{table.name}: no split has {FEWEST_TASKS} tasks; give a larger log")


def closed_form(problem: Problem) -> tuple[MetaLearner, dict[str, Any], dict[str, Any]]:
    """One ridge learner that is all three arms: its parameters (3, ...), by arm, and its settings.

    The item mean is fold-in with weights that cannot move, the bias one whose constant can.
    """
    learner, grid = benchmark.fold_in_learner(problem)
    bias = {"damping": [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0], "penalty": [FIXED]}
    tuned = {
        A1: closed_form_arm(learner, problem, bias),
        A2: closed_form_arm(learner, problem, grid),
    }
    fixed = jnp.full_like(tuned[A1].params["log_precision"], np.log(FIXED))
    item_mean = {**tuned[A1].params, "log_precision": fixed}
    stacked = [item_mean, tuned[A1].params, tuned[A2].params]
    params = jax.tree.map(lambda *x: jnp.concatenate(x), *stacked)
    return learner, params, {arm: trained.settings for arm, trained in tuned.items()}


def run(name: str, config: Config) -> tuple[dict[records.Key, np.ndarray], dict]:
    """Per-task scores of one data set, and the facts about it."""
    began, cpu_began = time.perf_counter(), time.process_time()
    table = named.load(name, config.data_dir)
    implicit = bool(np.ptp(table.label) == 0)
    checksum = table.checksum()
    table = with_negatives(table) if implicit else table
    parts, min_rows = cut(table, config.split_seed)
    problem = problem_of(table, parts, error=losses.absolute_error)
    learner, params, settings = closed_form(problem)
    levels = belief.levels_of(problem)
    links = {} if levels is None else belief.links_of({JOINT: (learner, params)}, problem, levels)
    source, opened = problem.open_test(freeze(config, settings), "datasets")
    scores = judged(learner, params, source, opened, links)
    known = np.unique(table.item[parts.train_rows])
    catalogue = {"user_cold": known, "item_cold": np.setdiff1d(np.unique(table.item), known)}
    catalogue = {k: v for k, v in catalogue.items() if k in opened}
    threshold = protocols.middle(table)
    for scenario, candidates in catalogue.items():
        some = drawn(opened[scenario], config.split_seed)
        found = ranked(learner, params, source, some, candidates, threshold)
        for arm, metric in itertools.product(range(len(ARMS)), found):
            name_of = records.Key(scenario, ARMS[arm], "full", metric)
            scores[name_of] = np.asarray(found[metric][arm])[None]
    facts = {
        "name": table.name,
        "checksum": checksum,
        "implicit": implicit,
        "interactions": len(table),
        "protocol": parts.protocol,
        "split": parts.checksum(),
        "num_query": parts.num_query,
        "min_rows": min_rows,
        "tasks": {k: t.num_tasks for k, t in parts.test.items()},
        "candidates": {k: len(v) for k, v in catalogue.items()},
        "settings": settings,
        "opened": problem.opened[-1],
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        **belief.facts(levels, table.label[parts.train_rows], problem.unit),
    }
    return scores, facts


def drawn(tasks: Episode, seed: int) -> Episode:
    """At most `MOST_RANKED` of the tasks, at random."""
    order = np.random.default_rng([seed, 8]).permutation(len(tasks.query.label))
    return jax.tree.map(lambda x: x[np.sort(order[:MOST_RANKED])], tasks)


def judged(
    learner: MetaLearner,
    params: Any,
    source: Any,
    opened: dict[str, Episode],
    links: dict[str, ordinal.Link],
) -> dict[records.Key, np.ndarray]:
    """Per-task scores (1, T) of the arms, as they are and under the controls.

    The arms are one learner with parameters of their own, and are judged as if they were seeds; so
    are their links, under the name `JOINT`.
    """
    given = {"fetch": episodes.fetch, "source": source, "main": "mae", "links": links}
    found = judge({JOINT: (learner, params)}, opened, **given)
    return {
        key._replace(arm=arm): values[i][None]
        for key, values in found.items()
        for i, arm in enumerate(ARMS)
    }


def ranked(
    learner: MetaLearner,
    params: Any,
    source: Any,
    tasks: Episode,
    candidates: np.ndarray,
    threshold: float,
) -> dict[str, jax.Array]:
    """Metrics (arms, T) of ranking all candidates, k = 10."""

    @jax.jit
    def judge(params: Any, source: Any, tasks: Episode) -> dict[str, jax.Array]:
        of = lambda arm: ranking.full(
            learner, arm, source, tasks, jax.random.key(3), candidates, threshold=threshold
        )
        return jax.lax.map(of, params)

    return judge(params, source, tasks)


def show(record: records.Record) -> None:
    """Prints errors and short lists by quadrant, and the full catalogue."""
    sets = record.extra["datasets"]
    stored = {key.metric for key in record.scores}
    believed = [metric for metric in tables.CALIBRATED if metric in stored]
    for title, condition, metric in (
        ("RMSE, and what shuffled support labels add to the MSE (N1)", "all", "mse"),
        ("nDCG@5 of the query rows", "all", "ndcg@5"),
        ("MAE", "all", "mae"),
        *((tables.heading(metric), "all", metric) for metric in believed),
        ("full catalogue: nDCG@10", "full", "ndcg@10"),
    ):
        headings = ["data set", "scenario", *ARMS] + ["N1 gap of fold-in"] * (metric == "mse")
        rows, sections = [], []
        for name, about in sets.items():
            sections.append(len(rows))
            rows += _rows(record, name, about, condition, metric)
        notes = told_of(record) if metric == "crps" else ()
        tables.terminal(tables.Grid(title, headings, rows, 2, notes, sections))
    total, cpu = (sum(about[k] for about in sets.values()) for k in ("seconds", "cpu_seconds"))
    print(
        "Mean over users with its 95 % interval. 'query' is the number of query rows per task; "
        f"implicit logs have sampled negatives. {total:.0f} s in all, {cpu:.0f} s on a core."
    )


def told_of(record: records.Record) -> list[str]:
    """What is said of the distributions: over how many ratings, for each data set."""
    sets = record.extra["datasets"]
    scales = {name: about["ordinal"] for name, about in sets.items() if "ordinal" in about}
    levels = ", ".join(f"{name} {told['levels']}" for name, told in scales.items())
    even = ", ".join(name for name, told in scales.items() if told["even"])
    told = f"Of continuous ratings, evenly spaced levels stand for them: {even}."
    lines = tables.of_the_link(record, f"the ratings of each data set ({levels})")
    return [*lines, *[told] * bool(even)]


def _rows(
    record: records.Record, name: str, about: dict, condition: str, metric: str
) -> Iterator[list[str]]:
    for scenario, count in about["tasks"].items():
        if records.Key(f"{name} {scenario}", ARMS[0], condition, metric) not in record.scores:
            continue
        of = lambda arm, c=condition, s=scenario: record.of(f"{name} {s}", arm, c, metric)
        if metric == "ndcg@5" and min(np.nanmin(of(arm)) for arm in ARMS) < 0:
            continue  # the gain 2^label - 1 needs labels of at least 0
        cells = []
        for arm in ARMS:
            found = intervals.mean_interval(intervals.mean_of_seeds(of(arm)), draws=DRAWS)
            cells.append(tables.with_interval(records.rooted(found, metric)))
        if metric == "mse":
            by_user = [intervals.mean_of_seeds(x) for x in (of(A2, "shuffled"), of(A2))]
            gap = intervals.paired_bootstrap(*by_user, draws=DRAWS)
            cells.append(tables.signed(gap))
        size = str(count)
        if condition == "full":
            size = f"{min(count, MOST_RANKED)} x {about['candidates'][scenario]}"
        kind = f"{name}{' (implicit)' if about['implicit'] else ''}, query {about['num_query']}"
        yield [kind, f"{scenario.replace('_', '-')} ({size})", *cells]


def main(config: Config) -> None:
    """Runs every data set, writes the record and prints the tables."""
    if config.output.from_records:
        show(records.stored("datasets"))
        return
    scores, about = {}, {}
    for dataset in config.dataset:
        name = named.short_name(dataset)
        found, about[name] = run(dataset, config)
        of = lambda key, name=name: key._replace(scenario=f"{name} {key.scenario}")
        scores |= {of(key): values for key, values in found.items()}
        progress.say(f"{name}: {about[name]['seconds']:.0f} s")
    arms = records.arms_of(ARMS, roles=records.BASELINE)
    opened = tuple(told.pop("opened") for told in about.values())
    record = records.made(
        "datasets", config, arms, scores, opened=opened, extra={"datasets": about}
    )
    path = records.write(
        config.output.folder("datasets"), "datasets", record, config.output.publish
    )
    show(record)
    print(f"record {path}")


if __name__ == "__main__":
    benchmark.cli(main, Config, stopped=benchmark.FROM_START)
