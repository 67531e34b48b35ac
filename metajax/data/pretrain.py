"""Item representations estimated once, from meta-training rows alone.

Every learner over frozen item factors starts from the columns that `represent` adds to a table: the
damped item bias and ALS factors, both predicted from content where an item has no ratings. Rows
that a learner will be judged on must not be among the rows given.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, cg

from metajax.data.table import Features, Interactions

Sparse = Any  # scipy.sparse comes without types


class Factors(NamedTuple):
    """Matrix factors of a residual ``e_ui ~ c_u + p_u . q_i``.

    Attributes:
      user: (num_users, 1 + D) the constant c_u, then p_u.
      item: (num_items, D) q_i.
    """

    user: np.ndarray
    item: np.ndarray


def content_matrix(features: Features, num_rows: int) -> Sparse:
    """The categorical columns as one sparse indicator matrix (num_rows, C), for linear models."""
    blocks = []
    for name, size in features.sizes.items():
        index = features.columns[name]
        row, _ = np.nonzero(index)
        column = index[index > 0]
        ones = np.ones(len(row), np.float32)
        blocks.append(sp.csr_matrix((ones, (row, column)), shape=(num_rows, size)))
    if not blocks:
        return sp.csr_matrix((num_rows, 0), dtype=np.float32)
    return sp.csr_matrix(sp.hstack(blocks))


def _weighted_ridge(x: Sparse, y: np.ndarray, weight: np.ndarray, penalty: float):
    """Coefficients (C, D) of a ridge regression of y (N, D) on x (N, C), by conjugate gradients."""
    apply = lambda v: x.T @ (weight * (x @ v)) + penalty * v
    normal: Any = LinearOperator((x.shape[1], x.shape[1]), apply)  # pyright: ignore[reportCallIssue]
    right = x.T @ (weight[:, None] * y)
    return np.stack([cg(normal, column, rtol=1e-4, maxiter=300)[0] for column in right.T], axis=1)


def content_prediction(
    x: Sparse,
    y: np.ndarray,
    weight: np.ndarray,
    penalties: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0),
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Predictions (N, D) of y from content for every row, known or not.

    A weighted ridge regression around the weighted mean, on the rows of positive weight. The
    penalty is the one with the smallest weighted error on a tenth of those rows, held out.

    Args:
      x: (N, C) indicators.
      y: (N, D) targets; rows of weight 0 are ignored.
      weight: (N,) confidence of each target.

    Returns:
      The predictions and the penalty chosen.
    """
    known = weight > 0
    mean = np.average(y[known], axis=0, weights=weight[known])
    held = known & (np.random.default_rng(seed).random(len(weight)) < 0.1)
    if x.shape[1] == 0 or not held.any() or not (known & ~held).any():
        return np.broadcast_to(mean, y.shape).copy(), 0.0
    target = np.where(known[:, None], y - mean, 0.0)

    def error(penalty: float) -> float:
        fit = _weighted_ridge(x, target, np.where(held, 0.0, weight), penalty)
        return float(np.sum(weight[held, None] * (x[held] @ fit - target[held]) ** 2))

    penalty = min(penalties, key=error)
    return mean + x @ _weighted_ridge(x, target, weight, penalty), penalty


def _solve_side(rows: Sparse, present: Sparse, other: np.ndarray, penalty: float):
    """Ridge solutions (N, D) of every row against the other side's vectors, all at once."""
    dim = other.shape[1]
    outer = (other[:, :, None] * other[:, None, :]).reshape(len(other), dim * dim)
    normal = (present @ outer).reshape(-1, dim, dim) + penalty * np.eye(dim)
    return np.linalg.solve(normal, (rows @ other)[:, :, None])[:, :, 0]


def als(
    user: np.ndarray,
    item: np.ndarray,
    residual: np.ndarray,
    shape: tuple[int, int],
    *,
    dim: int = 16,
    penalty: float = 10.0,
    num_sweeps: int = 12,
    seed: int = 0,
) -> Factors:
    """Alternating least squares for ``residual ~ c_u + p_u . q_i`` with a ridge on every vector.

    Args:
      user, item: (n,) indices; residual: (n,) what the biases leave unexplained.
      shape: (num_users, num_items).
      dim: D, the number of factors.
      penalty: the ridge penalty on user and item vectors.

    References: Zhou et al., "Large-scale parallel collaborative filtering", 2008.
    """
    values = sp.csr_matrix((residual.astype(np.float64), (user, item)), shape=shape)
    present = sp.csr_matrix((np.ones(len(user)), (user, item)), shape=shape)
    q = 0.1 * np.random.default_rng(seed).normal(size=(shape[1], dim))
    p = np.zeros((shape[0], dim + 1))
    for _ in range(num_sweeps):
        p = _solve_side(values, present, np.column_stack([np.ones(len(q)), q]), penalty)
        centered = values - sp.diags(p[:, 0]) @ present
        q = _solve_side(sp.csr_matrix(centered.T), sp.csr_matrix(present.T), p[:, 1:], penalty)
    return Factors(p.astype(np.float32), q.astype(np.float32))


