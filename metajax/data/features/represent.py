"""Item representations estimated once, from meta-training rows alone.

Every learner over frozen item factors starts from the columns that `represent` adds to a table: the
damped item bias and ALS factors, both predicted from content if an item has no ratings. Query rows
of validation and test tasks must not be among the rows given.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from metajax.data.features.factors import (
    Factors,
    Hierarchy,
    Sparse,
    als,
    hierarchical_bayes,
    solve_items,
    solve_side,
)
from metajax.data.table import Features, Interactions


def content_matrix(features: Features, num_rows: int) -> Sparse:
    """The categorical columns as one sparse indicator matrix (num_rows, C), for linear models."""
    blocks = []
    for name, size in features.sizes.items():
        index = features.columns[name]
        row, _ = np.nonzero(index)
        column = index[index > 0]
        ones = np.ones(len(row), np.float32)
        blocks.append(scipy.sparse.csr_matrix((ones, (row, column)), shape=(num_rows, size)))
    if not blocks:
        return scipy.sparse.csr_matrix((num_rows, 0), dtype=np.float32)
    return scipy.sparse.csr_matrix(scipy.sparse.hstack(blocks))


def _weighted_ridge(x: Sparse, y: np.ndarray, weight: np.ndarray, penalty: float):
    """Coefficients (C, D) of a ridge regression of y (N, D) on x (N, C), by conjugate gradients."""
    apply = lambda v: x.T @ (weight * (x @ v)) + penalty * v
    normal: Any = scipy.sparse.linalg.LinearOperator((x.shape[1], x.shape[1]), apply)  # pyright: ignore[reportCallIssue]
    right = x.T @ (weight[:, None] * y)
    return np.stack(
        [scipy.sparse.linalg.cg(normal, column, rtol=1e-4, maxiter=300)[0] for column in right.T],
        axis=1,
    )


class ContentFit(NamedTuple):
    """What content says of D targets: ``mean + x kernel``.

    Attributes:
      mean: (D,) the weighted mean of the known targets.
      kernel: (C, D).
      penalty: the one that was chosen; 0 where there was nothing to choose.
    """

    mean: np.ndarray
    kernel: np.ndarray
    penalty: float

    def __call__(self, x: Sparse | np.ndarray) -> np.ndarray:
        """The predictions (N, D) for content (N, C)."""
        return self.mean + x @ self.kernel


def content_fit(
    x: Sparse,
    y: np.ndarray,
    weight: np.ndarray,
    penalties: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0),
    seed: int = 0,
) -> ContentFit:
    """A weighted ridge regression of y on content, around the weighted mean.

    The penalty is the one with the smallest weighted error on a tenth of the known rows, held out.

    Args:
      x: (N, C) indicators.
      y: (N, D) targets; rows of weight 0 are ignored.
      weight: (N,) confidence of each target.
    """
    known = weight > 0
    mean = np.average(y[known], axis=0, weights=weight[known])
    held = known & (np.random.default_rng(seed).random(len(weight)) < 0.1)
    if x.shape[1] == 0 or not held.any() or not (known & ~held).any():
        return ContentFit(mean, np.zeros((x.shape[1], y.shape[1])), 0.0)
    target = np.where(known[:, None], y - mean, 0.0)

    def error(penalty: float) -> float:
        fit = _weighted_ridge(x, target, np.where(held, 0.0, weight), penalty)
        return float(np.sum(weight[held, None] * (x[held] @ fit - target[held]) ** 2))

    penalty = min(penalties, key=error)
    return ContentFit(mean, _weighted_ridge(x, target, weight, penalty), penalty)


def content_prediction(
    x: Sparse,
    y: np.ndarray,
    weight: np.ndarray,
    penalties: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0),
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Predictions (N, D) of y from content for every row, known or not, and the penalty chosen.

    See `content_fit`, which has the same arguments.
    """
    fit = content_fit(x, y, weight, penalties, seed)
    return fit(x), fit.penalty


