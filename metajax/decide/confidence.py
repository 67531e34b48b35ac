"""Intervals of an off-policy estimate: by resampling rounds, and one that holds for every n."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide.off_policy import Terms, value


class Bounds(NamedTuple):
    """The two ends of an interval, each ()."""

    low: jax.Array
    high: jax.Array


def bootstrap(terms: Terms, key: jax.Array, draws: int = 1_000, level: float = 0.95) -> Bounds:
    """The percentile interval over rounds drawn with replacement.

    It is narrow, and too narrow where a few rounds carry the estimate: a weight that the log does
    not happen to hold is in no resample.

    Args:
      terms: leaves (n,), or (E, n) with ``width`` (E,) for several estimators of one log, which
        are then resampled together.
      draws: resamples.
      level: of confidence.

    References: Efron, Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
    """
    part_ExN, share_ExN = jnp.atleast_2d(terms.part), jnp.atleast_2d(terms.share)
    n = part_ExN.shape[1]

    def one(key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (n,), 0, n)
        times_N = jnp.zeros(n, part_ExN.dtype).at[drawn].add(1.0)
        # nothing of a self-normalized estimate is left if every weight drawn is 0
        total = jnp.maximum(share_ExN @ times_N, jnp.finfo(part_ExN.dtype).tiny)
        return (part_ExN @ times_N) / total

    found_BxE = jax.lax.map(one, jax.random.split(key, draws), batch_size=min(100, draws))
    tail = (1.0 - level) / 2.0
    low, high = jnp.quantile(found_BxE, jnp.array([tail, 1.0 - tail]), axis=0)
    shape = jnp.shape(terms.width)
    return Bounds(low.reshape(shape), high.reshape(shape))


def empirical_bernstein(terms: Terms, level: float = 0.95) -> Bounds:
    """The interval of Maurer and Pontil: it holds at every n for terms within their width.

    ``sqrt(2 s^2 log(4 / d) / n) + 7 width log(4 / d) / (3 (n - 1))`` to either side, d = 1 -
    ``level``. It is wide where weights are large, which is what is known then. The width is made of
    the largest weight in the log, unless weights are clipped; a self-normalized estimate is taken
    linearized, and so its interval is an approximation.

    References: Maurer, Pontil, COLT 2009; Thomas et al., AAAI 2015 (for off-policy evaluation).
    """
    mean = value(terms)
    n = terms.part.shape[0]
    linear = mean + (terms.part - mean * terms.share) / terms.share.mean()
    told = jnp.log(4.0 / (1.0 - level))
    spread = jnp.sqrt(2.0 * linear.var(ddof=1) * told / n)
    reach = spread + 7.0 * terms.width * told / (3.0 * (n - 1))
    return Bounds(mean - reach, mean + reach)
