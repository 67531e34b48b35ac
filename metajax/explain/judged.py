"""How good an attribution to a support is: deletion, insertion, planted causes, agreement of ranks.

An attribution is (N,), one number for each interaction of a support: how much it raised one score.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.explain.support import Score
from metajax.types import Episode

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The shares of a support that are deleted or inserted."""


class Curves(NamedTuple):
    """A score while interactions leave and come, those that raised it most first.

    Attributes:
      deletion: (G,) the score of those that are left, at each of `SHARES`.
      insertion: (G,) the score of those that have come.
      fall: () the mean loss of score in deletion; more is better.
      rise: () the mean gain of score in insertion over a cold person's; more is better.
    """

    deletion: jax.Array
    insertion: jax.Array
    fall: jax.Array
    rise: jax.Array


def curves(score: Score, episode: Episode, attribution: jax.Array, item: jax.Array | int) -> Curves:
    """The deletion and insertion curves of an attribution (N,) of one item's score.

    Args:
      item: the row of the query whose score is explained.

    References: Petsiuk, Das, Saenko, "RISE", BMVC 2018.
    """
    _, label, mask = episode.support
    place = _place(attribution, mask)
    count = jnp.round(jnp.asarray(SHARES) * jnp.sum(mask > 0))
    left = 1.0 * (place[None, :] >= count[:, None])
    one = lambda kept: score(mask * kept, label)[item]
    drawn = jax.vmap(one)(jnp.concatenate([left, 1.0 - left]))  # one program for both
    deletion, insertion = drawn[: len(SHARES)], drawn[len(SHARES) :]
    fall = jnp.mean(deletion[0] - deletion)
    return Curves(deletion, insertion, fall, jnp.mean(insertion - insertion[0]))


def _place(attribution: jax.Array, mask: jax.Array) -> jax.Array:
    """The place (N,) of each row, the largest attribution first and padding last."""
    order = jnp.argsort(jnp.where(mask > 0, -attribution, jnp.inf), stable=True)
    return jnp.zeros(len(mask)).at[order].set(jnp.arange(len(mask), dtype=float))


def cause_recall(attribution: jax.Array, cause: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of the c planted causes that are among the c largest attributions in size.

    Args:
      attribution, cause, mask: (N,); cause is 1 for an interaction that had a part in the score.

    Returns:
      (), NaN for a support without a cause.
    """
    cause = (cause > 0) & (mask > 0)
    count = jnp.sum(cause)
    found = jnp.sum(cause & (_place(jnp.abs(attribution), mask) < count))
    return jnp.where(count > 0, found / jnp.maximum(count, 1), jnp.nan)


def rank_agreement(a: jax.Array, b: jax.Array, mask: jax.Array) -> jax.Array:
    """Spearman's correlation () of two attributions (N,) over the real rows; ties share a rank.

    NaN for fewer than three rows, or where one of the two is constant.
    """
    real = mask > 0
    pair = real[:, None] & real[None, :]

    def centered(x: jax.Array) -> jax.Array:
        less = jnp.sum(pair & (x[None, :] < x[:, None]), axis=1)
        same = jnp.sum(pair & (x[None, :] == x[:, None]), axis=1)
        rank = less + 0.5 * same
        mean = jnp.sum(jnp.where(real, rank, 0.0)) / jnp.maximum(jnp.sum(real), 1)
        return jnp.where(real, rank - mean, 0.0)

    x, y = centered(a), centered(b)
    spread = jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))
    known = (spread > 0) & (jnp.sum(real) > 2)
    return jnp.where(known, jnp.sum(x * y) / jnp.where(known, spread, 1.0), jnp.nan)
