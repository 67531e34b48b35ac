"""Intervals of an off-policy estimate: by resampling rounds, and one that holds for every n."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.decide.off_policy import Terms, value


class Bounds(NamedTuple):
    """The two ends of an interval, each ()."""

    low: jax.Array
    high: jax.Array


def bootstrap(
    terms: Terms,
    key: jax.Array,
    draws: int = 1_000,
    level: float = 0.95,
    *,
    studentized: bool = True,
) -> Bounds:
    """The interval over rounds drawn with replacement; each error in units of its own deviation.

    A resample in which few large weights turn up has a low estimate and a small deviation: that is
    how an estimate of skewed terms is far below the truth without showing it, and the studentized
    interval reaches up for it. It is still too narrow where a weight matters that the log does not
    happen to hold, since such a weight is in no resample.

    Args:
      terms: leaves (n,), or (E, n) with ``width`` (E,) for several estimators of one log, which
        are then resampled together.
      draws: resamples.
      level: of confidence.
      studentized: False is the percentile interval, which is narrower.

    References: Efron, Tibshirani, "An introduction to the bootstrap", 1993, ch. 12 and 13.
    """
    part_ExN, share_ExN = jnp.atleast_2d(terms.part), jnp.atleast_2d(terms.share)
    n = part_ExN.shape[1]
    products = (part_ExN**2, part_ExN * share_ExN, share_ExN**2) if studentized else ()
    rows_KxExN = jnp.stack([part_ExN, share_ExN, *products])

    @precision.highest
    def one(key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (n,), 0, n)
        times_N = jnp.zeros(n, part_ExN.dtype).at[drawn].add(1.0)
        return rows_KxExN @ times_N / n

    found_BxKxE = jax.lax.map(one, jax.random.split(key, draws), batch_size=min(100, draws))
    tail = (1.0 - level) / 2.0
    ends = lambda x_BxE: jnp.quantile(x_BxE, jnp.array([tail, 1.0 - tail]), axis=0)
    value_BxE = jax.vmap(_ratio)(found_BxKxE)
    low, high = ends(value_BxE)
    if studentized:
        here = rows_KxExN.mean(axis=2)
        middle, size = _ratio(here), _deviation(here, n)
        size_BxE = jax.vmap(_deviation, (0, None))(found_BxKxE, n)
        # a resample of equal terms has no deviation, and says nothing of the error in its units
        error_BxE = (value_BxE - middle[None]) / jnp.where(size_BxE > 0, size_BxE, jnp.inf)
        below, above = ends(error_BxE)
        low, high = middle - size * above, middle - size * below
    shape = jnp.shape(terms.width)
    return Bounds(low.reshape(shape), high.reshape(shape))


def _ratio(means_KxE: jax.Array) -> jax.Array:
    """The estimates (E,) from the means of part and share."""
    # nothing of a self-normalized estimate is left if every weight drawn is 0
    return means_KxE[0] / jnp.maximum(means_KxE[1], jnp.finfo(means_KxE.dtype).tiny)


def _deviation(means_KxE: jax.Array, n: int) -> jax.Array:
    """Their standard deviations (E,), linearized, from the means of the products too."""
    _, share, parts, both, shares = means_KxE
    value = _ratio(means_KxE)
    square = jnp.maximum(parts - 2.0 * value * both + value**2 * shares, 0.0)
    return jnp.sqrt(square / n) / jnp.maximum(share, jnp.finfo(share.dtype).tiny)


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
