"""Judging a learner on stored tasks: cold, warm, at every shot, in a stream, and under controls.

An *alteration* is a pure function ``(key, episode) -> episode`` on one task that changes its
support before the learner adapts: fewer shots, shuffled labels, someone else's support. The query
is never altered, and its labels never reach the learner.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metajax import tree
from metajax.data.episodes import Source, fetch
from metajax.evaluation import metrics
from metajax.results import intervals
from metajax.types import Episode, MetaLearner, Params

Alteration = Callable[[jax.Array, Episode], Episode]

SHOTS = (0, 1, 3, 5, 10, 20)
N0, N1, N2, N3 = "N0 zero steps", "N1 shuffled labels", "N2 another's support", "N3 random init"


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


def others_support(key: jax.Array, episodes: Episode) -> Episode:
    """A batch of tasks, each with the support of another one drawn at random (control N2).

    Nobody keeps their own: the tasks are put in a random circle and each takes its neighbor's.
    """
    circle = jax.random.permutation(key, episodes.query.label.shape[0])
    donor = jnp.zeros_like(circle).at[circle].set(jnp.roll(circle, 1))
    return episodes._replace(
        support=jax.tree.map(lambda x: jnp.asarray(x)[donor], episodes.support)
    )


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
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, episode.support, key_adapt)
        return learner.predict(params, state, episode.query.inputs)

    num_tasks = episodes.query.label.shape[0]
    keys = jax.random.split(key, num_tasks)
    return jax.lax.map(one, (episodes, keys), batch_size=min(batch_size, num_tasks))


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


def k_shot(
    learner: MetaLearner,
    params: Params,
    source: Source,
    episodes: Episode,
    key: jax.Array,
    shots: Sequence[int] = SHOTS,
    judge: Callable[[jax.Array, Episode, jax.Array], dict[str, jax.Array]] = rating_metrics,
) -> dict[str, jax.Array]:
    """Per-task metrics (K, T) after the first 0, 1, 3 ... support rows: curves, or warm-up phases.

    Args:
      judge: (scores (T, Q), episodes, key) -> metrics (T,).
    """
    key_predict, key_ties = jax.random.split(key)

    def at(shots: jax.Array) -> dict[str, jax.Array]:
        scores = predictions(learner, params, source, episodes, key_predict, first_shots(shots))
        return judge(scores, episodes, key_ties)

    return jax.lax.map(at, jnp.asarray(shots))


def prequential(
    learner: MetaLearner,
    params: Params,
    source: Source,
    episodes: Episode,
    key: jax.Array,
    batch_size: int = 128,
) -> jax.Array:
    """Scores (T, Q) of a stream: each query row is predicted first, then adapted on.

    Query rows are read in their order; row j is scored by a learner that has adapted on the support
    and on rows 0..j-1, one after the other. Padded rows get a score and teach nothing.
    """

    def one(task: tuple[Episode, jax.Array]) -> jax.Array:
        episode = fetch(task[0], source)
        key_support, key_stream = jax.random.split(task[1])
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, episode.support, key_support)

        def step(state, row):
            example, key = row
            example = jax.tree.map(lambda x: x[None], example)
            score = learner.predict(params, state, example.inputs)[0]
            return learner.adapt(params, state, example, key), score

        keys = jax.random.split(key_stream, episode.query.label.shape[0])
        return jax.lax.scan(step, state, (episode.query, keys))[1]

    num_tasks = episodes.query.label.shape[0]
    keys = jax.random.split(key, num_tasks)
    return jax.lax.map(one, (episodes, keys), batch_size=min(batch_size, num_tasks))


def controls(
    learner: MetaLearner,
    params: Params,
    source: Source,
    episodes: Episode,
    key: jax.Array,
    metric: metrics.Metric = metrics.mae,
) -> dict[str, jax.Array]:
    """Per-task scores (T,) of a metric, as it is ("own") and under the four controls, by name.

    N0 adapts on nothing, N1 on shuffled support labels, N2 on another user's support, N3 starts
    from a fresh random initialization. `control_gaps` says what each costs.
    """
    key_predict, key_donor, key_init = jax.random.split(key, 3)
    first = fetch(jax.tree.map(lambda x: jnp.asarray(x)[0], episodes), source)
    donated = others_support(key_donor, episodes)
    fresh = learner.init(key_init, first)

    def judged(params: Params, tasks: Episode, alter: Alteration = unaltered) -> jax.Array:
        scores = predictions(learner, params, source, tasks, key_predict, alter)
        return jax.vmap(metric)(scores, tasks.query.label, tasks.query.mask)

    return {
        "own": judged(params, episodes),
        N0: judged(params, episodes, first_shots(0)),
        N1: judged(params, episodes, shuffled_labels),
        N2: judged(params, donated),
        N3: judged(fresh, episodes),
    }


def control_gaps(scores: Mapping[str, jax.Array]) -> dict[str, intervals.Interval]:
    """What each control adds to the score, paired by user, with its interval.

    Args:
      scores: of `controls`, (T,) each, or (S, T) with one row per seed.
    """
    by_user = {k: intervals.mean_of_seeds(np.atleast_2d(np.asarray(v))) for k, v in scores.items()}
    own = by_user.pop("own")
    return {name: intervals.paired_bootstrap(values, own) for name, values in by_user.items()}


def by_group(
    values: np.ndarray, group: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, intervals.Interval]:
    """The mean of per-task values (T,) in each group of tasks, with its interval.

    Args:
      group: (T,) a code per task, e.g. a column of the user features.
      names: of the codes 0..; else the codes themselves.
    """
    found = {}
    for code in np.unique(group):
        mine = values[group == code]
        if not np.isnan(mine).all():
            found[str(code) if names is None else names[code]] = intervals.mean_interval(mine)
    return found


def by_activity(
    values: np.ndarray, activity: np.ndarray, num_buckets: int = 4
) -> dict[str, intervals.Interval]:
    """The mean of per-task values (T,) by how active the user is, in buckets of about equal size.

    Args:
      activity: (T,) interactions of each task; a number of interactions is never torn apart.

    Returns:
      "lowest-highest" activity of a bucket -> mean with its interval, in rising order.
    """
    edges = np.unique(
        np.quantile(activity, np.arange(1, num_buckets) / num_buckets, method="lower")
    )
    bucket = np.searchsorted(edges, activity, side="left")
    low = {b: activity[bucket == b].min() for b in np.unique(bucket)}
    high = {b: activity[bucket == b].max() for b in low}
    names = [f"{low.get(b, 0)}-{high.get(b, 0)}" for b in range(int(bucket.max()) + 1)]
    return by_group(values, bucket, names)