class Hierarchy(NamedTuple):
    """A Gaussian factor model ``e_ui = [1, q_i] . w_u + noise`` with ``w_u ~ N(mean, covariance)``.

    Attributes:
      item: (num_items, D) q_i.
      mean: (1 + D,), covariance: (1 + D, 1 + D), the prior of a user's weights.
      noise: the variance of the noise.
    """

    item: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: float


def hierarchical_bayes(
    user: np.ndarray,
    item: np.ndarray,
    residual: np.ndarray,
    shape: tuple[int, int],
    *,
    dim: int = 12,
    num_sweeps: int = 15,
    seed: int = 0,
) -> Hierarchy:
    """The prior over user weights and the item vectors, by expectation maximization.

    The expectation is over the users' weights; item vectors have the prior N(0, I) and are set to
    their posterior mode. A new user is served by conditioning the prior on the support.

    Args:
      user, item: (n,) indices; residual: (n,) what the item biases leave unexplained.
      shape: (num_users, num_items).
    """
    values = sp.csr_matrix((residual.astype(np.float64), (user, item)), shape=shape)
    present = sp.csr_matrix((np.ones(len(user)), (user, item)), shape=shape)
    values_t, present_t = sp.csr_matrix(values.T), sp.csr_matrix(present.T)
    active = np.diff(present.indptr) > 0
    q = np.random.default_rng(seed).normal(size=(shape[1], dim)) * 0.3
    mean, covariance, noise = np.zeros(dim + 1), np.eye(dim + 1) * 0.1, float(residual.var())
    total = float(residual @ residual)
    for _ in range(num_sweeps):
        x = np.column_stack([np.ones(len(q)), q])
        gram = (present @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)).reshape(
            -1, dim + 1, dim + 1
        )
        moment = values @ x
        prior = np.linalg.inv(covariance)
        spread = np.linalg.inv(prior + gram / noise)
        w = np.einsum("uij,uj->ui", spread, prior @ mean + moment / noise)
        second = spread + w[:, :, None] * w[:, None, :]
        mean = w[active].mean(axis=0)
        covariance = second[active].mean(axis=0) - np.outer(mean, mean)
        noise = (total - 2 * np.sum(w * moment) + np.sum(second * gram)) / len(user)
        normal = (present_t @ second[:, 1:, 1:].reshape(shape[0], -1)).reshape(-1, dim, dim)
        right = values_t @ w[:, 1:] - present_t @ second[:, 0, 1:]
        q = np.linalg.solve(normal + noise * np.eye(dim), right[:, :, None])[:, :, 0]
    return Hierarchy(q, mean, covariance, float(noise))


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


def represent(
    table: Interactions,
    rows: np.ndarray,
    *,
    dim: int = 16,
    penalty: float = 10.0,
    damping: float = 5.0,
) -> tuple[Interactions, float]:
    """The table with item columns estimated from the given rows, and the mean rating.

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
    ============== ========= ================================================================

    Args:
      rows: the meta-training rows.
      dim: number of ALS factors.
      penalty: their ridge penalty.
      damping: how many ratings the content prediction of a bias is worth.
    """
    user, item, label = table.user[rows], table.item[rows], table.label[rows].astype(np.float64)
    mean = float(label.mean())
    shape = (table.num_users, table.num_items)
    count = np.bincount(item, minlength=table.num_items)
    total = np.bincount(item, label - mean, minlength=table.num_items)
    raw = (total / np.maximum(count, 1))[:, None]
    confidence = count / (count + damping)
    x = content_matrix(table.item_features, table.num_items)
    content_bias = _content_out_of_fold(x, raw, confidence)
    bias = (content_bias + confidence[:, None] * (raw - content_bias))[:, 0]
    residual = label - mean - bias[item]

    factors = als(user, item, residual, shape, dim=dim, penalty=penalty).item.astype(np.float64)
    known = count > 0
    factors /= np.sqrt(np.mean(np.sum(factors[known] ** 2, axis=1))) + 1e-12
    trust = np.where(known, count / (count + 4 * penalty), 0.0)
    content_factor = _content_out_of_fold(x, factors, trust)

    prior = hierarchical_bayes(user, item, residual, shape)
    content_item, _ = content_prediction(x, prior.item, trust)
    q = np.where(known[:, None], prior.item, content_item)
    features = np.column_stack([np.ones(len(q)), q])
    whiten = np.linalg.cholesky(prior.covariance / prior.noise)
    added = {
        "count": np.log1p(count),
        "bias": bias,
        "factor": np.where(known[:, None], factors, content_factor),
        "content_bias": content_bias[:, 0],
        "content_factor": content_factor,
        "bayes": features @ whiten,
        "bayes_bias": bias + features @ prior.mean,
    }
    columns = table.item_features
    for name, values in added.items():
        columns = columns.with_column(name, values.astype(np.float32))
    return dataclasses.replace(table, item_features=columns), mean


def as_cold(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The inputs of an episode as they would be if none of its items had been rated."""
    return {
        **inputs,
        "bias": inputs["content_bias"],
        "factor": inputs["content_factor"],
        "count": jnp.zeros_like(inputs["count"]),
    }
