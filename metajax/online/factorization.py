"""Matrix factorization that learns from one event (user, item, label) at a time."""

from collections.abc import Callable
from typing import NamedTuple

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


def learned(rows: Rows, slots: jax.Array, num_users: int) -> Tables:
    """The tables that a state of `factorization` stands for."""
    weights = rows.read(slots, jnp.arange(len(slots)))
    return Tables(weights[:num_users], weights[num_users:])


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
    identity and of the logistic loss for `jax.nn.sigmoid`. The state is one array, the slots of
    users and below them those of items; see `learned`. All events of a round are learned from the
    state before it.

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
    num_users, width = tables.user.shape
    is_bias = jnp.arange(width) == 0

    def score(user: jax.Array, item: jax.Array) -> jax.Array:
        product = jnp.sum(jnp.where(is_bias[None], 0.0, user * item), axis=1)
        return mean + user[:, 0] + item[:, 0] + product

    def places(asked: Asked) -> jax.Array:
        return jnp.concatenate([asked.user, num_users + asked.item], axis=-1)

    def place_of(asked: Asked | jax.Array) -> jax.Array:
        return places(asked) if isinstance(asked, Asked) else asked

    def init(key: jax.Array) -> jax.Array:
        del key
        return rows.init(jnp.concatenate(tables))

    def predict(slots: jax.Array, asked: Asked | jax.Array) -> jax.Array:
        return link(score(*jnp.split(rows.read(slots, place_of(asked)), 2)))

    def learn(slots: jax.Array, told: Answered) -> jax.Array:
        place = place_of(told.asked)
        user, item = jnp.split(rows.read(slots, place), 2)
        error = (link(score(user, item)) - told.label)[:, None]
        slope = lambda own, other: jnp.where(is_bias[None], error, error * other) + penalty * own
        grads = jnp.concatenate([slope(user, item), slope(item, user)])
        real = jnp.tile(told.mask, 2)[:, None] > 0
        apart = len(told.label) == 1  # the row of one user and that of one item
        return rows.step(slots, place, jnp.where(real, grads, 0.0), apart)

    return Online(init, predict, learn, places)
