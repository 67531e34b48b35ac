"""Ranking the full catalogue for cold users and cold items: every item is a candidate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metajax import metrics
from metajax.data.episodes import Source, fetch
from metajax.types import Episode, MetaLearner, Params


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
      candidates: (C,) item indices: all items, or the cold ones alone.
      threshold: labels above it are relevant.
      repeats: keep support items among the candidates, where people come back to items.
    """
    catalogue_C = jnp.asarray(np.unique(candidates))
    size = catalogue_C.shape[0]

    def place(item: jax.Array) -> jax.Array:
        """The places of items among the candidates, ``size`` where they are none."""
        found = jnp.clip(jnp.searchsorted(catalogue_C, item), 0, size - 1)
        return jnp.where(catalogue_C[found] == item, found, size)

    def one(task: tuple[Episode, jax.Array]) -> dict[str, jax.Array]:
        index, key = task
        key_adapt, key_ties = jax.random.split(key)
        episode = fetch(index, source)
        state = learner.adapt(learner.start(params, episode.profile), episode.support, key_adapt)
        wanted = index.query._replace(inputs=catalogue_C)
        catalogue = fetch(index._replace(query=wanted), source).query.inputs
        score_C = learner.predict(state, catalogue)
        relevant = (index.query.mask > 0) & (index.query.label > threshold)
        zeros = jnp.zeros(size)
        label_C = zeros.at[place(index.query.inputs)].max(relevant * 1.0, mode="drop")
        seen_C = zeros.at[place(index.support.inputs)].max(index.support.mask, mode="drop")
        mask_C = jnp.ones_like(zeros) if repeats else 1.0 - seen_C
        found = {
            "ndcg": metrics.ndcg,
            "recall": metrics.recall,
            "hit": metrics.hit_rate,
            "mrr": metrics.mrr,
        }
        return {
            f"{name}@{k}": functools.partial(metric, k=k)(score_C, label_C, mask_C, key_ties)
            for name, metric in found.items()
        }

    num_tasks = episodes.query.label.shape[0]
    keys = jax.random.split(key, num_tasks)
    return jax.lax.map(one, (episodes, keys), batch_size=min(batch_size, num_tasks))
