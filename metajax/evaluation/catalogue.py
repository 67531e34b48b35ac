"""Ranking metrics of the full catalogue for cold users and items, or of a task's query rows."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episodes import Source, fetch
from metajax.evaluation import metrics
from metajax.types import Episode, MetaLearner, Params

LISTED = {
    "ndcg": metrics.ndcg,
    "recall": metrics.recall,
    "hit": metrics.hit_rate,
    "mrr": metrics.mrr,
}
"""The metrics of a ranked list."""


def _places(sorted_C: jax.Array, item: jax.Array) -> jax.Array:
    """The places of items among C sorted candidates; C where an item is not a candidate."""
    size = sorted_C.shape[0]
    found = jnp.clip(jnp.searchsorted(sorted_C, item), 0, size - 1)
    return jnp.where(sorted_C[found] == item, found, size)


def full(
    learner: MetaLearner,
    params: Params,
    source: Source,
    episodes: Episode,
    key: jax.Array,
    candidates: np.ndarray,
    *,
    k: int = 10,
    threshold: float = 0.0,
    repeats: bool = False,
    batch_size: int = 16,
) -> dict[str, jax.Array]:
    """Per-task metrics (T,) of ranking all candidates: ``ndcg@k``, ``recall@k``, ...

    A task's relevant items are its query items with a label above the threshold; all other
    candidates count as irrelevant, except its support items, which are left out. Ties are broken
    at random: a constant scorer gets chance. A task without a relevant candidate is NaN.

    Returns:
      ``ndcg@k`` of binary gain, ``recall@k``, ``hit@k``, ``mrr@k``.

    Args:
      source: the feature columns of users and items.
      episodes: T stored tasks, leaves (T, ...), from `data.episodes.fixed`.
      candidates: (C,) item indices: all items, or the cold ones alone.
      k: length of the list.
      threshold: labels above it are relevant.
      repeats: keep support items among the candidates, for logs in which users repeat items.
      batch_size: tasks at a time.
    """
    catalogue_C = jnp.asarray(np.unique(candidates))
    place = lambda item: _places(catalogue_C, item)

    def one(task: tuple[Episode, jax.Array]) -> dict[str, jax.Array]:
        index, key = task
        key_adapt, key_ties = jax.random.split(key)
        episode = fetch(index, source)
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, episode.support, key_adapt)
        wanted = index.query._replace(inputs=catalogue_C)
        catalogue = fetch(index._replace(query=wanted), source).query.inputs
        score_C = learner.predict(params, state, catalogue)
        relevant = (index.query.mask > 0) & (index.query.label > threshold)
        zeros = jnp.zeros(catalogue_C.shape)
        label_C = zeros.at[place(index.query.inputs)].max(relevant * 1.0, mode="drop")
        seen_C = zeros.at[place(index.support.inputs)].max(index.support.mask, mode="drop")
        mask_C = jnp.ones_like(zeros) if repeats else 1.0 - seen_C
        return {
            f"{name}@{k}": metric(score_C, label_C, mask_C, key_ties, k=k)
            for name, metric in LISTED.items()
        }

    num_tasks = episodes.query.label.shape[0]
    keys = jax.random.split(key, num_tasks)
    return jax.lax.map(one, (episodes, keys), batch_size=min(batch_size, num_tasks))


def as_ranks(score: jax.Array, mask: jax.Array, key: jax.Array | None) -> jax.Array:
    """Scores (N,) as distinct numbers in the same order: minus the rank from 0, the best being 0.

    Args:
      key: breaks ties at random; None leaves them in the order of the rows.
    """
    if key is None:
        place = jnp.lexsort((jnp.arange(score.shape[0]), -score, mask <= 0))
    else:
        place = metrics.order(score, mask, key)
    return jnp.zeros(score.shape).at[place].set(-jnp.arange(score.shape[0], dtype=score.dtype))


def top_k_list(
    score: jax.Array, label: jax.Array, mask: jax.Array, key: jax.Array | None, k: int
) -> dict[str, jax.Array]:
    """Precision, recall, hit rate, nDCG and MRR at k of one list (N,) with binary labels (N,).

    Args:
      key: breaks ties at random; None leaves them in the order of the rows.
    """
    ranks = as_ranks(score, mask, key)
    any_key = jax.random.key(0)  # the ranks are distinct
    found = {"precision": metrics.precision, **LISTED}
    return {f"{name}@{k}": f(ranks, label, mask, any_key, k=k) for name, f in found.items()}


def matched_values(
    score: jax.Array, label: jax.Array, mask: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Precision and average precision at k (), by comparing label values: a published error.

    Of a list (N,), position i of the best k is a hit if its label occurs in the ideal list at least
    as often as among the first i. Precision is 1 if the list has k rows, whatever the order.
    """
    order = jnp.argsort(jnp.where(mask > 0, -score, jnp.inf))[:k]
    best = jnp.where(mask[order] > 0, label[order], jnp.nan)
    ideal = jnp.sort(jnp.where(mask > 0, label, -jnp.inf), descending=True)[:k]
    same = best[:, None] == best[None, :]
    nth = jnp.sum(jnp.tril(same), axis=1)
    available = jnp.sum(best[:, None] == ideal[None, :], axis=1)
    hit = (nth <= available) & (nth > 0)
    at = jnp.cumsum(hit) / jnp.arange(1, hit.shape[0] + 1)
    return jnp.sum(hit) / k, jnp.sum(at * hit) / k
