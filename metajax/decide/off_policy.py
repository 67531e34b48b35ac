"""The value of a policy from decisions that another policy took: off-policy evaluation.

A log holds what was done, how likely that was, and what came of it. Each estimator makes a number
of every round, its `Terms`; the estimate is their mean, and `metajax.decide.confidence` gives its
intervals. All of it is pure: n rounds, A actions, no state.

    found = ips(logged, target_NxA)
    value(found), effective_sample_size(weights(logged, target_NxA))

References: Strehl et al., NeurIPS 2010 (IPS, clipped); Swaminathan, Joachims, NeurIPS 2015 (self-
normalized); Dudik et al., ICML 2011 (doubly robust); Wang et al., ICML 2017 (switch); Saito et al.,
NeurIPS Datasets and Benchmarks 2021 (obp, whose numbers these are).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide.logged import Logged


class Terms(NamedTuple):
    """What an estimator makes of n rounds: the estimate is ``mean(part) / mean(share)``.

    Attributes:
      part: (n,).
      share: (n,) ones, except where an estimator is self-normalized.
      width: () how far two values of ``part`` (linearized, if self-normalized) can be apart.
    """

    part: jax.Array
    share: jax.Array
    width: jax.Array


def value(terms: Terms) -> jax.Array:
    """The estimate ()."""
    return terms.part.mean() / terms.share.mean()


def of_actions(table_NxA: jax.Array, action: jax.Array) -> jax.Array:
    """The entries (n,) of the actions that were taken."""
    return jnp.take_along_axis(table_NxA, action[:, None], axis=1)[:, 0]


def weights(logged: Logged, target_NxA: jax.Array, clip: float = jnp.inf) -> jax.Array:
    """How much more often (n,) the target policy does what was done; at most ``clip``."""
    ratio = of_actions(target_NxA, logged.action) / logged.propensity
    return jnp.minimum(ratio, clip)


def effective_sample_size(weight: jax.Array) -> jax.Array:
    """Rounds () of equal weight that would tell as much: ``(sum w)^2 / sum w^2`` (Kish)."""
    return weight.sum() ** 2 / jnp.maximum((weight**2).sum(), jnp.finfo(weight.dtype).tiny)


def unsupported(
    logged: Logged, target_NxA: jax.Array, group: jax.Array | None = None, num_groups: int = 1
) -> jax.Array:
    """The share () of the target's decisions that the log has never shown: nothing is known there.

    Estimators that weight are off by what these decisions earn, whatever the size of the log.

    Args:
      group: (n,) the rounds that are alike, such as those of a position; all are, if it is None.
      num_groups: of them.
    """
    group = jnp.zeros(logged.action.shape, jnp.int32) if group is None else group
    shown = jnp.zeros((num_groups, target_NxA.shape[1])).at[group, logged.action].set(1.0)
    return (target_NxA * (1.0 - shown[group])).sum(axis=1).mean()


def on_policy(logged: Logged, bounds: tuple[float, float] = (0.0, 1.0)) -> Terms:
    """The mean reward: the value of the policy that has written the log."""
    return Terms(logged.reward, jnp.ones_like(logged.reward), jnp.asarray(bounds[1] - bounds[0]))


def ips(
    logged: Logged,
    target_NxA: jax.Array,
    clip: float = jnp.inf,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Terms:
    """Inverse propensity scoring: ``w r``, unbiased where propensities are right and none is 0.

    Args:
      target_NxA: the probabilities of the policy in question, a row for each round.
      clip: largest weight; a smaller one trades variance for bias.
      bounds: the smallest and the largest reward there is.
    """
    weight = weights(logged, target_NxA, clip)
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    return Terms(weight * logged.reward, jnp.ones_like(weight), weight.max() * (high - low))


def self_normalized(
    logged: Logged,
    target_NxA: jax.Array,
    clip: float = jnp.inf,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Terms:
    """Self-normalized IPS, ``sum w r / sum w``: a weighted mean, so never beyond the rewards."""
    weight = weights(logged, target_NxA, clip)
    width = weight.max() * (bounds[1] - bounds[0]) / weight.mean()
    return Terms(weight * logged.reward, weight, width)


def direct(
    target_NxA: jax.Array, model_NxA: jax.Array, bounds: tuple[float, float] = (0.0, 1.0)
) -> Terms:
    """The direct method: what a model of the rewards says that the policy earns.

    Its intervals are those of the contexts alone: that the model may be wrong is not in them.

    Args:
      model_NxA: predicted reward of every action, see `metajax.decide.reward_model`.
    """
    part = (target_NxA * model_NxA).sum(axis=1)
    return Terms(part, jnp.ones_like(part), jnp.asarray(bounds[1] - bounds[0]))


def doubly_robust(
    logged: Logged,
    target_NxA: jax.Array,
    model_NxA: jax.Array,
    clip: float = jnp.inf,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Terms:
    """The direct method, its errors corrected by IPS: right where either of the two is."""
    weight = weights(logged, target_NxA, clip)
    return _corrected(logged, target_NxA, model_NxA, weight, bounds)


def switch(
    logged: Logged,
    target_NxA: jax.Array,
    model_NxA: jax.Array,
    threshold: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Terms:
    """Switch-DR: doubly robust where the weight is at most ``threshold``, the model elsewhere."""
    weight = weights(logged, target_NxA)
    weight = jnp.where(weight <= threshold, weight, 0.0)
    return _corrected(logged, target_NxA, model_NxA, weight, bounds)


def _corrected(
    logged: Logged,
    target_NxA: jax.Array,
    model_NxA: jax.Array,
    weight: jax.Array,
    bounds: tuple[float, float],
) -> Terms:
    told = direct(target_NxA, model_NxA, bounds)
    surprise = logged.reward - of_actions(model_NxA, logged.action)
    # the prediction is one reward wide, a surprise goes up as far as it goes down
    width = (bounds[1] - bounds[0]) * (1.0 + 2.0 * weight.max())
    return Terms(told.part + weight * surprise, told.share, width)
