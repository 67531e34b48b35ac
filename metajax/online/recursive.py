"""Recursive ridge regression with forgetting: a Kalman filter for one linear model per group."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.online.factorization import Asked
from metajax.online.prequential import Answered, Online


class Belief(NamedTuple):
    """The weights (G, D) of each group, and their covariance (G, D, D) over the noise variance."""

    mean: jax.Array
    spread: jax.Array


@precision.highest
def _after(belief: Belief, x: jax.Array, y: jax.Array, forgetting: float | jax.Array) -> Belief:
    """A group's belief, mean (D,) and spread (D, D), after one event: features x (D,), target y."""
    along = belief.spread @ x
    gain = along / (forgetting + x @ along)
    mean = belief.mean + gain * (y - x @ belief.mean)
    return Belief(mean, (belief.spread - jnp.outer(gain, along)) / forgetting)


def recursive_ridge(
    num_groups: int,
    features: Callable[[jax.Array], jax.Array],
    prior_mean: jax.Array,
    prior_precision: jax.Array,
    *,
    offset: Callable[[jax.Array], jax.Array] | None = None,
    forgetting: float | jax.Array = 1.0,
) -> Online:
    """Ridge regression of each group of events by itself, exact after every event.

    After the events s = 1..t of a group, the weights minimize ``sum_s f^(t-s) (y_s - x_s w)^2 +
    f^t (w - m)' diag(p) (w - m)``, with f the forgetting: the past fades, the prior with it. One
    event costs D^2 times the events of its round, which are taken one after the other.

    Args:
      num_groups: G, such as the number of users.
      features: item (B,) -> x (B, D), fixed.
      prior_mean: m (D,); prior_precision: p (D,).
      offset: item (B,) -> (B,) a fixed term of the prediction; 0 by default.
      forgetting: f in (0, 1]; 1 forgets nothing.

    References: Kalman, 1960; Haykin, "Adaptive filter theory", recursive least squares.
    """
    base = offset or (lambda item: jnp.zeros(item.shape))
    dim = len(prior_mean)

    def init(key: jax.Array) -> Belief:
        del key
        mean = jnp.broadcast_to(prior_mean, (num_groups, dim))
        spread = jnp.broadcast_to(jnp.diag(1 / prior_precision), (num_groups, dim, dim))
        return Belief(mean + 0.0, spread + 0.0)

    @precision.highest
    def predict(belief: Belief, asked: Asked) -> jax.Array:
        x_BxD = features(asked.item)
        return base(asked.item) + jnp.sum(x_BxD * belief.mean[asked.user], axis=1)

    @precision.highest
    def learn(belief: Belief, told: Answered) -> Belief:
        if len(told.label) == 1:  # XLA copies a table of which a single row changes
            told = jax.tree.map(lambda x: jnp.pad(x, (0, 1)), told)
        user, item = told.asked
        x_BxD, above = features(item), told.label - base(item)

        def event(rows: Belief, number: jax.Array):
            old = Belief(rows.mean[number], rows.spread[number])
            new = _after(old, x_BxD[number], above[number], forgetting)
            mine = (user == user[number]) & (told.mask[number] > 0)
            put = lambda old, x: jnp.where(mine.reshape(-1, *(1,) * x.ndim), x[None], old)
            return Belief(*map(put, rows, new)), None

        # The rows of a round are read and written together: a table that is read between its
        # changes is copied for each. Events of one group in a round see each other in the rows.
        rows = Belief(belief.mean[user], belief.spread[user])
        rows, _ = jax.lax.scan(event, rows, jnp.arange(len(user)))
        return Belief(belief.mean.at[user].set(rows.mean), belief.spread.at[user].set(rows.spread))

    return Online(init, predict, learn)
