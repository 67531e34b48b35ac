"""From scores to a distribution over the rating scale, by one link that every arm gets alike.

A score says which rating is expected; absolute error, squared error and ranking each want another
number of the same belief. So each arm's scores are put through a cumulative logistic link,
``P(label <= level_k) = sigmoid(cut_k - slope * score)``, whose cut points and slope are fitted by
maximum likelihood on meta-validation. From the distribution come the median (best in absolute
error), the mean (best in squared error), the expected gain (best in nDCG), and two proper scores of
the distribution itself: the log-loss and the CRPS. An arm that has a distribution of its own brings
it instead.

References: McCullagh, "Regression models for ordinal data", JRSS B 1980; Gneiting, Raftery,
"Strictly proper scoring rules, prediction, and estimation", JASA 2007.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses, precision
from metajax.evaluation import metrics
from metajax.types import Episode, UserError

MOST_LEVELS = 41
PROPER = ("mae_calibrated", "mse_calibrated", "log_loss", "crps")
"""What is kept of `metrics_of`; its nDCG is that of the scores, which it orders alike."""
FAR = 1e4  # a cut point beyond every score
NEWTON_STEPS = 40


class Link(NamedTuple):
    """A fitted cumulative logistic link.

    Attributes:
      center, spread: mean and standard deviation of the scores it was fitted on.
      slope: how steeply standardized scores move the logits, at least 0.
      cuts: (L - 1,) ascending cut points.
      levels: (L,) the ratings, ascending.
    """

    center: jax.Array
    spread: jax.Array
    slope: jax.Array
    cuts: jax.Array
    levels: jax.Array


def levels_of(labels: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """The ratings (L,) that a distribution is over, ascending: those that occur.

    Where more than 41 do, the scale is continuous: 41 levels, evenly spaced from its one end to the
    other, stand for it, and a label counts as the nearest.

    Args:
      labels: (n,) of the training rows.
      scale: lowest and highest rating.

    Raises:
      UserError: fewer than two different ratings occur.
    """
    found = np.unique(np.asarray(labels, np.float32))
    if len(found) < 2:
        raise UserError("all ratings are the same: there is no distribution to predict")
    if len(found) <= MOST_LEVELS:
        return found
    return np.linspace(*scale, MOST_LEVELS, dtype=np.float32)


@jax.jit
def nearest(label: jax.Array, levels: jax.Array) -> jax.Array:
    """The index (...,) of the level nearest to each label (...,)."""
    middles = (levels[1:] + levels[:-1]) / 2
    return jnp.searchsorted(middles, label)


def fit(
    score: jax.Array, label: jax.Array, mask: jax.Array, levels: jax.Array, prior: float = 1.0
) -> Link:
    """The link of greatest likelihood, by Newton's method; pure, vmap it over seeds.

    The likelihood is concave. It is the same for scores that are shifted or scaled: so is the
    distribution. Scores that order the labels worse than chance get slope 0, as constant ones do.

    Args:
      score, label, mask: of any one shape, e.g. the query rows (T, Q) of meta-validation.
      levels: (L,) from `levels_of`.
      prior: how many ratings more there are, spread evenly over the levels, at the mean score. They
        leave every level some probability, also where validation is small; 0 for none.
    """
    score, mask = jnp.ravel(score), jnp.ravel(mask)
    level = nearest(jnp.ravel(label), levels)
    num_levels = levels.shape[0]
    center = losses.masked_mean(score, mask)
    variance = losses.masked_mean((score - center) ** 2, mask)
    constant = variance <= 1e-10 * center**2 + 1e-30
    spread = jnp.where(constant, 1.0, jnp.sqrt(jnp.where(constant, 1.0, variance)))
    z = jnp.where(constant | (mask <= 0), 0.0, (score - center) / spread)

    share = prior / num_levels
    weight = jnp.append(mask, jnp.full(num_levels, share))
    rows = jnp.append(z, jnp.zeros(num_levels)), jnp.append(level, jnp.arange(num_levels))

    def loss(theta: jax.Array) -> jax.Array:
        """Negative log-likelihood of cuts and slope, per row."""
        log_p = _log_probability(theta[:-1], theta[-1] * rows[0], rows[1])
        total = -jnp.sum(jnp.where(weight > 0, weight * log_p, 0.0))
        return (total + 1e-4 * theta[-1] ** 2) / jnp.sum(weight)

    count = jnp.zeros(num_levels).at[rows[1]].add(weight)
    level_cuts = _logits(count)
    found = _newton(loss, jnp.append(_logits(count + 0.5), 0.0))
    ordered = (found[-1] > 0) & ~constant & jnp.all(jnp.isfinite(found))
    cuts = jnp.where(ordered, found[:-1], level_cuts)
    return Link(center, spread, jnp.where(ordered, found[-1], 0.0), cuts, levels)


@jax.jit
def probabilities(link: Link, score: jax.Array) -> jax.Array:
    """The distribution (..., L) over the levels of rows with scores (...,)."""
    z = link.slope * (jnp.ravel(score) - link.center) / link.spread
    edges = jnp.concatenate([jnp.array([-FAR]), link.cuts, jnp.array([FAR])])
    left_NxE = edges[None, :] - z[:, None]
    below, above = jax.nn.sigmoid(left_NxE), jax.nn.sigmoid(-left_NxE)
    # Differences of the smaller tail: those of the larger one round off.
    from_below, from_above = jnp.diff(below), -jnp.diff(above)
    p = jnp.where(left_NxE[:, 1:] > 0, from_above, from_below)
    p = jnp.maximum(p, jnp.finfo(p.dtype).tiny)
    p = p / jnp.sum(p, axis=-1, keepdims=True)
    return p.reshape(*score.shape, -1)


@jax.jit
def median(p: jax.Array, levels: jax.Array) -> jax.Array:
    """The lowest level (...,) with at least half of the probability (..., L) up to it.

    NaN where the probabilities are: the scores of an arm that has diverged.
    """
    up_to = jnp.cumsum(p, axis=-1)
    found = levels[jnp.argmax(up_to >= 0.5 - 1e-6, axis=-1)]
    return jnp.where(jnp.isnan(up_to[..., -1]), jnp.nan, found)


@jax.jit
@precision.highest
def mean(p: jax.Array, levels: jax.Array) -> jax.Array:
    """The expected rating (...,)."""
    return p @ levels


@jax.jit
@precision.highest
def expected_gain(p: jax.Array, levels: jax.Array) -> jax.Array:
    """The expected gain ``2^label - 1`` (...,), by which nDCG is greatest.

    Under one link it rises with the score, so that ordering by either is the same.
    """
    return p @ (jnp.exp2(levels) - 1.0)


@jax.jit
def log_loss(p: jax.Array, levels: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of ``-log p(label)`` in nats over the real rows (N,) of a task; NaN if there are none.

    Args:
      p: (N, L) distributions.
      levels: (L,) the ratings.
      label, mask: (N,).
    """
    own = jnp.take_along_axis(p, nearest(label, levels)[:, None], axis=-1)[:, 0]
    return _task_mean(-jnp.log(own), mask, p)


