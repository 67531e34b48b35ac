"""What came next, ranked: the place of one held-out item among all others, or among a few drawn.

Scores come in batches of people, so that a catalogue's scores of all of them never exist at once.
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


def place(score: jax.Array, target: jax.Array, candidate: jax.Array, key: jax.Array) -> jax.Array:
    """How many candidates stand above the target, ties broken at random.

    Args:
      score: (V,) scores of all items.
      target: the index of the held-out item, which is a candidate whatever the mask says.
      candidate: (V,) 1 for the items ranked.
    """
    other = (candidate > 0) & (jnp.arange(score.shape[0]) != target)
    above = jnp.sum(other & (score > score[target]))
    ties = jnp.sum(other & (score == score[target]))
    return above + jax.random.randint(key, (), 0, ties + 1)


def from_place(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Hit rate and nDCG at each cutoff, of places (..., U) counted from 0; and the MRR."""
    rank = np.asarray(rank)
    gain = 1.0 / np.log2(rank + 2.0)
    found = {f"hit@{k}": (rank < k).astype(np.float32) for k in CUTOFFS}
    found |= {f"ndcg@{k}": np.where(rank < k, gain, 0.0).astype(np.float32) for k in CUTOFFS}
    return found | {"mrr": (1.0 / (rank + 1.0)).astype(np.float32)}


def places(
    scorer: Scorer, held: HeldOut, num_items: int, key: jax.Array, batch_size: int = 64
) -> dict[str, jax.Array]:
    """The place (U,) of every held-out item under three protocols. Pure: jit it.

    ``full``: among all items that the person has not met. ``full, history not masked``: among all
    items. ``sampled 100``: among 100 items drawn uniformly from those not met; kept to compare with
    old papers, and never to conclude from.
    """
    num_people = held.target.shape[0]
    batches = -(-num_people // batch_size)
    missing = batches * batch_size - num_people

    def fold(x: np.ndarray) -> jax.Array:
        padded = np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))  # on the host: it is data
        return jnp.asarray(padded.reshape(batches, batch_size, *x.shape[1:]))

    def one(score: jax.Array, target: jax.Array, seen: jax.Array, key: jax.Array):
        key_full, key_all, key_draw, key_drawn = jax.random.split(key, 4)
        new = jnp.ones(num_items).at[seen].set(0.0, mode="drop")
        lottery = jax.random.uniform(key_draw, (num_items,))
        lottery = jnp.where((new > 0) & (jnp.arange(num_items) != target), lottery, -1.0)
        drawn = jax.lax.top_k(lottery, min(100, num_items))[1]
        sampled = jnp.zeros(num_items).at[drawn].set(1.0) * new
        return {
            FULL: place(score, target, new, key_full),
            UNMASKED: place(score, target, jnp.ones(num_items), key_all),
            SAMPLED: place(score, target, sampled, key_drawn),
        }

    def batch(rows):
        (person, history, length, target, seen), key = rows
        scores = scorer(person, history, length)
        return jax.vmap(one)(scores, target, seen, jax.random.split(key, batch_size))

    keys = jax.random.split(key, batches)
    columns = (np.arange(num_people), *held)
    found = jax.lax.map(batch, (tuple(fold(x) for x in columns), keys))
    return {name: rank.reshape(-1)[:num_people] for name, rank in found.items()}
