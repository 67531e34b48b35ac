"""Next-item evaluation: the rank of one held-out item among all others, or among sampled ones.

Scores are computed in batches of people, so that the (people, items) matrix never exists at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories.sequences import HeldOut

FULL, UNMASKED, SAMPLED = "full", "full, history not masked", "sampled 100"
CUTOFFS = (5, 10, 20)

Scorer = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(people (B,), their histories (B, L), lengths (B,)) -> scores (B, V)."""


def rank(score: jax.Array, target: jax.Array, candidate: jax.Array, key: jax.Array) -> jax.Array:
    """The rank () of the target, from 0: how many candidates score higher; ties are random.

    Args:
      score: (V,) scores of all items.
      target: the index of the held-out item, which is a candidate whatever the mask says.
      candidate: (V,) 1 for the items ranked.
    """
    other = (candidate > 0) & (jnp.arange(score.shape[0]) != target)
    above = jnp.sum(other & (score > score[target]))
    ties = jnp.sum(other & (score == score[target]))
    return above + jax.random.randint(key, (), 0, ties + 1)


def rank_metrics(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Hit rate and nDCG at each of `CUTOFFS`, and MRR: each (..., U), of ranks (..., U) from 0."""
    rank = np.asarray(rank)
    gain = 1.0 / np.log2(rank + 2.0)
    found = {f"hit@{k}": (rank < k).astype(np.float32) for k in CUTOFFS}
    found |= {f"ndcg@{k}": np.where(rank < k, gain, 0.0).astype(np.float32) for k in CUTOFFS}
    return found | {"mrr": (1.0 / (rank + 1.0)).astype(np.float32)}


def ranks(
    scorer: Scorer, held: HeldOut, num_items: int, key: jax.Array, batch_size: int = 64
) -> dict[str, jax.Array]:
    """The ranks (U,), from 0, of the held-out items of U people under three protocols.

    ``full``: among all items that are not in the history. ``full, history not masked``: among all
    items. ``sampled 100``: among 100 items drawn uniformly from those not in the history, which
    only serves to compare with older papers: sampled metrics can order methods wrongly (Krichene
    and Rendle, "On sampled metrics for item recommendation", KDD 2020). Pure: jit it.
    """
    num_people = held.target.shape[0]
    batches = -(-num_people // batch_size)
    missing = batches * batch_size - num_people

    def fold(x: np.ndarray | jax.Array) -> jax.Array:
        on = jnp if isinstance(x, jax.Array) else np  # what lies on the host is padded there
        padded = on.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return jnp.asarray(padded.reshape(batches, batch_size, *x.shape[1:]))

    def one(score: jax.Array, target: jax.Array, seen: jax.Array, key: jax.Array):
        key_full, key_all, key_draw, key_drawn = jax.random.split(key, 4)
        new = jnp.ones(num_items).at[seen].set(0.0, mode="drop")
        lottery = jax.random.uniform(key_draw, (num_items,))
        lottery = jnp.where((new > 0) & (jnp.arange(num_items) != target), lottery, -1.0)
        drawn = jax.lax.top_k(lottery, min(100, num_items))[1]
        sampled = jnp.zeros(num_items).at[drawn].set(1.0) * new
        return {
            FULL: rank(score, target, new, key_full),
            UNMASKED: rank(score, target, jnp.ones(num_items), key_all),
            SAMPLED: rank(score, target, sampled, key_drawn),
        }

    def batch(rows):
        (person, history, length, target, seen), key = rows
        scores = scorer(person, history, length)
        return jax.vmap(one)(scores, target, seen, jax.random.split(key, batch_size))

    keys = jax.random.split(key, batches)
    columns = (np.arange(num_people), held.history, held.length, held.target, held.seen)
    found = jax.lax.map(batch, (tuple(fold(x) for x in columns), keys))
    return {name: rank.reshape(-1)[:num_people] for name, rank in found.items()}


def lists(
    scorer: Scorer, held: HeldOut, num_items: int, k: int = 10, batch_size: int = 64
) -> jax.Array:
    """The k best items (U, k) of each of U people among those not in the history, best first.

    Pure: jit it.
    """
    num_people = held.target.shape[0]
    batches = -(-num_people // batch_size)
    place = jnp.minimum(jnp.arange(batches * batch_size), num_people - 1)

    def batch(people: jax.Array) -> jax.Array:
        given = (held.history, held.length, held.seen)
        history, length, seen = (jnp.asarray(x)[people] for x in given)
        scores = scorer(people, history, length)
        taken = lambda score, seen: score.at[seen].set(-jnp.inf, mode="drop")
        return jax.lax.top_k(jax.vmap(taken)(scores, seen), k)[1]

    found = jax.lax.map(batch, place.reshape(batches, batch_size))
    return found.reshape(-1, k)[:num_people]


def spread(items: np.ndarray, met: np.ndarray) -> tuple[float, np.ndarray]:
    """What lists recommend of the catalogue: their coverage, and how popular their items are.

    Args:
      items: (U, k) recommended.
      met: (V,) how often each item was met in training.

    Returns:
      The share of the catalogue that is on any list, and for each person (U,) the mean percentile
      of popularity of their list: the share of items met less often, ties counted half.
    """
    less = np.searchsorted(np.sort(met), met, "left")
    upto = np.searchsorted(np.sort(met), met, "right")
    percentile = 0.5 * (less + upto) / len(met)
    return len(np.unique(items)) / len(met), percentile[items].mean(axis=1)
