"""The recommenders of the large case: one item tower, several ways to come to a user's vector.

An item is embedded as (v, b): a network on its content plus a row of its own. Every recommender is
a meta-learner on embedded items whose score is ``b + v . w``; they differ in how the user's vector
w comes from the events. All of them train the same tower, on the same tasks, by the same loss.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsp

from metajax import losses, optim
from metajax import precision as products
from metajax.learners.gradient.maml import gradient
from metajax.learners.parts import query_loss
from metajax.models import transformer
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that all recommenders share.

    Attributes:
      width: numbers of an embedded item: its vector and, last, its offset.
      hidden: of the tower's hidden layer.
      shots: events that a user's state is made from, at most.
    """

    width: int = 32
    hidden: int = 64
    shots: int = 20


def tower_init(key: jax.Array, num_features: int, sizes: Sizes) -> Params:
    """Parameters of the item tower."""
    first, second = jax.random.split(key)
    normal = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) / rows**0.5
    return {
        "hidden": {
            "kernel": normal(first, num_features, sizes.hidden),
            "bias": jnp.zeros(sizes.hidden),
        },
        "out": {
            "kernel": 0.3 * normal(second, sizes.hidden, sizes.width),
            "bias": jnp.zeros(sizes.width),
        },
    }


def embed(tower: Params, rows: jax.Array, content: jax.Array) -> jax.Array:
    """Items (..., width) of their rows (..., width) and content (..., F)."""
    flat = content.reshape(-1, content.shape[-1]).astype(jnp.float32)
    x = jax.nn.relu(transformer.dense(tower["hidden"], flat))
    return transformer.dense(tower["out"], x).reshape(rows.shape) + rows


