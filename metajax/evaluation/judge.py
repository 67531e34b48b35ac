"""Evaluation of all arms of a table: per-task scores in every scenario under every condition.

A scenario is a batch of stored episodes. Each is evaluated as it is, at several numbers of shots if
a curve is asked for, and under four controls of whether a learner learns from the support at all:

- N0, no support: the prediction for a task before any interaction;
- N1, shuffled labels: a learner that gains as much from them knows at most the mean of a task's
  labels, and no preferences;
- N2, another task's support: the gain from any support at all;
- N3, a fresh random initialization: the gain from meta-training.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.evaluation import evaluate, ordinal
from metajax.evaluation.evaluate import Fetch, Metrics
from metajax.results.schema import ALL, N0, N1, N2, N3, Key
from metajax.types import Episode, MetaLearner, Params

Predict = Callable[..., jax.Array]
"""`evaluate.predictions`, or `evaluate.prequential` for streams."""
Scorer = Callable[[Any, Episode, jax.Array], jax.Array | np.ndarray]
"""(source, tasks (T, ...), key) -> scores (S, T, Q): an arm that is no learner."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """An arm whose scores are made of those of other arms, which the judge may have already.

    Attributes:
      scorers: name of an arm -> what gives its scores.
      mixed: (source, tasks (T, ...), the scores of these arms, each (S, T, Q)) -> scores (S, T, Q).
    """

    scorers: Mapping[str, Scorer]
    mixed: Callable[[Any, Episode, Sequence[np.ndarray]], np.ndarray]

    def __call__(self, source: Any, tasks: Episode, key: jax.Array) -> np.ndarray:
        """The scores (S, T, Q) where those of the other arms are not there yet."""
        each = [np.asarray(run(source, tasks, key)) for run in self.scorers.values()]
        return self.mixed(source, tasks, each)


Judged = tuple[MetaLearner, Params] | Scorer
"""A learner with its parameters, leaves (S, ...) of S seeds; or what gives scores itself."""


def others_support(key: jax.Array, episodes: Episode) -> Episode:
    """The tasks (T, ...), each with the support of a random other task (control N2).

    The tasks are put in a random circle and each takes its neighbor's support, so that none keeps
    its own, unless there is only one task.
    """
    circle = jax.random.permutation(key, episodes.query.label.shape[0])
    donor = jnp.zeros_like(circle).at[circle].set(jnp.roll(circle, 1))
    return episodes._replace(
        support=jax.tree.map(lambda x: jnp.asarray(x)[donor], episodes.support)
    )


@jax.jit
def together(batches: Sequence[Episode]) -> Episode:
    """The batches of tasks concatenated, all padded to the widest of them."""
    width = lambda part: max(getattr(b, part).label.shape[1] for b in batches)
    support, query = width("support"), width("query")

    def padded(x: Any, size: int) -> jax.Array:
        x = jnp.asarray(x)
        return jnp.pad(x, [(0, 0), (0, size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

    wide = [
        b._replace(
            support=jax.tree.map(lambda x: padded(x, support), b.support),
            query=jax.tree.map(lambda x: padded(x, query), b.query),
        )
        for b in batches
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *wide)


def conditions(
    scenarios: Mapping[str, Episode], curves: Collection[str], key: jax.Array
) -> dict[tuple[str, str], Episode]:
    """(scenario, condition) -> tasks, for all conditions but N3, which changes the parameters.

    Args:
      scenarios: name -> stored tasks, leaves (T, ...).
      curves: the scenarios that are judged at each of `evaluate.SHOTS` below their longest support.
      key: for shuffled labels and exchanged supports.
    """
    found: dict[tuple[str, str], Episode] = {}
    cut = lambda tasks, k: jax.vmap(partial(evaluate.first_shots(k), key))(tasks)
    for scenario, tasks in scenarios.items():
        found[scenario, ALL] = tasks
    for i, (scenario, tasks) in enumerate(scenarios.items()):
        keys = jax.random.split(jax.random.fold_in(key, i), tasks.query.label.shape[0])
        found[scenario, N1] = jax.vmap(evaluate.shuffled_labels)(keys, tasks)
    for scenario in curves:
        tasks = scenarios[scenario]
        for k in evaluate.SHOTS:
            if k < tasks.support.mask.shape[1]:
                found[scenario, f"k={k}"] = cut(tasks, k)
    for i, (scenario, tasks) in enumerate(scenarios.items()):
        found[scenario, N0] = cut(tasks, 0)
        found[scenario, N2] = others_support(jax.random.fold_in(key, 1000 + i), tasks)
    return found


def judge(
    arms: Mapping[str, Judged],
    scenarios: Mapping[str, Episode],
    *,
    fetch: Fetch = evaluate.as_it_is,
    source: Any = None,
    metrics: Metrics = evaluate.rating_metrics,
    curves: Collection[str] = (),
    main: str = "",
    predict: Predict = evaluate.predictions,
    links: Mapping[str, ordinal.Link] | None = None,
    report: Callable[[int], Any] | None = None,
) -> dict[Key, np.ndarray]:
    """Per-task scores (S, T) of every arm, scenario, condition and metric.

    Conditions are "all" of the support, "k=0", "k=1" ... of a curve and the controls N0 to N3, one
    compiled program per arm. An arm that gives scores itself, without a learner, has no N3.

    Args:
      arms: name -> `Judged`.
      scenarios: name -> stored tasks, leaves (T, ...), with the query labels that metrics compare.
      fetch: one task -> its episode, see `evaluate`; with a ``source``, (task, source) -> episode.
      source: large arrays that ``fetch`` reads; they become an argument of the program.
      metrics: (scores (T, Q), tasks, key) -> metric -> (T,).
      curves: the scenarios for which a k-shot curve is computed.
      main: for the controls N0, N2 and N3 only this metric is kept; empty keeps all.
      predict: computes the scores, see `evaluate.predictions`.
      links: arm -> the ordinal link of its seeds, leaves (S, ...); tasks as they are ("all") are
        judged by its distribution too, see `ordinal.PROPER`.
      report: called with the number of arms that are done.
    """
    key_alter, key_predict, key_ties = jax.random.split(jax.random.key(2), 3)
    tasks, counts = _laid_out(scenarios, curves, key_alter)
    size = sum(_count(t) for t in scenarios.values())
    first = _rows(tasks, np.arange(size))  # all scenarios, as they are
    fetched = jax.jit(lambda source, task: _fetcher(fetch, source)(task))
    example = fetched(source, _rows(first, np.array(0)))
    rate = jax.jit(jax.vmap(metrics, (0, None, None)))
    whole, untrained = ({(s, c): _count(t) for s, t in scenarios.items()} for c in (ALL, N3))
    scores, ready = dict[Key, np.ndarray](), dict[str, np.ndarray]()
    parts = {part for a in arms.values() if isinstance(a, Mixture) for part in a.scorers}
    for i, (arm, judged) in enumerate(arms.items()):
        fresh = None
        if isinstance(judged, Mixture) and judged.scorers.keys() <= ready.keys():
            predicted = jnp.asarray(judged.mixed(source, tasks, [ready[p] for p in judged.scorers]))
        else:
            run, fresh = _programs(judged, predict, fetch, source, example)
            predicted = _in_parts(run, tasks, size, key_predict)
        if arm in parts:
            ready[arm] = np.asarray(predicted)
        scores |= _split(arm, counts, rate(predicted, tasks, key_ties), main)
        if links and arm in links:
            proper = believed(links[arm], predicted[:, :size], first, key_ties)
            scores |= _split(arm, whole, proper, main)
        if fresh is not None:
            found = rate(_in_parts(fresh, first, size, key_predict), first, key_ties)
            scores |= _split(arm, untrained, found, main)
        if report:
            report(i + 1)
    return scores


def _laid_out(
    scenarios: Mapping[str, Episode], curves: Collection[str], key: jax.Array
) -> tuple[Episode, dict[tuple[str, str], int]]:
    """The tasks of all `conditions`, concatenated, and how many there are of each, in order."""
    ordered = collections.OrderedDict(scenarios)  # `jit` would sort a dict by its keys
    lay = lambda tasks, key: collections.OrderedDict(conditions(tasks, curves, key))
    found = jax.jit(lay)(ordered, key)
    return together([*found.values()]), {place: _count(t) for place, t in found.items()}


_rows = jax.jit(lambda tasks, rows: jax.tree.map(lambda x: x[rows], tasks))
"""Rows of every leaf, in one program."""


def _split(
    arm: str, places: Mapping[tuple[str, str], int], found: Mapping[str, Any], main: str
) -> dict[Key, np.ndarray]:
    """Metric -> values (S, T) of all places, divided by scenario and condition."""
    scores = {}
    for metric, values in found.items():
        parts = np.split(np.asarray(values), np.cumsum([*places.values()])[:-1], axis=1)
        for (scenario, condition), part in zip(places, parts, strict=True):
            if main in ("", metric) or condition not in (N0, N2, N3):
                scores[Key(scenario, arm, condition, metric)] = part
    return scores


Run = Callable[[Episode, jax.Array], jax.Array]


def _programs(
    judged: Judged, predict: Predict, fetch: Callable[..., Episode], source: Any, example: Episode
) -> tuple[Run, Run | None]:
    """What scores tasks (S, T, Q): the arm, and its learner at fresh random parameters."""
    if not isinstance(judged, tuple):
        return lambda tasks, key: jnp.asarray(judged(source, tasks, key)), None
    learner, params = judged
    run = jax.jit(partial(_of_seeds, predict, learner, fetch))
    keys = jax.random.split(jax.random.key(3), _num_seeds(params))
    fresh = jax.jit(jax.vmap(learner.init, (0, None)))(keys, example)
    return partial(run, params, source), partial(run, fresh, source)


@jax.jit
def believed(
    links: ordinal.Link, scores: jax.Array, tasks: Episode, key: jax.Array
) -> dict[str, jax.Array]:
    """The `ordinal.PROPER` metrics (S, T) of scores (S, T, Q), one seed after the other.

    Args:
      links: of the S seeds, see `links_of`.
      tasks: (T, ...), whose query labels and masks are read.
    """
    of_seed = lambda given: ordinal.proper(given[0], given[1], tasks, key)
    return jax.lax.map(of_seed, (links, scores))


def scorer(
    judged: Judged,
    *,
    fetch: Callable[..., Episode] = evaluate.as_it_is,
    predict: Predict = evaluate.predictions,
) -> Scorer:
    """An arm as a function (source, tasks, key) -> scores (S, T, Q), compiled once per shape."""
    if not isinstance(judged, tuple):
        return judged
    learner, params = judged
    run = jax.jit(partial(_of_seeds, predict, learner, fetch))
    return lambda source, tasks, key: run(params, source, tasks, key)


def scored(
    judged: Judged,
    tasks: Episode,
    key: jax.Array,
    *,
    fetch: Callable[..., Episode] = evaluate.as_it_is,
    source: Any = None,
    predict: Predict = evaluate.predictions,
) -> jax.Array:
    """Scores (S, T, Q) of an arm with S seeds for stored tasks; arguments are those of `judge`."""
    return jnp.asarray(scorer(judged, fetch=fetch, predict=predict)(source, tasks, key))


def links_of(
    arms: Mapping[str, Judged],
    tasks: Episode,
    levels: np.ndarray,
    *,
    fetch: Callable[..., Episode] = evaluate.as_it_is,
    source: Any = None,
    predict: Predict = evaluate.predictions,
) -> dict[str, ordinal.Link]:
    """Arm -> the maximum-likelihood link of each of its S seeds, leaves (S, ...).

    Args:
      tasks: of meta-validation, the same for all arms; links are fitted on their query rows.
      levels: (L,) of `ordinal.levels_of`.
      fetch, source, predict: as in `judge`.
    """
    query, ratings = tasks.query, jnp.asarray(levels)
    fit = jax.jit(jax.vmap(lambda score: ordinal.fit(score, query.label, query.mask, ratings)))
    given = {"fetch": fetch, "source": source, "predict": predict}
    return {name: fit(scored(arm, tasks, jax.random.key(4), **given)) for name, arm in arms.items()}


def _num_seeds(params: Params) -> int:
    """S; a learner without parameters is judged once."""
    return next((leaf.shape[0] for leaf in jax.tree.leaves(params)), 1)


def _count(tasks: Episode) -> int:
    return tasks.query.label.shape[0]


def _in_parts(
    run: Callable[[Episode, jax.Array], jax.Array], tasks: Episode, size: int, key: jax.Array
) -> jax.Array:
    """The scores (S, T, Q) of all tasks by a program for ``size`` of them; the last part wraps."""
    found, total = [], _count(tasks)
    for i, begin in enumerate(range(0, total, size)):
        rows = np.arange(begin, begin + size) % total
        found.append(run(_rows(tasks, rows), jax.random.fold_in(key, i)))
    return jnp.concatenate(found, axis=1)[:, :total]


def _fetcher(fetch: Callable[..., Episode], source: Any) -> Fetch:
    return fetch if source is None else partial(fetch, source=source)


def _of_seeds(
    predict: Predict,
    learner: MetaLearner,
    fetch: Callable[..., Episode],
    params: Params,
    source: Any,
    tasks: Episode,
    key: jax.Array,
) -> jax.Array:
    """Scores (S, T, Q) of every seed, one after the other."""
    fetched = _fetcher(fetch, source)
    of_seed = lambda p: predict(learner, p, tasks, key, fetch=fetched)
    return jax.lax.map(of_seed, params) if jax.tree.leaves(params) else of_seed(params)[None]
