"""Evaluation of a learner on many tasks: cold, warm, at several numbers of shots, in a stream.

Tasks are any batch, leaves (T, ...), of which ``fetch`` makes each into an episode: stored indices
whose columns are looked up (`metajax.data.episodes.fetch_from`), keys to draw episodes from, or
episodes themselves. They are evaluated ``batch_size`` at a time, so that memory does not grow
with T. Every function here is pure: jit it, vmap it over parameters.

An *alteration* is a pure function ``(key, episode) -> episode`` on one task that changes its
support before the learner adapts: fewer shots, shuffled labels. The query is never altered, and its
labels never reach the learner.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.evaluation import metrics, ordinal
from metajax.types import Episode, MetaLearner, Params, PyTree

Alteration = Callable[[jax.Array, Episode], Episode]
Fetch = Callable[[Any], Episode]
"""One task of a batch -> its episode."""
Measure = Callable[[PyTree, Episode], Any]
"""(state after adapting, the episode) -> what is to be known of the task, a pytree of arrays."""
Metrics = Callable[[jax.Array, Episode, jax.Array], dict[str, jax.Array]]
"""(scores (T, Q), episodes, key) -> metric -> values (T,) per task."""

SHOTS = (0, 1, 3, 5, 10, 20)


def as_it_is(task: Any) -> Episode:
    """The task itself: the default ``fetch``, for tasks that are episodes."""
    return task


def unaltered(key: jax.Array, episode: Episode) -> Episode:
    """The episode itself: the default alteration."""
    del key
    return episode


def first_shots(shots: int | jax.Array) -> Alteration:
    """An alteration that keeps the first ``shots`` () support rows; 0 is the cold start (N0)."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        mask = episode.support.mask
        kept = mask * (jnp.cumsum(mask) <= shots)
        return episode._replace(support=episode.support._replace(mask=kept))

    return alter


def when(condition: jax.Array, alter: Alteration) -> Alteration:
    """The alteration if the scalar condition holds, else no alteration.

    The condition may be a traced value, so that several controls share one compiled program.
    """
    return lambda key, episode: tree.where(condition, alter(key, episode), episode)


def shuffled_labels(key: jax.Array, episode: Episode) -> Episode:
    """Permutes the labels among the real support rows (control N1).

    A learner that gains as much from shuffled labels as from true ones has learned at most the
    user's mean rating, not which items the user prefers.
    """
    support = episode.support
    real = support.mask > 0
    place = jnp.argsort(~real, stable=True)
    draw = jnp.argsort(jnp.where(real, jax.random.uniform(key, real.shape), jnp.inf))
    label = support.label.at[place].set(support.label[draw])
    return episode._replace(support=support._replace(label=label))


def after_adapting(
    learner: MetaLearner,
    params: Params,
    tasks: Any,
    key: jax.Array,
    measure: Measure,
    *,
    fetch: Fetch = as_it_is,
    alter: Alteration = unaltered,
    batch_size: int | None = 128,
) -> Any:
    """The result of ``measure`` for each task after one ``adapt`` to its support; leaves (T, ...).

    Args:
      params: of one seed.
      tasks: leaves (T, ...).
      key: for the alterations and the learner.
      measure: see `Measure`; it may compute anything from the adapted state: scores, ranks in a
        catalogue, items found by a search. It gets the episode with its support altered.
      fetch: one task -> its episode.
      alter: changes the support before the learner adapts.
      batch_size: tasks at a time; None for one after the other, if a batch does not fit in memory
        or is slower.
    """

    def one(given: tuple[Any, jax.Array]) -> Any:
        task, key = given
        key_alter, key_adapt = jax.random.split(key)
        episode = fetch(task)
        episode = alter(key_alter, episode)._replace(query=episode.query)
        state = learner.start(params, episode.profile)
        return measure(learner.adapt(params, state, episode.support, key_adapt), episode)

    return _mapped(one, tasks, key, batch_size)


def while_adapting(
    learner: MetaLearner,
    params: Params,
    tasks: Any,
    key: jax.Array,
    measure: Measure,
    num_steps: int,
    *,
    fetch: Fetch = as_it_is,
    batch_size: int | None = 128,
) -> Any:
    """The results of ``measure`` for each task after 0, 1, ... ``num_steps`` calls of ``adapt``.

    Each call is on the same support: a learner whose ``adapt`` is one gradient step is measured
    after every step. Arguments are those of `after_adapting`.

    Returns:
      Leaves (T, num_steps + 1, ...).
    """

    def one(given: tuple[Any, jax.Array]) -> Any:
        task, key = given
        episode = fetch(task)

        def step(state: PyTree, key: jax.Array) -> tuple[PyTree, Any]:
            return learner.adapt(params, state, episode.support, key), measure(state, episode)

        cold = learner.start(params, episode.profile)
        return jax.lax.scan(step, cold, jax.random.split(key, num_steps + 1))[1]

    return _mapped(one, tasks, key, batch_size)


