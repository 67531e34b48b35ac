"""Metrics of one task: ``(score (N,), label (N,), mask (N,)) -> scalar``; the caller vmaps.

Three families, on device, padding invisible:

- *rating*: `mae`, `rmse`.
- *decision*: `accuracy`, `precision_decision`, `recall_decision`, `f1` say yes where ``score >
  cutoff``; `auc` and `log_loss` judge the score itself.
- *ranking*: `ndcg`, `precision`, `recall`, `hit_rate`, `mrr`, `average_precision` look at the best
  ``k`` rows. They also take a ``key``, which orders rows of equal score at random: a constant
  scorer gets chance, not the order of the file. Metrics that are given the same key see the same
  order and, in one jitted function, share one sort.

A row is relevant where ``label > threshold``: 0 suits clicks; ratings of 4 and 5 stars are relevant
above 3. `ndcg` alone grades: its gain grows with the label, see there.

An undefined task gives NaN, to be skipped and counted by the caller: an empty list, a list without
a relevant row (every ranking metric), one class only (`auc`), a ratio without a denominator (the
decision metrics). A NaN score on a real row gives NaN too: that is a failed model and not an
undefined task, so count non-finite scores before averaging.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from metajax import losses


class DecisionMetric(Protocol):
    """A metric of decisions ``score > cutoff`` about rows with ``label > threshold``."""

    def __call__(
        self,
        score: jax.Array,
        label: jax.Array,
        mask: jax.Array,
        *,
        cutoff: float = 0.0,
        threshold: float = 0.0,
    ) -> jax.Array: ...


class RankingMetric(Protocol):
    """A metric of the best k rows, of which those with ``label > threshold`` are relevant."""

    def __call__(
        self,
        score: jax.Array,
        label: jax.Array,
        mask: jax.Array,
        key: jax.Array,
        *,
        k: int,
        threshold: float = 0.0,
    ) -> jax.Array: ...


def mae(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute error () of scores (N,), in the label's units, such as stars."""
    return _mean(jnp.abs(score - label), mask, score)


