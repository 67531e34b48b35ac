"""What `regimes.window` trains and judges: people in groups, stretches, places."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import Sequences
from metajax.evaluation import evaluate, next_item
from metajax.learners import in_context
from metajax.models import sequence
from metajax.training import loop
from metajax.training.devices import on_devices, split_second_axis
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

ROW, JUDGED, ROWS = 20, 10, 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes: the backbone's window and steps, outer steps of the adapters, people judged.

    ``devices`` is how many train.
    """

    window: int = 64
    steps: int = 2500
    meta_steps: int = 100
    people: int = 400
    devices: int = 1


def settings_of(data: Sequences) -> sequence.Settings:
    """The backbone."""
    return sequence.Settings(data.num_items, sequence.small(64, 2, 2), dropout=0.2)


def groups(num_people: int) -> tuple[np.ndarray, ...]:
    """People for the backbone, for meta-training, for choices and for the test."""
    order = np.random.default_rng(13).permutation(num_people)
    return tuple(np.split(order, (np.array([0.65, 0.83, 0.88]) * num_people).astype(int)))


def of_people(data: Sequences, people: np.ndarray) -> Sequences:
    """The histories of some people."""
    parts = [data.items[data.start[p] : data.start[p] + data.length[p]] for p in people]
    length = data.length[people]
    start = np.cumsum(length) - length
    return data._replace(
        items=np.concatenate(parts), start=start, length=length, owners=data.owners[people]
    )


def backbone(plan: Plan, data: Sequences, seed: int) -> Params:
    """The recommender trained on the whole histories of its people."""
    settings = settings_of(data)
    learner = in_context.sequence_learner(settings, plan.window)
    learner = in_context.in_batches(learner, settings)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, plan.steps // 20 + 1, plan.steps)
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, b2=0.98))
    sample = histories.sampler(plan.window, 16)
    windows = histories.windows(data, plan.window, drop=0)
    keys = jax.random.key(seed)[None]
    recipe = on_devices(plan.devices, loop.recipe(learner, tx), split_second_axis)
    found = loop.fit(recipe, sample, windows, keys, plan.steps)
    return jax.tree.map(lambda x: x[0], found.params)


