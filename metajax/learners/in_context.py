"""In-context adaptation: the state of a task is its history, which the model reads.

`sequence_learner` makes a sequence recommender a meta-learner: ``adapt`` appends to the history,
``predict`` reads it. No gradient is taken in the task; training to predict each item from those
before it is the meta-learning.

References: Kang and McAuley, ICDM 2018; Brown et al., NeurIPS 2020 (in-context learning).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models import sequence
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree


class State(NamedTuple):
    """A history.

    Attributes:
      items: (L,) the newest items, oldest first, padded on the right with 0.
      length: how many are real.
    """

    items: jax.Array
    length: jax.Array


def sequence_learner(
    settings: sequence.Settings, window: int, content: np.ndarray | None = None
) -> MetaLearner:
    """A learner that reads the last ``window`` items; ``inputs`` are item indices (N,).

    Its outer loss is `sequence.next_loss` of support and query, one after the other. Scores are
    logits: compare them within one state only.

    Args:
      settings: of the recommender.
      window: L, the number of items that a state holds.
      content: (V, F) vectors of the items, see `models.sequence`.
    """

    def init(key: jax.Array, episode: Episode) -> Params:
        del episode
        return sequence.init(key, settings, content)

    def start(params: Params, profile: PyTree) -> State:
        del params, profile
        return State(jnp.zeros(window, jnp.int32), jnp.zeros((), jnp.int32))

    def adapt(params: Params, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        old = jnp.arange(window) < state.length
        items, mask = joined(state.items, old, examples.inputs, examples.mask)
        count = jnp.sum(mask, dtype=jnp.int32)
        length = jnp.minimum(count, window)
        newest = jax.lax.dynamic_slice(items, (count - length,), (window,))
        kept = jnp.where(jnp.arange(window) < length, newest, 0)
        return state._replace(items=kept, length=length)

    def predict(params: Params, state: State, inputs: jax.Array) -> jax.Array:
        catalogue = sequence.item_embeddings(params)
        hidden = sequence.hidden_vectors(settings, params, catalogue, state.items)[state.length]
        return catalogue[inputs] @ hidden

    def outer_loss(params: Params, episode: Episode, key: jax.Array):
        support, query = episode.support, episode.query
        items, mask = joined(support.inputs, support.mask, query.inputs, query.mask)
        value = sequence.next_loss(settings, params, items[None], mask[None], key)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, outer_loss)


def in_batches(learner: MetaLearner, settings: sequence.Settings) -> MetaLearner:
    """The learner whose outer loss takes one episode of B stacked people, leaves (B, ...).

    The loss is the mean over all items, not over people: the logits of the batch are then one
    matrix product, which halves the time of an outer step on a CPU.
    """

    def outer_loss(params: Params, episodes: Episode, key: jax.Array):
        support, query = episodes.support, episodes.query
        rows = (support.inputs, support.mask, query.inputs, query.mask)
        items, mask = jax.vmap(joined)(*rows)
        value = sequence.next_loss(settings, params, items, mask, key)
        return value, {"query_loss": value}

    return learner._replace(loss=outer_loss)


def joined(first: jax.Array, first_mask: jax.Array, second: jax.Array, second_mask: jax.Array):
    """Two padded rows (A,) and (B,) as one (A + B,), real items first; and its mask."""
    items = jnp.concatenate([first, second])
    mask = jnp.concatenate([first_mask, second_mask]) > 0
    place = jnp.argsort(~mask, stable=True)
    return jnp.where(mask[place], items[place], 0), mask[place] * 1.0