def _content_out_of_fold(
    x: Sparse, y: np.ndarray, weight: np.ndarray, num_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Content predictions (N, D), of each known row by a fit that has not seen it."""
    prediction, penalty = content_prediction(x, y, weight)
    fold = np.random.default_rng(seed).integers(num_folds, size=len(y))
    for k in range(num_folds):
        held = (fold == k) & (weight > 0)
        others = np.where(held, 0.0, weight)
        if held.any() and (others > 0).any():
            prediction[held] = content_prediction(x, y, others, (penalty,))[0][held]
    return prediction


class Represented(NamedTuple):
    """The results of `represent`.

    Attributes:
      table: the table with the item columns.
      mean: the mean rating.
      scale: the standard deviation of the ratings minus the item biases.
      fold: (num_users,) the fold of every user, from 0.
      held_out: name -> (F, num_items, ...): columns estimated without the ratings of the users of a
        fold, which training tasks of that fold must use.
    """

    table: Interactions
    mean: float
    scale: float
    fold: np.ndarray
    held_out: dict[str, np.ndarray]


def represent(
    table: Interactions,
    rows: np.ndarray,
    *,
    dim: int = 16,
    penalty: float = 10.0,
    damping: float = 5.0,
    num_folds: int = 8,
) -> Represented:
    """The table with item columns estimated from the given rows.

    ============== ========= ================================================================
    count          (N,)      log(1 + number of ratings)
    bias           (N,)      ``(n m + damping c) / (n + damping)``: m the mean residual of the
                             item's n ratings, c its prediction from content
    factor         (N, dim)  ALS factors; of an item without ratings, their prediction from
                             content. Scaled to mean squared length 1 over the rated items, so
                             that inner rates are comparable between data sets
    content_bias   (N,)      predictions from content alone; those of rated items are made out
    content_factor (N, dim)  of fold, so that they are as good as a cold item's are
    bayes          (N, 13)   features and offset in which the task weights of a hierarchical
    bayes_bias     (N,)      Bayes model have the prior N(0, I / noise)
    content_bayes, content_bayes_bias: the same of an item without ratings
    ============== ========= ================================================================

    A new user's ratings are not among those that the columns were estimated from; a training user's
    are, and a learner trained on columns that leak its labels trusts them too much. So the columns
    that ratings enter are also estimated without each fold of users, in the same coordinates: item
    vectors are solved again given the other users' vectors.
    Residuals are divided by their standard deviation before they are factorized, so that the same
    penalty suits any rating scale.

    Args:
      rows: the meta-training rows.
      dim: number of ALS factors.
      penalty: their ridge penalty.
      damping: how many ratings the content prediction of a bias is worth.
      num_folds: F, folds of users.
    """
    label = table.label[rows].astype(np.float64)
    mean, shape = float(label.mean()), (table.num_users, table.num_items)
    ratings = _Ratings(table.user[rows], table.item[rows], label - mean, shape)
    content = content_matrix(table.item_features, table.num_items)
    whole = _estimate(ratings, content, dim, penalty, damping)
    columns = table.item_features
    for name, values in _columns(whole).items():
        columns = columns.with_column(name, values.astype(np.float32))
    fold = np.random.default_rng(0).integers(num_folds, size=table.num_users)
    others = [fold[ratings.user] != f for f in range(num_folds)]
    folds = [_of_some(whole, ratings.where(keep), penalty, damping) for keep in others]
    held_out = {k: np.stack([f[k] for f in folds]).astype(np.float32) for k in folds[0]}
    table = dataclasses.replace(table, item_features=columns)
    return Represented(table, mean, whole.scale, fold, held_out)


class _Ratings(NamedTuple):
    """Some rows of a table of ``shape`` (U, I): user, item, and label minus the overall mean."""

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    shape: tuple[int, int]

    def where(self, keep: np.ndarray) -> "_Ratings":
        """The rows that are kept."""
        return _Ratings(self.user[keep], self.item[keep], self.label[keep], self.shape)


class _Estimates(NamedTuple):
    """What all rows tell of each item, and the fits it comes from.

    Attributes:
      count: (I,) number of ratings.
      bias: (I,) damped; content_bias: (I,) from content alone.
      scale: the standard deviation of the residuals, the unit of both fits.
      fitted: the factorization.
      length: what its item factors are divided by.
      content_factor: (I, D) from content alone, already divided.
      prior: the hierarchical Bayes model.
      content_item: (I, Q) its item vectors, from content alone.
    """

    count: np.ndarray
    bias: np.ndarray
    content_bias: np.ndarray
    scale: float
    fitted: Factors
    length: float
    content_factor: np.ndarray
    prior: Hierarchy
    content_item: np.ndarray


def _estimate(
    ratings: _Ratings, content: Sparse, dim: int, penalty: float, damping: float
) -> _Estimates:
    """The estimates from all rows given; those from content are made out of fold."""
    user, item, label, shape = ratings
    count, raw = _item_means(item, label, shape[1])
    confidence = count / (count + damping)
    content_bias = _content_out_of_fold(content, raw[:, None], confidence)[:, 0]
    bias = _damped(count, raw, content_bias, damping)
    residual = label - bias[item]
    scale = float(residual.std()) or 1.0
    residual /= scale
    fitted = als(user, item, residual, shape, dim=dim, penalty=penalty)
    known = count > 0
    length = np.sqrt(np.mean(np.sum(fitted.item[known].astype(np.float64) ** 2, axis=1))) + 1e-12
    trust = np.where(known, count / (count + 4 * penalty), 0.0)
    content_factor = _content_out_of_fold(content, fitted.item / length, trust)
    prior = hierarchical_bayes(user, item, residual, shape)
    content_item = _content_out_of_fold(content, prior.item, trust)
    biases = (count, bias, content_bias, scale)
    return _Estimates(*biases, fitted, length, content_factor, prior, content_item)


def _columns(whole: _Estimates) -> dict[str, np.ndarray]:
    """The columns that `represent` adds."""
    known, prior = whole.count[:, None] > 0, whole.prior
    q = np.where(known, prior.item, whole.content_item)
    cold = _bayes_columns(whole, whole.content_item, whole.content_bias)
    return {
        "count": np.log1p(whole.count),
        "bias": whole.bias,
        "factor": np.where(known, whole.fitted.item / whole.length, whole.content_factor),
        "content_bias": whole.content_bias,
        "content_factor": whole.content_factor,
        **_bayes_columns(whole, q, whole.bias),
        **{f"content_{k}": v for k, v in cold.items()},
    }


def _of_some(
    whole: _Estimates, ratings: _Ratings, penalty: float, damping: float
) -> dict[str, np.ndarray]:
    """The columns that ratings are in, from some of the rows, in the coordinates of the whole."""
    user, item, label, shape = ratings
    fitted, prior = whole.fitted, whole.prior
    count, raw = _item_means(item, label, shape[1])
    bias = _damped(count, raw, whole.content_bias, damping)
    residual, known = (label - bias[item]) / whole.scale, count[:, None] > 0
    left = scipy.sparse.csr_matrix(
        (residual - fitted.user[user, 0], (item, user)), shape=shape[::-1]
    )
    present = scipy.sparse.csr_matrix((np.ones(len(item)), (item, user)), shape=shape[::-1])
    solved = solve_side(left, present, fitted.user[:, 1:].astype(np.float64), penalty)
    by_user = scipy.sparse.csr_matrix((residual, (user, item)), shape=shape)
    q, _ = solve_items(
        by_user, scipy.sparse.csr_matrix(present.T), prior.user, prior.second, prior.noise
    )
    return {
        "count": np.log1p(count),
        "bias": bias,
        "factor": np.where(known, solved / whole.length, whole.content_factor),
        **_bayes_columns(whole, np.where(known, q, whole.content_item), bias),
    }


def _damped(
    count: np.ndarray, mean: np.ndarray, prediction: np.ndarray, damping: float
) -> np.ndarray:
    """The means (I,) of so many values, pulled to their predictions as by ``damping`` values."""
    return prediction + count / (count + damping) * (mean - prediction)


def _item_means(item: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How many values (size,) each item has, and their mean (size,), 0 where there are none."""
    count = np.bincount(item, minlength=size)
    return count, np.bincount(item, values, minlength=size) / np.maximum(count, 1)


def _bayes_columns(whole: _Estimates, q: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """The columns in which a user's weights have the prior N(0, I / noise)."""
    features, prior = np.column_stack([np.ones(len(q)), q]), whole.prior
    whiten = np.linalg.cholesky(prior.covariance / prior.noise)
    return {"bayes": features @ whiten, "bayes_bias": bias + whole.scale * (features @ prior.mean)}


def as_cold(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The inputs (columns (N, ...)) of an episode as they would be if its items had no ratings."""
    return {
        **inputs,
        "bias": inputs["content_bias"],
        "factor": inputs["content_factor"],
        "bayes": inputs["content_bayes"],
        "bayes_bias": inputs["content_bayes_bias"],
        "count": jnp.zeros_like(inputs["count"]),
    }
