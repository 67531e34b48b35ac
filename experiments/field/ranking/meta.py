"""Meta-learners that rank a catalogue: what they learn across users is how a new one is folded in.

Both keep a vector for every item, which the outer loss trains: the softmax of what a training user
meets later among all items, after K of the user's items were shown, K drawn anew each time. In one
the user's vector is the ridge solution of implicit ALS on these vectors, and the gradient runs
through it; in the other it is their mean. Both start from the vectors of implicit ALS, so that the
first is ALS fold-in before it is trained: the arm R4 is its ablation.

References: Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form
solvers", ICLR 2019; Snell, Swersky, Zemel, "Prototypical networks", NeurIPS 2017.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp

from metajax.benchmark import ranking
from metajax.benchmark.ranking_arms import Scorer, Sparse
from metajax.evaluation import evaluate
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

Head = Literal["ridge", "mean"]
MOST_ITEMS, MOST_TARGETS = 200, 30
MOST_SHOWN = max(ranking.SHOTS)


class Start(NamedTuple):
    """What a learner starts from.

    Attributes:
      vectors: (I, D) of the items.
      unobserved: weight of a pair that was not observed, see `ranking_arms.ials`.
      penalty: of the ridge, whole: not per interaction.
      known: (I,) whether an item was met in training.
    """

    vectors: np.ndarray
    unobserved: float
    penalty: float
    known: np.ndarray


def learner(start_from: Start, head: Head) -> MetaLearner:
    """The learner; inputs are item numbers (N,), labels are not read: every row is a meeting.

    The state is sums over the user's items, ``(D, D)`` and ``(D,)`` numbers, and their count, so
    that adapting to items one by one is adapting to all of them.
    """
    first = jnp.asarray(start_from.vectors, jnp.float32)
    num_items, dim = first.shape
    open_to = jnp.asarray(start_from.known)

    def init(key: jax.Array, episode: Episode) -> Params:
        return {
            "shown": first,
            "listed": first,
            "bias": jnp.zeros(num_items),
            "log_scale": jnp.log(8.0),
            "log_unobserved": jnp.log(jnp.float32(start_from.unobserved)),
            "log_penalty": jnp.log(jnp.float32(start_from.penalty)),
        }

    def start(params: Params, profile: PyTree) -> PyTree:
        return {"gram": jnp.zeros((dim, dim)), "sum": jnp.zeros(dim), "count": jnp.zeros(())}

    def adapt(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        shown = params["shown"][examples.inputs] * examples.mask[:, None]
        return {
            "gram": state["gram"] + shown.T @ shown,
            "sum": state["sum"] + shown.sum(axis=0),
            "count": state["count"] + examples.mask.sum(),
        }

    def vector(params: Params, state: PyTree) -> jax.Array:
        if head == "mean":
            return state["sum"] / jnp.maximum(state["count"], 1.0)
        every = params["shown"].T @ params["shown"]
        ridge = jnp.exp(params["log_penalty"]) * jnp.eye(dim)
        normal = state["gram"] + jnp.exp(params["log_unobserved"]) * every + ridge
        return jnp.linalg.solve(normal, state["sum"])

    def predict(params: Params, state: PyTree, inputs: jax.Array) -> jax.Array:
        found = params["listed"][inputs] @ vector(params, state)
        return jnp.exp(params["log_scale"]) * found + params["bias"][inputs]

    def loss(params: Params, episode: Episode, key: jax.Array):
        state = adapt(params, start(params, episode.profile), episode.support, key)
        score = predict(params, state, jnp.arange(num_items))
        shown = jnp.zeros(num_items).at[episode.support.inputs].max(episode.support.mask)
        score = jnp.where(open_to & (shown == 0), score, -1e9)
        query, mask = episode.query.inputs, episode.query.mask
        each = -jax.nn.log_softmax(score)[query] * mask
        value = jnp.sum(each) / jnp.maximum(jnp.sum(mask), 1.0)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, loss)


class Users(NamedTuple):
    """Training users: item numbers (U, W), and a mask (U, W)."""

    item: jax.Array
    mask: jax.Array


def users_of(met: Sparse, seed: int = 0) -> Users:
    """The users of at least 2 items; of more than 200 items so many, drawn at random."""
    rng, rows = np.random.default_rng(seed), []
    for first, last in zip(met.indptr[:-1], met.indptr[1:], strict=True):
        if last - first >= 2:
            rows.append(rng.permutation(met.indices[first:last])[:MOST_ITEMS])
    width = max(map(len, rows))
    item, mask = np.zeros((2, len(rows), width))
    for i, row in enumerate(rows):
        item[i, : len(row)], mask[i, : len(row)] = row, 1.0
    return Users(jnp.asarray(item, jnp.int32), jnp.asarray(mask, jnp.float32))


def sampler(num_tasks: int) -> Callable[[Users, jax.Array], Episode]:
    """Batches of tasks: K items of a user are shown, and up to 30 others are to be found."""
    shots = jnp.asarray(ranking.SHOTS)

    def one(users: Users, key: jax.Array) -> Episode:
        key_user, key_order, key_shots = jax.random.split(key, 3)
        row = jax.random.randint(key_user, (), 0, users.item.shape[0])
        mask = users.mask[row]
        drawn = jnp.where(mask > 0, jax.random.uniform(key_order, mask.shape), jnp.inf)
        order = jnp.argsort(drawn)
        width = MOST_SHOWN + MOST_TARGETS
        order = jnp.pad(order, (0, max(0, width - order.shape[0])), mode="edge")[:width]
        count = jnp.sum(mask)
        wanted = shots[jax.random.randint(key_shots, (), 0, len(ranking.SHOTS))]
        given = jnp.minimum(wanted, jnp.floor(count / 2)).astype(jnp.int32)
        place = jnp.arange(width)
        item, real = users.item[row][order], place < count
        shown = (place[:MOST_SHOWN] < given).astype(jnp.float32)
        ask = jnp.roll(item, -given)[:MOST_TARGETS]
        asked = (jnp.roll(real, -given) & (place < width - given))[:MOST_TARGETS]
        ones = lambda x: jnp.ones(x.shape)
        support = Examples(item[:MOST_SHOWN], ones(shown), shown)
        return Episode((), support, Examples(ask, ones(ask), asked.astype(jnp.float32)))

    return lambda users, key: jax.vmap(one, (None, 0))(users, jax.random.split(key, num_tasks))


Scores = Callable[[Params, jax.Array, jax.Array], jax.Array]
"""(params, items shown (T, W), their mask) -> scores (T, I) of all items."""


def scores_of(made: MetaLearner, num_items: int) -> Scores:
    """The scores of all items for users who were shown some."""
    every = jnp.arange(num_items)
    asked = Examples(every, jnp.ones(num_items), jnp.ones(num_items))

    def score(params: Params, item: jax.Array, mask: jax.Array) -> jax.Array:
        whole = lambda shown: Episode((), shown, asked)
        tasks, key = Examples(item, mask, mask), jax.random.key(0)
        return evaluate.predictions(made, params, tasks, key, fetch=whole)

    return score


def _padded(histories: Sparse) -> tuple[jax.Array, jax.Array]:
    """Item numbers (T, W) of histories, and their mask; W is a power of 2."""
    width = 2 ** max(0, int(np.diff(histories.indptr).max(initial=1)) - 1).bit_length()
    item, mask = np.zeros((2, histories.shape[0], max(1, width)))
    for i, (a, b) in enumerate(zip(histories.indptr[:-1], histories.indptr[1:], strict=True)):
        item[i, : b - a], mask[i, : b - a] = histories.indices[a:b], 1.0
    return jnp.asarray(item, jnp.int32), jnp.asarray(mask, jnp.float32)


def scorer_of(made: MetaLearner, params: Params) -> Scorer:
    """A trained learner as a function from histories to scores of all items."""
    score = jax.jit(scores_of(made, params["bias"].shape[0]))
    return lambda histories: np.asarray(score(params, *_padded(histories)))


def validation(made: MetaLearner, valid: Sequence[ranking.Lists]) -> Callable[[Params], jax.Array]:
    """Minus `ranking.quality` as a JAX function of the parameters: what training is stopped by."""
    gain = 1.0 / jnp.log2(jnp.arange(2.0, 12.0))
    told = []
    for lists in valid:
        relevant = lists.relevant.toarray() * lists.candidates
        some = np.flatnonzero(relevant.any(axis=1))
        history, wanted = sp.csr_matrix(lists.history[some]), jnp.asarray(relevant[some])
        seen = jnp.asarray((history.toarray() > 0) | ~lists.candidates)
        shown = _padded(history)
        told.append((shown, seen, wanted))

    def of(params: Params) -> jax.Array:
        found = []
        for shown, seen, wanted in told:
            score = scores_of(made, wanted.shape[1])(params, *shown)
            score = jnp.where(seen, -jnp.inf, score)
            best = jax.lax.top_k(score, min(10, score.shape[1]))[1]
            hit = jnp.take_along_axis(wanted, best, axis=1)
            most = jnp.minimum(wanted.sum(axis=1).astype(jnp.int32), 10)
            ideal = jnp.cumsum(gain)[most - 1]
            found.append(jnp.mean(hit @ gain[: hit.shape[1]] / ideal))
        return -jnp.mean(jnp.stack(found))

    return of


class Trained(NamedTuple):
    """Meta-learners of several seeds, each at its best outer step on validation.

    Attributes:
      scorers: one of each seed.
      valid: (S,) `ranking.quality` of each on validation.
      best_step: (S,) the outer step of each.
    """

    scorers: list[Scorer]
    valid: np.ndarray
    best_step: np.ndarray


def fit(
    met: Sparse,
    begin: Start,
    head: Head,
    rate: float,
    valid: Sequence[ranking.Lists],
    *,
    seeds: int,
    num_steps: int,
    num_tasks: int,
    block: int = 50,
    devices: int = 1,
    **options: Any,
) -> Trained:
    """Meta-trained scorers.

    Args:
      rate: of Adam across tasks.
      valid: lists of validation users, which choose the step.
      block: outer steps between two looks at them.
      options: of `loop.fit`, such as ``patience``.
    """
    made = learner(begin, head)
    # The rate stands in the state, so that all trials are one compiled program.
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.inject_hyperparams(optax.scale)(step_size=-rate),
    )
    fitted = loop.fit(
        on_devices(devices, loop.recipe(made, tx)),
        sampler(num_tasks),
        users_of(met),
        jax.random.split(jax.random.key(1), seeds),
        num_steps,
        block=block,
        validate=validation(made, valid),
        **options,
    )
    of_seed = lambda i: jax.tree.map(lambda x: x[i], fitted.params)
    scorers = [scorer_of(made, of_seed(i)) for i in range(seeds)]
    return Trained(scorers, -fitted.history["valid"].min(axis=1), fitted.best_step)