def rmse(score: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Root mean squared error () of scores (N,), in the label's units, such as stars."""
    return jnp.sqrt(_mean((score - label) ** 2, mask, score))


def log_loss(logit: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean binary cross-entropy (), in nats, of *logits* (N,) against labels (N,) in {0, 1}."""
    return _defined(losses.log_loss(logit, label, mask), jnp.any(mask > 0), logit, mask)


def auc(
    score: jax.Array, label: jax.Array, mask: jax.Array, *, threshold: float = 0.0
) -> jax.Array:
    """Probability that a relevant row scores above an irrelevant one: the area under the ROC curve.

    Ties count one half.

    Returns:
      A scalar; NaN unless both classes are present. O(N log N).
    """
    relevant = (label > threshold) & (mask > 0)
    irrelevant = (label <= threshold) & (mask > 0)
    num_irrelevant = jnp.sum(irrelevant)
    ascending = jnp.sort(jnp.where(irrelevant, score, jnp.inf))
    below = jnp.searchsorted(ascending, score, side="left")
    # The rows sorted out are infinite, and so may be a score.
    not_above = jnp.minimum(jnp.searchsorted(ascending, score, side="right"), num_irrelevant)
    wins = 0.5 * (below + not_above) / jnp.maximum(num_irrelevant, 1)
    both = (jnp.sum(relevant) > 0) & (num_irrelevant > 0)
    value = losses.masked_mean(wins, relevant.astype(wins.dtype))
    return _defined(value, both, score, mask)


def accuracy(
    score: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    cutoff: float = 0.0,
    threshold: float = 0.0,
) -> jax.Array:
    """Share () of rows where the decision ``score > cutoff`` agrees with ``label > threshold``."""
    return _mean(((score > cutoff) == (label > threshold)) * 1.0, mask, score)


def _share(of: Callable[[jax.Array, jax.Array, jax.Array], tuple]) -> DecisionMetric:
    """The share of a number of rows in another, NaN where that is 0.

    Args:
      of: (hits: rows decided on and relevant, rows decided on, relevant rows) -> (number, other).
    """

    def metric(score, label, mask, *, cutoff=0.0, threshold=0.0):
        _require_one_task(score, label, mask)
        said = (score > cutoff) & (mask > 0)
        relevant = (label > threshold) & (mask > 0)
        part, whole = of(jnp.sum(said & relevant), jnp.sum(said), jnp.sum(relevant))
        return _defined(part / jnp.maximum(whole, 1), whole > 0, score, mask)

    return metric


precision_decision = _share(lambda hits, said, relevant: (hits, said))
"""Share of the rows decided on (``score > cutoff``) that are relevant; NaN if none is."""
recall_decision = _share(lambda hits, said, relevant: (hits, relevant))
"""Share of the relevant rows that are decided on (``score > cutoff``); NaN if none is."""
f1 = _share(lambda hits, said, relevant: (2 * hits, said + relevant))
"""Harmonic mean of `precision_decision` and `recall_decision`: 2 hits / (decided + relevant); NaN
where nothing is relevant and nothing is decided on."""


HIGHEST_GRADE = 31.0
"""Labels from 0 to this are grades as they are; gains of higher ones would drown all others."""


def ndcg(
    score: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    k: int,
    scale: tuple[float | jax.Array, float | jax.Array] | None = None,
) -> jax.Array:
    """Discounted gain of the best k rows over that of the ideal order, from 0 to 1.

    The gain of a row is ``2^grade - 1``, its discount ``log2(position + 1)`` with positions from 1:
    ``ndcg_burges`` of ranx. Grades are not relevance above a threshold: a one-star rating has gain
    1, so that even the worst order of a list of ratings scores well above 0.

    The grade is the label itself if labels are grades already: from 0 to 31. Else it is the
    label rescaled linearly from the lowest and highest of the scale to 1 to 5 stars.

    Args:
      score: (N,), higher is better.
      label: (N,) on any scale.
      mask: (N,).
      key: orders rows of equal score.
      k: length of the list; may exceed N.
      scale: (lowest, highest) label of the data set; else those of the list decide, and lists are
        graded each on its own.

    References: Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    gain = jnp.where(mask > 0, jnp.exp2(_grades(label, mask, scale)) - 1.0, 0.0)
    top = _top(gain, score, mask, key, k)
    discount = 1.0 / jnp.log2(_positions(top) + 1.0)
    ideal = jnp.sum(jax.lax.top_k(gain, top.shape[0])[0] * discount)
    value = jnp.sum(top * discount) / jnp.where(ideal > 0, ideal, 1.0)
    return _defined(value, ideal > 0, score, mask)


def _grades(label: jax.Array, mask: jax.Array, scale: tuple | None) -> jax.Array:
    """The labels (N,) as grades, see `ndcg`."""
    label = label.astype(jnp.result_type(float))
    if scale is not None:
        low, high = map(jnp.asarray, scale)
    else:
        low = jnp.min(jnp.where(mask > 0, label, jnp.inf))
        high = jnp.max(jnp.where(mask > 0, label, -jnp.inf))
    graded = (low >= 0) & (high <= HIGHEST_GRADE)
    span = jnp.where(high > low, high - low, 1.0)
    grade = jnp.where(graded, label, 1.0 + 4.0 * (label - low) / span)
    return jnp.where(mask > 0, grade, 0.0)


def _of_list(value: Callable[[jax.Array, jax.Array, int], jax.Array]) -> RankingMetric:
    """The metric of a list, NaN where no row is relevant.

    Args:
      value: (which of the best rows are relevant (min(k, N),), relevant rows of all, k) -> metric.
    """

    def metric(score, label, mask, key, *, k, threshold=0.0):
        relevant = ((label > threshold) & (mask > 0)).astype(jnp.result_type(float))
        top, total = _top(relevant, score, mask, key, k), jnp.sum(relevant)
        return _defined(value(top, jnp.maximum(total, 1), k), total > 0, score, mask)

    return metric


precision = _of_list(lambda top, total, k: jnp.sum(top) / k)
"""Relevant rows among the best k, over k, also where the list is shorter than k."""
recall = _of_list(lambda top, total, k: jnp.sum(top) / total)
"""Share of all relevant rows that are among the best k."""
hit_rate = _of_list(lambda top, total, k: jnp.max(top))
"""1 if a relevant row is among the best k, else 0."""
mrr = _of_list(lambda top, total, k: jnp.max(top / _positions(top)))
"""Reciprocal position of the first relevant row, 0 where it is not among the best k."""
average_precision = _of_list(
    lambda top, total, k: jnp.sum(top * jnp.cumsum(top) / _positions(top)) / total
)
"""Precision at each relevant row among the best k, summed, over the number of all relevant."""


def order(score: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Row numbers (N,) from the best score to the worst, ties at random, padding at the end."""
    rows = jnp.arange(score.shape[0])
    jitter = jax.random.bits(key, score.shape)
    return jax.lax.sort((mask <= 0, -score, jitter, rows), num_keys=3)[-1]


def _top(values, score, mask, key, k) -> jax.Array:
    """The values (min(k, N),) of the best rows, best first."""
    if k < 1:
        raise ValueError(f"k is the length of a list and must be at least 1, not {k}")
    _require_one_task(values, score, mask)
    return values[order(score, mask, key)[:k]]


def _positions(top: jax.Array) -> jax.Array:
    return jnp.arange(1, top.shape[0] + 1, dtype=top.dtype)


def _mean(values, mask, score) -> jax.Array:
    return _defined(losses.masked_mean(values, mask), jnp.any(mask > 0), score, mask)


def _defined(value, defined, score, mask) -> jax.Array:
    """The value, or NaN where it is not defined or the score of a real row is NaN."""
    if score.shape != mask.shape:
        raise AssertionError(f"score and mask differ in shape: {score.shape}, {mask.shape}")
    failed = jnp.any(jnp.isnan(score) & (mask > 0))
    return jnp.where(defined & ~failed, value, jnp.nan)


def _require_one_task(*rows: jax.Array) -> None:
    """Refuses arrays that are not (N,), such as a batch of tasks that was not vmapped."""
    if any(x.ndim != 1 for x in rows):
        raise AssertionError(f"arrays of one task have rank 1, not {[x.shape for x in rows]}")