@jax.jit
@precision.highest
def crps(p: jax.Array, levels: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean continuous ranked probability score over the real rows (N,), in the label's units.

    The integral of ``(F(x) - 1[label <= x])^2``, as ``E|X - label| - E|X - X'| / 2``: an absolute
    error that a distribution can have. Of a point it is the absolute error itself.

    Args: as `log_loss`.
    """
    off = jnp.sum(p * jnp.abs(levels[None, :] - label[:, None]), axis=-1)
    up_to = jnp.cumsum(p, axis=-1)[:, :-1]
    own_spread = (up_to * (1 - up_to)) @ jnp.diff(levels)
    return _task_mean(off - own_spread, mask, p)


def metrics_of(
    p: jax.Array, levels: jax.Array, episodes: Episode, key: jax.Array
) -> dict[str, jax.Array]:
    """Per-task metrics (T,) of distributions (T, Q, L) over the query rows of tasks.

    Returns:
      ``mae_calibrated`` of the median, ``mse_calibrated`` of the mean, ``ndcg@5_calibrated`` of the
      expected gain, ``log_loss`` and ``crps``.
    """
    query = episodes.query
    true = (query.label, query.mask)
    keys = jax.random.split(key, p.shape[0])
    by_gain = jax.vmap(functools.partial(metrics.ndcg, k=5))
    return {
        "mae_calibrated": jax.vmap(metrics.mae)(median(p, levels), *true),
        "mse_calibrated": jax.vmap(metrics.rmse)(mean(p, levels), *true) ** 2,
        "ndcg@5_calibrated": by_gain(expected_gain(p, levels), *true, keys),
        "log_loss": jax.vmap(log_loss, (0, None, 0, 0))(p, levels, *true),
        "crps": jax.vmap(crps, (0, None, 0, 0))(p, levels, *true),
    }


def proper(
    link: Link, scores: jax.Array, episodes: Episode, key: jax.Array
) -> dict[str, jax.Array]:
    """The `PROPER` metrics (T,) of what a link makes of the scores (T, Q) of tasks."""
    found = metrics_of(probabilities(link, scores), link.levels, episodes, key)
    return {name: found[name] for name in PROPER}


def _logits(count: jax.Array) -> jax.Array:
    """The cut points (L - 1,) at which every level has its share of the counts (L,)."""
    low = jnp.cumsum(count)[:-1]
    high = jnp.cumsum(count[::-1])[::-1][1:]
    return jnp.log(low) - jnp.log(high)


def _log_probability(cuts: jax.Array, z: jax.Array, level: jax.Array) -> jax.Array:
    """The log-probability (N,) of levels (N,) at logits z (N,); NaN unless cuts ascend."""
    edges = jnp.concatenate([jnp.array([-FAR]), cuts, jnp.array([FAR])])
    low, high = edges[level] - z, edges[level + 1] - z
    return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log1p(-jnp.exp(low - high))


@precision.highest
def _newton(loss, start: jax.Array) -> jax.Array:
    """The minimum of a convex loss by Newton steps, each as long as lowers the loss the most."""
    lengths = 2.0 ** -jnp.arange(12.0)

    def step(theta: jax.Array, _) -> tuple[jax.Array, None]:
        slope, curvature = jax.grad(loss)(theta), jax.hessian(loss)(theta)
        ridge = 1e-7 * jnp.eye(theta.shape[0]) * (1 + jnp.trace(curvature))
        tried = theta[None, :] - jnp.outer(lengths, jnp.linalg.solve(curvature + ridge, slope))
        value = jax.vmap(loss)(tried)
        value = jnp.where(jnp.isfinite(value), value, jnp.inf)
        best = jnp.argmin(value)
        return jnp.where(value[best] < loss(theta), tried[best], theta), None

    return jax.lax.scan(step, start, length=NEWTON_STEPS)[0]


def _task_mean(values: jax.Array, mask: jax.Array, p: jax.Array) -> jax.Array:
    failed = jnp.any(jnp.isnan(jnp.sum(p, axis=-1)) & (mask > 0))
    value = losses.masked_mean(values, mask)
    return jnp.where(jnp.any(mask > 0) & ~failed, value, jnp.nan)