def _mapped(
    one: Callable[[tuple[Any, jax.Array]], Any], tasks: Any, key: jax.Array, batch_size: int | None
) -> Any:
    """The function of (task, key) over all tasks, so many at a time."""
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    keys = jax.random.split(key, num_tasks)
    at_once = None if batch_size is None else min(batch_size, num_tasks)
    return jax.lax.map(one, (tasks, keys), batch_size=at_once)


def predictions(
    learner: MetaLearner,
    params: Params,
    tasks: Any,
    key: jax.Array,
    *,
    fetch: Fetch = as_it_is,
    alter: Alteration = unaltered,
    batch_size: int | None = 128,
) -> jax.Array:
    """Scores (T, Q) of the query rows of each task after one ``adapt`` to its support.

    Arguments are those of `after_adapting`.
    """

    def measure(state: PyTree, episode: Episode) -> jax.Array:
        return learner.predict(params, state, episode.query.inputs)

    options = {"fetch": fetch, "alter": alter, "batch_size": batch_size}
    return after_adapting(learner, params, tasks, key, measure, **options)


def rating_metrics(
    scores: jax.Array, episodes: Episode, key: jax.Array, link: ordinal.Link | None = None
) -> dict[str, jax.Array]:
    """Per-task metrics (T,) of predicted ratings (T, Q): ``mae``, ``mse``, ``ndcg@5``.

    In units of the labels: stars, and stars squared. The RMSE of a table is the root of the mean of
    ``mse`` over tasks. nDCG grades the labels of all tasks on one scale. With the link that was
    fitted to an arm's scores on meta-validation, the metrics `ordinal.PROPER`, too.
    """
    query = episodes.query
    real = query.mask > 0
    scale = (
        jnp.min(jnp.where(real, query.label, jnp.inf)),
        jnp.max(jnp.where(real, query.label, -jnp.inf)),
    )
    keys = jax.random.split(key, scores.shape[0])
    args = (scores, query.label, query.mask)
    of_scores = {
        "mae": jax.vmap(metrics.mae)(*args),
        "mse": jax.vmap(metrics.rmse)(*args) ** 2,
        "ndcg@5": jax.vmap(functools.partial(metrics.ndcg, k=5, scale=scale))(*args, keys),
    }
    return of_scores if link is None else of_scores | ordinal.proper(link, scores, episodes, key)


def event_metrics(low: float) -> Metrics:
    """Metrics of the ranking of events among sampled items, per task (T,): ``auc``, ``ndcg@10``.

    Args:
      low: the label of items without an event.
    """

    def judge(scores: jax.Array, episodes: Episode, key: jax.Array) -> dict[str, jax.Array]:
        query = episodes.query
        keys = jax.random.split(key, scores.shape[0])
        met = (query.label > low) * 1.0
        return {
            "auc": jax.vmap(metrics.auc)(scores, met, query.mask),
            "ndcg@10": jax.vmap(functools.partial(metrics.ndcg, k=10))(
                scores, met, query.mask, keys
            ),
        }

    return judge


def k_shot(
    learner: MetaLearner,
    params: Params,
    tasks: Episode,
    key: jax.Array,
    shots: Sequence[int] = SHOTS,
    judge: Metrics = rating_metrics,
    *,
    fetch: Fetch = as_it_is,
) -> dict[str, jax.Array]:
    """Per-task metrics (K, T) after the first 0, 1, 3 ... support rows: curves, or warm-up phases.

    Args:
      tasks: stored episodes, whose query labels ``judge`` reads.
      shots: the K numbers of support rows.
      judge: (scores (T, Q), tasks, key) -> metric -> (T,).
      fetch: one task -> its episode.
    """
    key_predict, key_ties = jax.random.split(key)

    def at(shots: jax.Array) -> dict[str, jax.Array]:
        alter = first_shots(shots)
        scores = predictions(learner, params, tasks, key_predict, fetch=fetch, alter=alter)
        return judge(scores, tasks, key_ties)

    return jax.lax.map(at, jnp.asarray(shots))


def prequential(
    learner: MetaLearner,
    params: Params,
    tasks: Any,
    key: jax.Array,
    *,
    fetch: Fetch = as_it_is,
    alter: Alteration = unaltered,
    batch_size: int | None = 128,
) -> jax.Array:
    """Scores (T, Q) of query rows in a stream: each row is predicted first and then adapted on.

    Row j is scored after adapting on the support and on rows 0..j-1, one after the other. Padded
    rows get a score but are not adapted on. Arguments are those of `after_adapting`.

    References: Gama et al., "On evaluating stream learning algorithms", 2013.
    """

    def one(given: tuple[Any, jax.Array]) -> jax.Array:
        task, key = given
        key_alter, key_support, key_stream = jax.random.split(key, 3)
        episode = fetch(task)
        episode = alter(key_alter, episode)._replace(query=episode.query)
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, episode.support, key_support)

        def step(state, row):
            example, key = row
            example = jax.tree.map(lambda x: x[None], example)
            score = learner.predict(params, state, example.inputs)[0]
            return learner.adapt(params, state, example, key), score

        keys = jax.random.split(key_stream, episode.query.label.shape[0])
        return jax.lax.scan(step, state, (episode.query, keys))[1]

    return _mapped(one, tasks, key, batch_size)
