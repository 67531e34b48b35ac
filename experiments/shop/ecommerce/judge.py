"""Judging of the large case: decisions on what came next, exact ranks of the whole catalogue."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories import log as rows
from metajax.evaluation import evaluate, metrics
from metajax.serving import service
from metajax.types import Episode, MetaLearner, Params, PyTree

from . import parts
from .runs import QUERY

SHOTS = (0, 1, 3, 5, 10, 20)
BEST = 100
BLOCK = 100
"""Items of a block, in the search for the best."""


def tasks(log: rows.Log, people: np.ndarray, sizes: parts.Sizes) -> dict[int, Episode]:
    """The same queries at every number of shots: leaves (T, ...)."""
    return {k: rows.latest(log, people, k, sizes.shots, QUERY) for k in SHOTS}


@functools.partial(jax.jit, static_argnums=0)
def vectors(
    learner: MetaLearner, params: Params, items_VxW: jax.Array, episodes: Episode
) -> jax.Array:
    """The users' vectors (T, width) after their supports."""

    def embedded(episode: Episode) -> Episode:
        support = episode.support
        known = support._replace(inputs=items_VxW[support.inputs])
        return episode._replace(profile=(), support=known)

    def vector(state: PyTree, episode: Episode) -> jax.Array:
        del episode
        return parts.user_vector(learner, params, state, items_VxW.shape[1])

    options = {"fetch": embedded, "batch_size": 256}
    return evaluate.after_adapting(learner, params, episodes, jax.random.key(0), vector, **options)


@jax.jit
def query_scores(items_VxW: jax.Array, w_TxW: jax.Array, episodes: Episode) -> jax.Array:
    """The logits (T, Q) of the queries' events."""
    return jnp.einsum("tqw,tw->tq", items_VxW[episodes.query.inputs], w_TxW)


def threshold(score: np.ndarray, label: np.ndarray) -> float:
    """The cutoff of the logit with the highest accuracy over all events of validation."""
    order = np.argsort(score, axis=None)
    ascending, said = score.ravel()[order], label.ravel()[order]
    right = np.concatenate([[said.sum()], said.sum() + np.cumsum(1 - 2 * said)])
    best = int(np.argmax(right))
    edges = np.concatenate([[ascending[0] - 1.0], ascending, [ascending[-1] + 1.0]])
    return float((edges[best] + edges[best + 1]) / 2)


def decisions(score: jax.Array, query, cutoff: float) -> dict[str, np.ndarray]:
    """Metrics (T,) of the queries' events at a cutoff."""
    at = {
        "accuracy": metrics.accuracy,
        "precision": metrics.precision_decision,
        "recall": metrics.recall_decision,
        "f1": metrics.f1,
    }
    made: dict[str, Callable[..., jax.Array]] = {
        name: functools.partial(metric, cutoff=cutoff) for name, metric in at.items()
    }
    made["log_loss"] = metrics.log_loss
    rows_of = (score, query.label, query.mask)
    return {name: np.asarray(jax.vmap(metric)(*rows_of)) for name, metric in made.items()}


@functools.partial(jax.jit, static_argnames="batch_size")
def recall_of_best(
    items_VxW: jax.Array,
    shown_V: jax.Array,
    w_TxW: jax.Array,
    episodes: Episode,
    batch_size: int = 8,
) -> jax.Array:
    """The share (T,) of liked query items among the `BEST` of the whole catalogue.

    Items rank by the chance that they are shown and liked, ``shown * sigmoid(logit)``; those of
    the largest support are left out, for every number of shots alike. NaN where nothing is liked.

    Args:
      shown_V: logarithm of how likely an item is shown.
    """

    def hits(score_V, known, query):
        found = service.best(score_V, BEST + known.mask.shape[0], BLOCK)[1]
        met = jnp.any((found[:, None] == known.inputs[None]) & (known.mask > 0)[None], axis=1)
        kept = jnp.cumsum(~met) * ~met
        found = jnp.where((kept > 0) & (kept <= BEST), found, -1)
        liked = (query.label > 0.5) & (query.mask > 0)
        hit = jnp.any(query.inputs[:, None] == found[None], axis=1) & liked
        return jnp.where(jnp.any(liked), jnp.sum(hit) / jnp.maximum(jnp.sum(liked), 1), jnp.nan)

    def batch(taken):
        w_BxW, known, query = taken
        score_BxV = jax.nn.log_sigmoid(w_BxW @ items_VxW.T) + shown_V[None]
        return jax.vmap(hits)(score_BxV, known, query)

    people = w_TxW.shape[0]
    missing = -people % batch_size
    pad = lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    fold = lambda x: pad(x).reshape(-1, batch_size, *x.shape[1:])
    taken = (w_TxW, episodes.support, episodes.query)
    return jax.lax.map(batch, jax.tree.map(fold, taken)).reshape(-1)[:people]
