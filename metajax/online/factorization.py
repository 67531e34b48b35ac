"""Matrix factorization that learns from one event (user, item, label) at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.online.prequential import Answered, Online
from metajax.online.rows import Rows


class Asked(NamedTuple):
    """Events before their labels: user (B,) and item (B,) int32."""

    user: jax.Array
    item: jax.Array


class Tables(NamedTuple):
    """Initial tables of users (U, 1 + D) and items (I, 1 + D): a bias, then D factors."""

    user: jax.Array
    item: jax.Array


def random_tables(key: jax.Array, num_users: int, num_items: int, dim: int, scale: float = 0.1):
    """Initial tables with biases of 0 and factors from N(0, scale^2)."""
    draw = lambda key, n: jnp.concatenate(
        [jnp.zeros((n, 1)), scale * jax.random.normal(key, (n, dim))], axis=1
    )
    key_user, key_item = jax.random.split(key)
    return Tables(draw(key_user, num_users), draw(key_item, num_items))


class State(NamedTuple):
    """The optimizer's slots of both tables, see `rows.Rows`."""

    user: Any
    item: Any


Link = Callable[[jax.Array], jax.Array]


def identity(score: jax.Array) -> jax.Array:
    """The link of ratings, for the squared error: the score as it is."""
    return score


def factorization(
    rows: Rows,
    tables: Tables,
    mean: float | jax.Array,
    *,
    penalty: float = 0.02,
    link: Link = identity,
) -> Online:
    """Biased matrix factorization, ``link(mean + b_u + b_i + p_u . q_i)``, learned online.

    The gradient of the score is ``link(score) - label``, that of half the squared error for the
    identity and of the logistic loss for `jax.nn.sigmoid`. Memory is that of the tables. All
    events of a round are learned from the state before it.

    Args:
      rows: the optimizer, of `metajax.online.rows`.
      tables: the initial values, see `random_tables`; a user or item without events is predicted
        from its initial row.
      mean: the mean label, added to every score.
      penalty: L2 penalty on the rows of the event's user and item.
      link: from score to prediction.

    References: Koren, Bell, Volinsky, "Matrix factorization techniques for recommender
    systems", IEEE Computer 2009.
    """
    is_bias = jnp.arange(tables.user.shape[1]) == 0

    def score(user: jax.Array, item: jax.Array) -> jax.Array:
        product = jnp.sum(jnp.where(is_bias[None], 0.0, user * item), axis=1)
        return mean + user[:, 0] + item[:, 0] + product

    def init(key: jax.Array) -> State:
        del key
        return State(rows.init(tables.user), rows.init(tables.item))

    def predict(state: State, asked: Asked) -> jax.Array:
        return link(score(rows.read(state.user, asked.user), rows.read(state.item, asked.item)))

    def learn(state: State, told: Answered) -> State:
        of_user, of_item = told.asked
        user, item = rows.read(state.user, of_user), rows.read(state.item, of_item)
        error = (link(score(user, item)) - told.label)[:, None]
        slope = lambda own, other: jnp.where(is_bias[None], error, error * other) + penalty * own
        real = told.mask[:, None] > 0
        to_user = jnp.where(real, slope(user, item), 0.0)
        to_item = jnp.where(real, slope(item, user), 0.0)
        return State(
            rows.step(state.user, of_user, to_user), rows.step(state.item, of_item, to_item)
        )

    return Online(init, predict, learn)
