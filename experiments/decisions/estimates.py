"""Every off-policy estimator on one log, with both of its intervals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.decide import confidence, off_policy
from metajax.decide.logged import Logged
from metajax.decide.off_policy import Terms

MEAN, IPS, CLIPPED, SELF, DIRECT, DOUBLE, SWITCH = ARMS = (
    "mean of the log", "IPS", "IPS, clipped", "self-normalized IPS", "direct method",
    "doubly robust", "switch-DR",
)  # fmt: skip
"""The first does not correct for who wrote the log: it is the value of the policy that did."""


class Found(NamedTuple):
    """What E estimators say: value (E,), and the two ends (E,) of each interval."""

    value: jax.Array
    bootstrap: confidence.Bounds
    bernstein: confidence.Bounds


def terms_of(
    config: Any, log: Logged, target: jax.Array, model: jax.Array, bounds: tuple[float, float]
) -> dict[str, Terms]:
    """The terms of every arm.

    Args:
      config: with ``clip`` and ``threshold``.
      target, model: (n, A) the probabilities of the policy in question, and predicted rewards.
    """
    return {
        MEAN: off_policy.on_policy(log, bounds),
        IPS: off_policy.ips(log, target, bounds=bounds),
        CLIPPED: off_policy.ips(log, target, config.clip, bounds),
        SELF: off_policy.self_normalized(log, target, bounds=bounds),
        DIRECT: off_policy.direct(target, model, bounds),
        DOUBLE: off_policy.doubly_robust(log, target, model, bounds=bounds),
        SWITCH: off_policy.switch(log, target, model, config.threshold, bounds),
    }


def of_log(
    config: Any,
    log: Logged,
    target: jax.Array,
    model: jax.Array,
    key: jax.Array,
    draws: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Found:
    """All arms of one log, resampled together."""
    told = terms_of(config, log, target, model, bounds)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(told[arm] for arm in ARMS))
    return Found(
        jax.vmap(off_policy.value)(stacked),
        confidence.bootstrap(stacked, key, draws),
        jax.vmap(confidence.empirical_bernstein)(stacked),
    )


def on_policy(log: Logged, draws: int) -> list[float]:
    """The mean reward of a log with both intervals: value, low, high, low, high."""
    terms = off_policy.on_policy(jax.tree.map(jnp.asarray, log), bounds_of(log))
    low, high = confidence.bootstrap(terms, jax.random.key(3), draws)
    ends = confidence.empirical_bernstein(terms)
    return [float(x) for x in (off_policy.value(terms), low, high, *ends)]


def bounds_of(log: Logged) -> tuple[float, float]:
    """The smallest and the largest reward: 0 and 1, unless the log has others."""
    reward = np.asarray(log.reward)
    return min(0.0, float(reward.min())), max(1.0, float(reward.max()))