def likelihood(settings: sequence.Settings) -> Model:
    """The model whose rows are stretches (N, L) and whose scores are log-likelihoods (N,).

    ``inputs`` is the pair of stretches and which of their items count.
    """

    def apply(params: Params, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile
        rows, judged = inputs
        catalogue = sequence.item_embeddings(params)
        read = lambda row: sequence.hidden_vectors(settings, params, catalogue, row)[:-1]
        hidden = jax.vmap(read)(rows)
        flat = hidden.reshape(-1, hidden.shape[-1])
        loss = sequence.full_cross_entropy(flat, catalogue, rows.reshape(-1)).reshape(rows.shape)
        return -jnp.sum(loss * judged, axis=1) / jnp.sum(judged, axis=1)

    return Model(lambda key, profile, inputs: sequence.init(key, settings), apply)


def stretches(data: Sequences, end: np.ndarray) -> np.ndarray:
    """Each person's ``ROWS`` + 1 stretches (U, R + 1, L) of items up to place ``end`` (U,)."""
    place = end[:, None] - ROW * (ROWS + 1) + np.arange(ROW * (ROWS + 1))[None, :]
    return data.items[data.start[:, None] + place].reshape(len(end), ROWS + 1, ROW)


def episode(rows: jax.Array) -> Episode:
    """The older stretches (R + 1, L) as the support, the last one as the query."""
    judged = jnp.broadcast_to(jnp.arange(ROW) >= ROW - JUDGED, rows.shape) * 1.0
    part = lambda s: Examples((rows[s], judged[s]), jnp.ones(len(rows[s])), jnp.ones(len(rows[s])))
    return Episode((), part(slice(0, ROWS)), part(slice(ROWS, None)))


def meta_fit(learner: MetaLearner, data: Sequences, plan: Plan, seed: int) -> Params:
    """The adapter's start and rates, on people whom the backbone has not seen."""
    items, start, length = (
        jnp.asarray(x, jnp.int32) for x in (data.items, data.start, data.length)
    )
    need = ROW * (ROWS + 1)

    def sample(arrays: PyTree, key: jax.Array) -> Episode:
        items, start, length = arrays
        key_who, key_when = jax.random.split(key)
        who = jax.random.randint(key_who, (4,), 0, len(start))
        end = jax.random.randint(key_when, (4,), need, length[who] + 1)
        place = (start[who] + end - need)[:, None] + jnp.arange(need)[None, :]
        return jax.vmap(episode)(items[place].reshape(4, ROWS + 1, ROW))

    schedule = optax.cosine_decay_schedule(3e-3, plan.meta_steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    keys = jax.random.key(seed)[None]
    recipe = loop.recipe(learner, tx, loop.outer_gradient(learner, 4))
    recipe, data_of = on_devices(plan.devices, recipe), (items, start, length)
    found = loop.fit(recipe, sample, data_of, keys, plan.meta_steps, block=50)
    return jax.tree.map(lambda x: x[0], found.params)


Reader = Callable[[Params, jax.Array], jax.Array]
"""(a recommender's parameters, a person's newest items (N,)) -> hidden vectors (JUDGED, D)."""


def window(settings: sequence.Settings, width: int) -> Reader:
    """Reads the last ``width`` items in one pass: from width - JUDGED of them to width - 1."""

    def read(params: Params, tail: jax.Array) -> jax.Array:
        catalogue = sequence.item_embeddings(params)
        return sequence.hidden_vectors(settings, params, catalogue, tail[-width:])[
            width - JUDGED : -1
        ]

    return read


def exactly(settings: sequence.Settings, context: int) -> Reader:
    """Reads ``context`` items before each one to find, no more."""

    def read(params: Params, tail: jax.Array) -> jax.Array:
        catalogue = sequence.item_embeddings(params)
        first = len(tail) - JUDGED - context + jnp.arange(JUDGED)
        rows = tail[first[:, None] + jnp.arange(context)[None, :]]
        return jax.vmap(lambda row: sequence.hidden_vectors(settings, params, catalogue, row)[-1])(
            rows
        )

    return read


class Asked(NamedTuple):
    """What the places of a person's last items are computed from, beside the adapted state.

    Attributes:
      tail: the newest items (N,), those to find included.
      seen: the items met before them, padded with the number of items.
      key: breaks ties.
    """

    tail: jax.Array
    seen: jax.Array
    key: jax.Array


def places(
    num_items: int,
    learner: MetaLearner,
    read: Callable[[Params, PyTree, jax.Array], tuple[jax.Array, jax.Array]],
    params: Params,
    data: Sequences,
) -> np.ndarray:
    """The places (U, JUDGED) of each person's last items, after adapting to the older ones.

    Args:
      read: (parameters, state, a person's newest items) -> hidden vectors (JUDGED, D) and the
        catalogue (V, D).
    """
    rows = jnp.asarray(stretches(data, data.length))
    seen = np.full((len(data.length), int(data.length.max())), num_items, np.int32)
    for u, (start, n) in enumerate(zip(data.start, data.length - JUDGED, strict=True)):
        seen[u, :n] = data.items[start : start + n]

    def fetch(person: tuple[jax.Array, ...]) -> Episode:
        rows, seen, key = person
        query = Examples(Asked(rows.reshape(-1), seen, key), rows[-1, -JUDGED:], jnp.ones(JUDGED))
        return episode(rows)._replace(query=query)

    def placed(params: Params, state: PyTree, query: Examples) -> jax.Array:
        tail, seen, key = query.inputs
        hidden, catalogue = read(params, state, tail)
        new = jnp.ones(num_items).at[seen].set(0.0, mode="drop")
        met = jnp.cumsum(jax.nn.one_hot(query.label, num_items), axis=0)
        before = jnp.concatenate([jnp.zeros((1, num_items)), met[:-1]])
        candidates = new[None] * (before == 0)
        keys = jax.random.split(key, JUDGED)
        return jax.vmap(next_item.rank)(hidden @ catalogue.T, query.label, candidates, keys)

    key = jax.random.key(6)

    @jax.jit
    def many(params: Params, people: tuple[jax.Array, ...]) -> jax.Array:
        measure = lambda state, episode: placed(params, state, episode.query)
        options = {"fetch": fetch, "batch_size": None}
        return evaluate.after_adapting(learner, params, people, key, measure, **options)

    keys = jax.random.split(key, len(rows))
    return np.asarray(many(params, (rows, jnp.asarray(seen), keys)))
