"""Adapting a learner to many tasks and measuring it: cold, warm, at every shot, in a stream.

Tasks are any batch that ``fetch`` turns into episodes, one at a time: stored indices whose columns
are looked up (`metajax.data.episodes.fetch_from`), keys that an episode is drawn from, or episodes
as they are. Tasks are mapped in batches, so that memory does not grow with their number. Every
function here is pure: jit it, vmap it over parameters.

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
from metajax.evaluation import metrics
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
    """The task itself, where tasks are episodes: the default ``fetch``."""
    return task


def unaltered(key: jax.Array, episode: Episode) -> Episode:
    """The episode as it is: a warm user."""
    del key
    return episode


def first_shots(shots: int | jax.Array) -> Alteration:
    """Keeps the first ``shots`` support rows; 0 shots are the cold start (control N0)."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        mask = episode.support.mask
        kept = mask * (jnp.cumsum(mask) <= shots)
        return episode._replace(support=episode.support._replace(mask=kept))

    return alter


def when(condition: jax.Array, alter: Alteration) -> Alteration:
    """The alteration where the scalar condition holds, the episode as it is where not.

    The condition may be traced: several controls then share one compiled program.
    """
    return lambda key, episode: tree.where(condition, alter(key, episode), episode)


def shuffled_labels(key: jax.Array, episode: Episode) -> Episode:
    """Permutes the labels among the real support rows (control N1).

    A learner that gains as much from shuffled labels as from true ones has learned the user's mean
    rating at most, and not the user's taste.
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
    """What ``measure`` says of each task after one adaptation to its support; leaves (T, ...).

    Args:
      params: of one seed.
      tasks: leaves (T, ...); one of them is what ``fetch`` is given.
      key: randomness of the alteration and of the learner.
      measure: is given the altered support and the query as they were before. Anything may be
        computed from the adapted state: scores, places in a catalogue, items found by a search.
      batch_size: tasks at a time; None for one after the other, where a batch would not fit in
        memory or would be slower.
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
    """What ``measure`` says of each task after 0, 1, ... ``num_steps`` adaptations to its support.

    The support is the same each time: a learner whose ``adapt`` is one gradient step is measured
    after every step. Arguments are those of `after_adapting`.

    Returns:
      leaves (T, num_steps + 1, ...).
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
    """Scores (T, Q) of the query rows of each task, after adapting to its support.

    Arguments are those of `after_adapting`.
    """

    def measure(state: PyTree, episode: Episode) -> jax.Array:
        return learner.predict(params, state, episode.query.inputs)

    options = {"fetch": fetch, "alter": alter, "batch_size": batch_size}
    return after_adapting(learner, params, tasks, key, measure, **options)


def rating_metrics(scores: jax.Array, episodes: Episode, key: jax.Array) -> dict[str, jax.Array]:
    """Per-task metrics (T,) of rating scores (T, Q): ``mae``, ``mse``, ``ndcg@5``.

    ``mse`` is kept per task so that the RMSE of a table is the root of its mean over tasks. The
    grades of nDCG are those of one scale for all tasks.
    """
    query = episodes.query
    real = query.mask > 0
    scale = (
        jnp.min(jnp.where(real, query.label, jnp.inf)),
        jnp.max(jnp.where(real, query.label, -jnp.inf)),
    )
    keys = jax.random.split(key, scores.shape[0])
    args = (scores, query.label, query.mask)
    return {
        "mae": jax.vmap(metrics.mae)(*args),
        "mse": jax.vmap(metrics.rmse)(*args) ** 2,
        "ndcg@5": jax.vmap(functools.partial(metrics.ndcg, k=5, scale=scale))(*args, keys),
    }


def event_metrics(low: float) -> Metrics:
    """Per-task metrics (T,) of how events stand among other items: ``auc``, ``ndcg@10``.

    Args:
      low: the label of what is no event.
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
    """Scores (T, Q) of a stream: each query row is predicted first, then adapted on.

    Query rows are read in their order; row j is scored by a learner that has adapted on the support
    and on rows 0..j-1, one after the other. Padded rows get a score and teach nothing. Arguments
    are those of `after_adapting`.
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