def split(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors (N, D) and offsets (N,) of embedded items (N, D + 1)."""
    return inputs[:, :-1], inputs[:, -1]


def user_vector(learner: MetaLearner, params: Params, state: PyTree, width: int) -> jax.Array:
    """(w, 1) as (width,), which any embedded item is scored with by one product.

    Scores are linear in the embedded item, so that those of the unit vectors tell them all.
    """
    return learner.predict(params, state, jnp.eye(width))


def _learner(init, start, adapt, predict) -> MetaLearner:
    """The five functions; the loss is the log loss of the query."""
    outer_loss = query_loss(start, adapt, predict, losses.log_loss)
    return MetaLearner(init, start, adapt, predict, outer_loss)


class Posterior(NamedTuple):
    """What events add to a normal prior over w: to its precision (D, D), and to it times mean."""

    precision: jax.Array
    moment: jax.Array


@functools.lru_cache
def newton(sizes: Sizes, precision: float = 1.0) -> MetaLearner:
    """A ridge head for clicks: one Newton step of the log posterior of w, from the prior's mean.

    The prior is normal; its mean and log-precisions (D,) are meta-parameters. Each event adds
    ``p (1 - p) v v'`` to the precision, p the prior's probability: sums, so that events may come
    in any order and one by one.
    """
    dim = sizes.width - 1

    def init(key: jax.Array, episode: Episode) -> Params:
        del key, episode
        return {
            "mean": jnp.zeros(dim),
            "log_precision": jnp.full(dim, jnp.log(precision), jnp.float32),
        }

    def start(params: Params, profile: PyTree) -> Posterior:
        del params, profile
        return Posterior(jnp.zeros((dim, dim)), jnp.zeros(dim))

    @products.highest
    def adapt(params: Params, state: Posterior, examples: Examples, key: jax.Array) -> Posterior:
        del key
        v_NxD, offset = split(examples.inputs)
        chance = jax.nn.sigmoid(offset + v_NxD @ params["mean"])
        weight = chance * (1.0 - chance) * examples.mask
        working = (examples.label - chance) * examples.mask + weight * (v_NxD @ params["mean"])
        return Posterior(
            precision=state.precision + (v_NxD * weight[:, None]).T @ v_NxD,
            moment=state.moment + v_NxD.T @ working,
        )

    @products.highest
    def predict(params: Params, state: Posterior, inputs: jax.Array) -> jax.Array:
        prior = jnp.exp(params["log_precision"])
        precision, moment = jnp.diag(prior) + state.precision, prior * params["mean"] + state.moment
        w = jsp.solve(precision, moment, assume_a="pos")
        v_NxD, offset = split(inputs)
        return offset + v_NxD @ w

    return _learner(init, start, adapt, predict)


def summed_log_loss(shots: int) -> losses.Loss:
    """Log loss summed over the rows, over ``shots``: more events weigh more, as in a posterior."""
    return lambda score, label, mask: losses.log_loss(score, label, mask) * jnp.sum(mask) / shots


@functools.lru_cache
def few_steps(sizes: Sizes, num_steps: int = 5) -> MetaLearner:
    """A head that takes gradient steps on the events, a learned rate per number of w (Meta-SGD)."""
    head = Model(
        init=lambda key, profile, inputs: {"mean": jnp.zeros(sizes.width - 1)},
        apply=lambda params, profile, inputs: split(inputs)[1] + split(inputs)[0] @ params["mean"],
    )
    inner = optim.learned_rates(0.5)
    return gradient(head, inner, num_steps, loss=summed_log_loss(sizes.shots))


class Pooled(NamedTuple):
    """Sums of the disliked and the liked items' vectors (2, D), their numbers (2,)."""

    total: jax.Array
    number: jax.Array


@functools.lru_cache
def two_tower(sizes: Sizes) -> MetaLearner:
    """The conventional two-tower: a network on the mean disliked and mean liked item gives w.

    References: Covington et al., RecSys 2016; Yi et al., RecSys 2019.
    """
    dim, hidden = sizes.width - 1, 2 * sizes.hidden

    def init(key: jax.Array, episode: Episode) -> Params:
        del episode
        first, second = jax.random.split(key)
        rows = 2 * dim + 2
        normal = lambda key, a, b: jax.random.normal(key, (a, b)) / a**0.5
        return {
            "hidden": {"kernel": normal(first, rows, hidden), "bias": jnp.zeros(hidden)},
            "out": {"kernel": 0.3 * normal(second, hidden, dim), "bias": jnp.zeros(dim)},
        }

    def start(params: Params, profile: PyTree) -> Pooled:
        del params, profile
        return Pooled(jnp.zeros((2, dim)), jnp.zeros(2))

    def adapt(params: Params, state: Pooled, examples: Examples, key: jax.Array) -> Pooled:
        del params, key
        liked = examples.label > 0.5
        member_2xN = jnp.stack([~liked, liked]) * examples.mask[None, :]
        total = state.total + member_2xN @ split(examples.inputs)[0]
        return state._replace(total=total, number=state.number + member_2xN.sum(axis=1))

    def predict(params: Params, state: Pooled, inputs: jax.Array) -> jax.Array:
        mean = state.total / jnp.maximum(state.number, 1.0)[:, None]
        x = jnp.concatenate([mean.ravel(), jnp.log1p(state.number)])[None]
        x = jax.nn.relu(transformer.dense(params["hidden"], x))
        w = transformer.dense(params["out"], x)[0]
        v_NxD, offset = split(inputs)
        return offset + v_NxD @ w

    return _learner(init, start, adapt, predict)


class History(NamedTuple):
    """The newest events: embedded items (L, D + 1), labels (L,), which are real (L,)."""

    events: Examples


@functools.lru_cache
def over_history(sizes: Sizes, num_layers: int = 2, num_heads: int = 2) -> MetaLearner:
    """The conventional Transformer: it reads the events in order, its last state gives w.

    Each event is its item's vector and what was thought of it; a start token stands before them.

    References: Kang and McAuley, ICDM 2018.
    """
    dim, width = sizes.width - 1, sizes.width
    shape = transformer.Shape(num_layers, width, num_heads, num_heads, hidden=2 * width)

    def init(key: jax.Array, episode: Episode) -> Params:
        del episode
        keys = jax.random.split(key, 4)
        normal = lambda key, a, b: jax.random.normal(key, (a, b)) / a**0.5
        return {
            "stack": transformer.init(keys[0], shape, scale=0.1),
            "start": 0.1 * jax.random.normal(keys[1], (1, width)),
            "label": 0.5 * jax.random.normal(keys[2], (2, width)),
            "read": {"kernel": normal(keys[3], dim, width), "bias": jnp.zeros(width)},
            "out": {"kernel": 0.1 * normal(keys[3], width, dim), "bias": jnp.zeros(dim)},
        }

    def start(params: Params, profile: PyTree) -> History:
        del params, profile
        rows = sizes.shots
        empty = Examples(jnp.zeros((rows, width)), jnp.zeros(rows), jnp.zeros(rows))
        return History(empty)

    def adapt(params: Params, state: History, examples: Examples, key: jax.Array) -> History:
        del params, key
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), state.events, examples)
        order = jnp.argsort(both.mask <= 0, stable=True)
        count = jnp.sum(both.mask > 0, dtype=jnp.int32)
        first = jnp.maximum(count - sizes.shots, 0)
        newest = jax.lax.dynamic_slice(order, (first,), (sizes.shots,))
        return History(jax.tree.map(lambda x: x[newest], both))

    def predict(params: Params, state: History, inputs: jax.Array) -> jax.Array:
        events = state.events
        liked = params["label"][(events.label > 0.5).astype(jnp.int32)]
        token = transformer.dense(params["read"], split(events.inputs)[0]) + liked
        x = jnp.concatenate([params["start"], token])
        last = transformer.forward(shape, params["stack"], x)
        count = jnp.sum(events.mask > 0, dtype=jnp.int32)
        w = transformer.dense(params["out"], last[count][None])[0]
        v_NxD, offset = split(inputs)
        return offset + v_NxD @ w

    return _learner(init, start, adapt, predict)


def mean_user(sizes: Sizes) -> MetaLearner:
    """Everyone is the mean user: w does not move."""
    return few_steps(sizes, 0)


def folding(mean: jax.Array, precision: float) -> Params:
    """The parameters of `newton` for a joint model: the mean user, one precision for all of w."""
    return {"mean": mean, "log_precision": jnp.full(mean.shape, jnp.log(precision), jnp.float32)}


def descending(mean: jax.Array, rate: float = 1.0) -> Params:
    """The parameters of `few_steps` for a joint model: from the mean user, one rate for all."""
    rates = {"mean": jnp.full(mean.shape, jnp.log(rate), jnp.float32)}
    return {"model": {"mean": mean}, "rates": rates}
