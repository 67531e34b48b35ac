"""Next-item recommenders without a Transformer: what a sequence model must beat.

Each arm returns scores (U, V) of all people at once; they learn from everything but the last two
items of each person, as the Transformer does, and read at the test what it reads.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy

from metajax.data.histories.sequences import HeldOut, Sequences
from metajax.evaluation import next_item
from metajax.training import loop
from metajax.training.devices import on_devices, split_by_compiler
from metajax.training.outer_gradient import loss_gradient
from metajax.training.updates import optimizer
from metajax.types import Params


def trained_part(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The person and the item of every trained interaction, in order."""
    person = np.repeat(np.arange(len(sequences.length)), sequences.length)
    place = np.arange(len(person)) - np.repeat(sequences.start, sequences.length)
    kept = place < sequences.trained[person]
    return person[kept], sequences.items[kept]


def popularity(sequences: Sequences, held: HeldOut) -> np.ndarray:
    """How often each item was met, for everyone."""
    _, item = trained_part(sequences)
    count = np.bincount(item, minlength=sequences.num_items).astype(np.float32)
    return np.broadcast_to(count, (len(held.target), sequences.num_items))


def _recent(held: HeldOut, num_items: int, decay: float) -> scipy.sparse.csr_matrix:
    """Histories (U, V) whose n-th newest item weighs ``decay**n``."""
    people, width = held.history.shape
    age = held.length[:, None] - 1 - np.arange(width)[None, :]
    real = age >= 0
    weight = np.where(real, decay ** np.maximum(age, 0), 0.0)[real]
    row = np.nonzero(real)[0]
    return scipy.sparse.csr_matrix((weight, (row, held.history[real])), shape=(people, num_items))


def item_knn(sequences: Sequences, held: HeldOut, neighbors: int, decay: float) -> np.ndarray:
    """Cosine of items by who met them; the sum over the history, newer items weighing more.

    References: Sarwar et al., WWW 2001.
    """
    person, item = trained_part(sequences)
    shape = (len(sequences.length), sequences.num_items)
    met = scipy.sparse.csr_matrix((np.ones(len(item)), (person, item)), shape=shape)
    together = (met.T @ met).tocsr()
    norm = scipy.sparse.diags(1.0 / np.sqrt(np.maximum(together.diagonal(), 1.0)))
    cosine = (norm @ together @ norm).tocsr()
    cosine.setdiag(0.0)
    cosine.eliminate_zeros()
    return _from_similarity(cosine, held, neighbors, decay)


def transitions(sequences: Sequences, held: HeldOut, reach: int, decay: float) -> np.ndarray:
    """What followed each item within ``reach`` steps, over how often it was met: nothing trained.

    A step of d counts 1/d; the sum over the history, newer items weighing more.
    """
    person, item = trained_part(sequences)
    n = sequences.num_items
    follows = scipy.sparse.csr_matrix((n, n))
    for step in range(1, reach + 1):
        same = person[step:] == person[:-step]
        pair = (item[:-step][same], item[step:][same])
        follows = follows + scipy.sparse.csr_matrix(
            (np.full(same.sum(), 1.0 / step), pair), shape=(n, n)
        )
    met = np.maximum(np.bincount(item, minlength=n), 1.0)
    rate = scipy.sparse.diags(1.0 / (met + 5.0)) @ follows
    return _from_similarity(rate.tocsr(), held, n, decay)


def _from_similarity(
    weight: scipy.sparse.csr_matrix, held: HeldOut, neighbors: int, decay: float
) -> np.ndarray:
    """Scores (U, V): each history's sum of the rows of its items, cut to their best columns."""
    n, weight = weight.shape[0], weight.astype(np.float32)
    cut = np.zeros(n, np.float32)
    for row in np.flatnonzero(np.diff(weight.indptr) > neighbors):
        values = weight.data[weight.indptr[row] : weight.indptr[row + 1]]
        cut[row] = np.partition(values, len(values) - neighbors)[len(values) - neighbors]
    kept = weight.data >= cut.repeat(np.diff(weight.indptr))
    weight = scipy.sparse.csr_matrix(
        (np.where(kept, weight.data, 0.0), weight.indices, weight.indptr), weight.shape
    )
    return (_recent(held, n, decay).astype(np.float32) @ weight).toarray()


