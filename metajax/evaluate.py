"""Judging a learner on stored tasks: cold, warm, at every shot, and under controls.

An *alteration* is a pure function ``(key, episode) -> episode`` on one task that changes its
support before the learner adapts: fewer shots, shuffled labels, someone else's support. The query
is never altered, and its labels never reach the learner.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax import metrics, tree
from metajax.data.episodes import Source, fetch
from metajax.types import Episode, MetaLearner, Params

Alteration = Callable[[jax.Array, Episode], Episode]

SHOTS = (0, 1, 3, 5, 10, 20)


def unaltered(key: jax.Array, episode: Episode) -> Episode:
    """The episode as it is: a warm user."""
    del key
    return episode


def first_shots(shots: int | jax.Array, then: Alteration = unaltered) -> Alteration:
    """Keeps the first ``shots`` support rows, then applies another alteration.

    0 shots are the cold start (control N0).
    """

    def alter(key: jax.Array, episode: Episode) -> Episode:
        mask = episode.support.mask
        kept = mask * (jnp.cumsum(mask) <= shots)
        return then(key, episode._replace(support=episode.support._replace(mask=kept)))

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


def predictions(
    learner: MetaLearner,
    params: Params,
    source: Source,
    episodes: Episode,
    key: jax.Array,
    alter: Alteration = unaltered,
    batch_size: int = 128,
) -> jax.Array:
    """Scores (T, Q) of the query rows of stored tasks, each after adapting on its support.

    Pure: jit it, vmap it over params. Tasks are mapped in batches, so that memory does not grow
    with their number.

    Args:
      episodes: indices from `episodes.fixed`, leaves (T, ...).
      source: the columns that the indices point to.
      key: randomness of the alteration and of the learner.
    """

    def one(task: tuple[Episode, jax.Array]) -> jax.Array:
        index, key = task
        key_alter, key_adapt = jax.random.split(key)
        altered = alter(key_alter, index)._replace(query=index.query)
        episode = fetch(altered, source)
        state = learner.adapt(learner.start(params, episode.profile), episode.support, key_adapt)
        return learner.predict(state, episode.query.inputs)

    num_tasks = episodes.query.label.shape[0]
    keys = jax.random.split(key, num_tasks)
    return jax.lax.map(one, (episodes, keys), batch_size=min(batch_size, num_tasks))


def rating_metrics(scores: jax.Array, episodes: Episode, key: jax.Array) -> dict[str, jax.Array]:
    """Per-task metrics (T,) of rating scores (T, Q): ``mae``, ``mse``, ``ndcg@5``.

    ``mse`` is kept per task so that the RMSE of a table is the root of its mean over tasks.
    """
    query = episodes.query
    keys = jax.random.split(key, scores.shape[0])
    args = (scores, query.label, query.mask)
    return {
        "mae": jax.vmap(metrics.mae)(*args),
        "mse": jax.vmap(metrics.rmse)(*args) ** 2,
        "ndcg@5": jax.vmap(functools.partial(metrics.ndcg, k=5))(*args, keys),
    }
