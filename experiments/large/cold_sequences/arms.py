"""Ways to give a new item an embedding from a few interactions, its content, or both.

Each is a learner whose task is an item: the profile is what content says of it, (D,), an example
the hidden vector (D,) of a history, with the label 1 if the item followed it and 0 if another one
did, the state its embedding. Inputs are ``{"hidden": (N, D), "others": (N,)}``; the latter is the
log of the sum of the exponentials of all known items' scores.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.losses import masked_mean
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

UNTRAINED, MEAN, GRADIENT = "untrained embedding", "mean of histories", "gradient steps"
CONTENT, CONTENT_GRADIENT = "content", "content, then gradient steps"
MATCHED, BOTH = "matching, meta-learned", "matching and content, meta-learned"
OVERLAP, RANDOM = "shared items, untrained", "matching, another item's interactions"


class State(NamedTuple):
    """A new item.

    Attributes:
      embedding: (D,) its inner product with a person's hidden vector is its score.
      content: (D,) the embedding that its content tells.
      total: (D,) sum of the hidden vectors met.
      count: () their number.
    """

    embedding: jax.Array
    content: jax.Array
    total: jax.Array
    count: jax.Array


def _loss(embedding: jax.Array, examples: Examples, odds: float) -> jax.Array:
    """Cross-entropy, in nats, of whether the new item comes next, among all known items.

    The mean over the events that are its own, plus ``odds`` times that over the others.
    """
    score, (inputs, label, mask) = examples.inputs["hidden"] @ embedding, examples
    own = masked_mean(jax.nn.softplus(inputs["others"] - score), mask * label)
    return own + odds * masked_mean(jax.nn.softplus(score - inputs["others"]), mask * (1 - label))


def _learner(init, start, adapt, odds: float, steps: int = 0) -> MetaLearner:
    """The learner of these functions; its outer loss is on the whole catalogue."""

    def predict(params: Params, state: State, inputs: PyTree) -> jax.Array:
        del params
        return inputs["hidden"] @ state.embedding

    def loss(params: Params, episode: Episode, key: jax.Array):
        state = adapt(params, start(params, episode.profile), episode.support, key)
        value = _loss(state.embedding, episode.query, odds)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, loss, steps)


def _met(state: State, examples: Examples) -> State:
    """The state with the hidden vectors of more interactions."""
    own = examples.mask * examples.label
    total = jnp.sum(jnp.where(own[:, None] > 0, examples.inputs["hidden"], 0.0), axis=0)
    return state._replace(total=state.total + total, count=state.count + jnp.sum(own))


def matching(
    odds: float, scale: float, constant: jax.Array, *, content: bool = False, histories: bool = True
) -> MetaLearner:
    """A new item's embedding is ``s(n) A mean(h) + t(n) C content + c`` after n interactions.

    A query is matched with the interactions of an item, ``q A h``, in the space in which known
    items are scored, so that known and new items stand in one list. ``s(n)`` and ``t(n)`` are
    ``exp(a + b log(1 + n))``. Training starts from `mean`: A is ``scale`` times the identity.

    Args:
      odds: how many events of other items there are for one of a new item.
      scale, constant: of the start.
      content: whether content is used; beside histories C is 0 at the start.
      histories: whether histories are.

    References: Zheng et al., "Cold-start sequential recommendation via meta learner", AAAI 2021
    (Mecos; there an LSTM matches pairs of steps).
    """
    uses_content, uses_histories = content, histories

    def init(key: jax.Array, episode: Episode) -> Params:
        del key
        eye, zero = jnp.eye(episode.profile.shape[0]), jnp.zeros(())
        params: dict[str, Any] = {"constant": constant + 0.0}
        if uses_histories:
            params["matched"] = {"kernel": scale * eye, "a": zero, "b": zero}
        if uses_content:
            params["content"] = {"kernel": (1 - uses_histories) * eye, "a": zero, "b": zero}
        return params

    def part(params: Params, vector: jax.Array, count: jax.Array) -> jax.Array:
        scale = jnp.exp(params["a"] + params["b"] * jnp.log1p(count))
        return scale * (params["kernel"] @ vector)

    def embedded(params: Params, state: State) -> State:
        found = params["constant"]
        if uses_histories:
            mean = state.total / jnp.maximum(state.count, 1.0)
            found = found + part(params["matched"], mean, state.count)
        if uses_content:
            found = found + part(params["content"], state.content, state.count)
        return state._replace(embedding=found)

    def start(params: Params, profile: PyTree) -> State:
        zero = jnp.zeros_like(profile)
        return embedded(params, State(zero, profile, zero, jnp.zeros(())))

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        return embedded(params, _met(state, examples))

    return _learner(init, start, adapt, odds)


def descent(odds: float, rate: float, steps: int, from_content: bool) -> MetaLearner:
    """The embedding alone is trained on the interactions, from 0 or from what content tells."""

    def init(key: jax.Array, episode: Episode) -> Params:
        del key, episode
        return {}

    def start(params: Params, profile: PyTree) -> State:
        del params
        zero = jnp.zeros_like(profile)
        return State(profile if from_content else zero, profile, zero, jnp.zeros(()))

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del params, key
        slope = jax.grad(lambda e: _loss(e, examples, odds))
        step = lambda _, e: e - rate * slope(e)
        return _met(state, examples)._replace(
            embedding=jax.lax.fori_loop(0, steps, step, state.embedding)
        )

    return _learner(init, start, adapt, odds, steps)


def mean(odds: float, scale: float, constant: jax.Array) -> MetaLearner:
    """The mean of the hidden vectors, times a number: how the sequence model itself would point.

    An item's embedding and the hidden vectors before it are trained to have a large inner product,
    so that the mean of some of these vectors is already an embedding, read in context.

    Args:
      scale: of the mean.
      constant: (D,) added.
    """

    def start(params: Params, profile: PyTree) -> State:
        del params
        zero = jnp.zeros_like(profile)
        return State(constant, profile, zero, jnp.zeros(()))

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del params, key
        state = _met(state, examples)
        found = constant + scale * state.total / jnp.maximum(state.count, 1.0)
        return state._replace(embedding=found)

    return _learner(lambda key, episode: {}, start, adapt, odds)


def overlap(
    support: tuple[np.ndarray, np.ndarray], query: tuple[np.ndarray, np.ndarray], num_items: int
) -> np.ndarray:
    """Cosine (M, N, M') of the items in each query history with those before each new item.

    Args:
      support: histories (M', n, L) and the mask (M', n) of their events, newest item last; 0 pads.
      query: histories (M, N, L) and lengths (M, N).
    """

    def bags(history: np.ndarray, length: np.ndarray) -> np.ndarray:
        rows = history.reshape(-1, history.shape[-1])
        real = np.arange(rows.shape[1])[None] < length.reshape(-1, 1)
        found = np.zeros((len(rows), num_items), np.float32)
        at = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        age = length.reshape(-1, 1) - 1 - np.arange(rows.shape[1])[None]
        np.add.at(found, (at[real], rows[real]), 0.8 ** age[real])
        norm = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / np.maximum(norm, 1e-9)).reshape(*history.shape[:-1], num_items)

    profile = bags(*support).sum(axis=1)
    norm = np.linalg.norm(profile, axis=1, keepdims=True)
    return bags(*query) @ (profile / np.maximum(norm, 1e-9)).T