@dataclasses.dataclass(frozen=True)
class Factors:
    """Settings of matrix factorization."""

    dim: int = 64
    rate: float = 3e-3
    decay: float = 1e-2
    epochs: int = 30
    batch: int = 4096


def bpr(
    sequences: Sequences, held: HeldOut, settings: Factors, seed: int = 0, devices: int = 1
) -> np.ndarray:
    """Matrix factorization by Bayesian personalized ranking: trained pairs above random items.

    References: Rendle et al., UAI 2009.
    """
    person, item = (jnp.asarray(x) for x in trained_part(sequences))
    num_people, num_items = len(sequences.length), sequences.num_items
    num_steps = settings.epochs * (len(item) // settings.batch + 1)
    tx = optax.adam(optax.cosine_decay_schedule(settings.rate, num_steps))

    def init(key: jax.Array, batch: Any) -> Params:
        del batch
        keys = jax.random.split(key)
        normal = lambda key, rows: 0.05 * jax.random.normal(key, (rows, settings.dim))
        vectors = {"person": normal(keys[0], num_people), "item": normal(keys[1], num_items)}
        return {**vectors, "bias": jnp.zeros(num_items)}

    def sample(data: tuple[jax.Array, jax.Array], key: jax.Array):
        key_row, key_other = jax.random.split(key)
        row = jax.random.randint(key_row, (settings.batch,), 0, len(data[0]))
        other = jax.random.randint(key_other, (settings.batch,), 0, num_items)
        return data[0][row], data[1][row], other

    def loss(params: Params, batch: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array):
        del key
        who, liked, other = batch
        u, i, j = params["person"][who], params["item"][liked], params["item"][other]
        margin = jnp.sum(u * (i - j), axis=1) + params["bias"][liked] - params["bias"][other]
        size = jnp.mean(jnp.sum(u**2 + i**2 + j**2, axis=1))
        return -jnp.mean(jax.nn.log_sigmoid(margin)) + 0.5 * settings.decay * size, {}

    recipe = loop.Recipe(init, loss_gradient(loss), optimizer(tx))
    recipe = on_devices(devices, recipe, split_by_compiler)
    keys = jax.random.key(seed)[None]
    fitted = loop.fit(recipe, sample, (person, item), keys, num_steps, block=num_steps)
    found = jax.tree.map(lambda x: np.asarray(x[0]), fitted.params)
    return found["person"][held.person] @ found["item"].T + found["bias"][None, :]


def judged(
    scores: np.ndarray, held: HeldOut, num_items: int, key: jax.Array
) -> dict[str, np.ndarray]:
    """Places (U,) under each protocol of stored scores (U, V)."""
    table = jnp.asarray(scores)
    scorer = lambda person, history, length: table[person]
    found = next_item.ranks(scorer, held, num_items, key)
    return {name: np.asarray(rank) for name, rank in found.items()}


def chosen(
    make: Callable[..., np.ndarray],
    grid: list[tuple],
    sequences: Sequences,
    valid: HeldOut,
    key: jax.Array,
) -> tuple[tuple, float]:
    """The settings of an arm that are best on the validation items, and their nDCG@10 there."""
    found = {}
    for settings in grid:
        ranks = judged(make(sequences, valid, *settings), valid, sequences.num_items, key)
        ndcg = next_item.rank_metrics(ranks[next_item.FULL])["ndcg@10"]
        found[settings] = float(ndcg.mean())
    best = max(found, key=lambda s: found[s])
    return best, found[best]
