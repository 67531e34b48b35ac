"""Tasks that are domains: a shelf of items that nobody has met opens in another domain.

Shared users are known by what they did in the source domain: components of their interactions
there. A task is a shelf of items of the target domain; its support are a few users with the rows
of what they took from the shelf, its query are other users. Users and items of the test are in no
training task. Nothing is known of an item but who took it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from metajax import losses, precision
from metajax.data.sources import crossdomain
from metajax.data.table import Interactions
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

SHELF, NUM_QUERY, WIDTH = 48, 48, 32


class Domain(NamedTuple):
    """A pair of domains: what the source says of the users, and who took what in the target.

    Attributes:
      vectors: (U, D) of the shared users, mean square 1.
      taken: (U, V) 1 where a user took an item of the target.
      users, items: 0 for training, 1 for validation, 2 for the test.
    """

    vectors: np.ndarray
    taken: np.ndarray
    users: np.ndarray
    items: np.ndarray


class Shelves(NamedTuple):
    """What tasks are drawn from: users' vectors, who took what, and the size of a support."""

    vectors: jax.Array
    taken: jax.Array


def domain(source: Interactions, target: Interactions, least: int, seed: int = 0) -> Domain:
    """The pair, with items of the target that ``least`` shared users took."""
    shared = crossdomain.shared_users(source, target)
    matrix = _indicator(source, shared)
    popular = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1.0) ** -0.25
    u, s, _ = svds(matrix @ sp.diags(popular), k=WIDTH, v0=np.ones(min(matrix.shape)))
    vectors = u * s
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    taken = _indicator(target, shared)
    taken = taken[:, np.asarray(taken.sum(axis=0)).ravel() >= least].toarray()
    rng = np.random.default_rng(seed)
    groups = lambda n: rng.permutation(np.searchsorted([0.6, 0.75], (np.arange(n) + 0.5) / n))
    return Domain(
        (vectors * WIDTH**0.5).astype(np.float32), taken.astype(np.float32),
        groups(shared), groups(taken.shape[1]),
    )  # fmt: skip


def _indicator(table: Interactions, num_users: int) -> Any:
    kept = table.user < num_users
    shape = (num_users, table.num_items)
    matrix = sp.csr_matrix((np.ones(kept.sum()), (table.user[kept], table.item[kept])), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def shelves(pair: Domain, group: int) -> Shelves:
    """The tasks of a group of users and items."""
    taken = pair.taken[pair.users == group][:, pair.items == group]
    return Shelves(jnp.asarray(pair.vectors[pair.users == group]), jnp.asarray(taken))


def draw(
    data: Shelves, key: jax.Array, num_support: int, num_query: int, random: bool = True
) -> tuple[Episode, jax.Array]:
    """A random shelf with random users who took something from it; and who the query's users are.

    Args:
      random: the size of the support is drawn, evenly in its logarithm, up to ``num_support``.
    """
    key_items, key_users, key_size = jax.random.split(key, 3)
    items = jax.random.choice(key_items, data.taken.shape[1], (SHELF,), replace=False)
    rows = data.taken[:, items]
    some = jnp.any(rows > 0, axis=1)
    lottery = jax.random.uniform(key_users, some.shape) + some
    order = jax.lax.top_k(lottery, num_support + num_query)[1]
    support, query = order[num_query:], order[:num_query]
    size = num_support
    if random:
        low, high = jnp.log(5.0), jnp.log(num_support)
        size = jnp.exp(jax.random.uniform(key_size, (), minval=low, maxval=high))
    real = (jnp.arange(num_support) < size) & some[support]
    part = lambda who, mask: Examples(data.vectors[who], rows[who], mask * 1.0)
    return Episode((), part(support, real), part(query, some[query])), query


def entropy(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy of softmaxes (N, M) against the rows of what was taken."""
    share = label / jnp.maximum(jnp.sum(label, axis=1, keepdims=True), 1.0)
    return losses.masked_mean(-jnp.sum(share * jax.nn.log_softmax(score, axis=1), axis=1), mask)


def trunk() -> Model:
    """Features (N, D) of users: their vectors plus a learned part that starts small."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        keys = jax.random.split(key)
        wide = 2 * WIDTH
        return {
            "up": {"kernel": jax.random.normal(keys[0], (WIDTH, wide)) / WIDTH**0.5},
            "down": {"kernel": 0.02 * jax.random.normal(keys[1], (wide, WIDTH))},
        }

    def apply(params: Params, profile: PyTree, inputs: jax.Array) -> jax.Array:
        return inputs + jax.nn.gelu(inputs @ params["up"]["kernel"]) @ params["down"]["kernel"]

    return Model(init, apply)


def with_head(columns: int, features: Model) -> Model:
    """Scores (N, columns): a linear head, from zero, on features."""

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        head = {"weight": jnp.zeros((WIDTH, columns)), "bias": jnp.zeros(columns)}
        return {"trunk": features.init(key, profile, inputs), "head": head}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        head, x = params["head"], features.apply(params["trunk"], profile, inputs)
        return x @ head["weight"] / WIDTH**0.5 + head["bias"][None, :]

    return Model(init, apply)


class Rows(NamedTuple):
    """The support, kept as it is."""

    support: Examples


def reading(
    init: Callable[..., Params], score: Callable[[Params, Examples, jax.Array], jax.Array]
) -> MetaLearner:
    """A learner that keeps its support and computes ``score(params, support, inputs)``."""

    def start(params: Params, profile: PyTree) -> Rows:
        del params, profile
        none = Examples(jnp.zeros((0, WIDTH)), jnp.zeros((0, SHELF)), jnp.zeros(0))
        return Rows(none)

    def adapt(params: Params, state: Rows, examples: Examples, key: jax.Array) -> Rows:
        del params, state, key
        return Rows(examples)

    def predict(params: Params, state: Rows, inputs: jax.Array) -> jax.Array:
        return score(params, state.support, inputs)

    def outer_loss(params: Params, episode: Episode, key: jax.Array):
        del key
        value = entropy(score(params, episode.support, episode.query.inputs), *episode.query[1:])
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)


def counts(support: Examples) -> jax.Array:
    """The logarithm of each item's share (M,) among the support, one pseudo-count for all."""
    taken = jnp.sum(support.label * support.mask[:, None], axis=0)
    return jnp.log((taken + 1.0) / (jnp.sum(support.mask) + 2.0))


@precision.highest
def solved(x: jax.Array, y: jax.Array, penalty: jax.Array) -> jax.Array:
    """The weights (D, M) of a ridge regression of y (N, M) on x (N, D)."""
    normal = x.T @ x + penalty * jnp.eye(x.shape[1])
    return jsp.linalg.solve(normal, x.T @ y, assume_a="pos")


def ridge_head(features: Model, penalty: float = 30.0) -> MetaLearner:
    """Every item's weights solved on the support, as what a user takes beyond its popularity."""

    def init(key: jax.Array, episode: Episode) -> Params:
        made = features.init(key, (), episode.support.inputs)
        return {"trunk": made, "log_penalty": jnp.log(penalty), "scale": jnp.array(5.0)}

    def score(params: Params, support: Examples, inputs: jax.Array) -> jax.Array:
        phi = lambda x: features.apply(params["trunk"], (), x)
        x = phi(support.inputs) * support.mask[:, None]
        known = counts(support)
        left = (support.label - jnp.exp(known)[None]) * support.mask[:, None]
        weight = solved(x, left, jnp.exp(params["log_penalty"]))
        return known[None] + params["scale"] * phi(inputs) @ weight

    return reading(init, score)


def attention(features: Model) -> MetaLearner:
    """In context: each query user attends to the support's users and takes what they took."""

    def init(key: jax.Array, episode: Episode) -> Params:
        made = features.init(key, (), episode.support.inputs)
        return {"trunk": made, "sharpness": jnp.array(1.0), "scale": jnp.array(1.0)}

    def score(params: Params, support: Examples, inputs: jax.Array) -> jax.Array:
        phi = lambda x: features.apply(params["trunk"], (), x)
        near = phi(inputs) @ phi(support.inputs).T / WIDTH * jnp.exp(params["sharpness"])
        weight = jax.nn.softmax(jnp.where(support.mask[None] > 0, near, -1e9), axis=1)
        total = jnp.sum(support.mask)
        seen = (weight @ support.label * total + 1.0) / (total + 2.0)
        return counts(support)[None] + params["scale"] * jnp.log(seen)

    return reading(init, score)
