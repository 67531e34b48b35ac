"""Item representations estimated once, from meta-training rows alone.

Every learner over frozen item factors starts from the columns that `represent` adds to a table: the
damped item bias and ALS factors, both predicted from content where an item has no ratings. Rows
that a learner will be judged on must not be among the rows given.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, cg

from metajax.data.table import Features, Interactions


class Factors(NamedTuple):
    """Matrix factors of a residual ``e_ui ~ c_u + p_u . q_i``.

    Attributes:
      user: (num_users, 1 + D) the constant c_u, then p_u.
      item: (num_items, D) q_i.
    """

    user: np.ndarray
    item: np.ndarray


def content_matrix(features: Features, num_rows: int) -> sp.csr_matrix:
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


def _weighted_ridge(x: sp.csr_matrix, y: np.ndarray, weight: np.ndarray, penalty: float):
    """Coefficients (C, D) of a ridge regression of y (N, D) on x (N, C), by conjugate gradients."""
    normal = LinearOperator(
        (x.shape[1], x.shape[1]), lambda v: x.T @ (weight * (x @ v)) + penalty * v, dtype=float
    )
    right = x.T @ (weight[:, None] * y)
    return np.stack([cg(normal, column, rtol=1e-6, maxiter=500)[0] for column in right.T], axis=1)


def content_prediction(
    x: sp.csr_matrix,
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


def _solve_side(rows: sp.csr_matrix, present: sp.csr_matrix, other: np.ndarray, penalty: float):
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


def represent(
    table: Interactions,
    rows: np.ndarray,
    *,
    dim: int = 16,
    penalty: float = 10.0,
    damping: float = 5.0,
) -> tuple[Interactions, float]:
    """The table with item columns ``bias`` (N,) and ``factor`` (N, dim), and the mean rating.

    The bias is ``(n m + damping c) / (n + damping)`` with m the mean residual of the item's n
    ratings and c its prediction from content; so too the factors, of which content predicts those
    of items with few ratings. The factors are scaled so that their mean square is 1 / dim over the
    items that have ratings, which makes inner rates comparable between data sets.

    Args:
      rows: the meta-training rows.
      damping: how many ratings the content prediction of a bias is worth.
    """
    user, item, label = table.user[rows], table.item[rows], table.label[rows].astype(np.float64)
    mean = float(label.mean())
    count = np.bincount(item, minlength=table.num_items)
    total = np.bincount(item, label - mean, minlength=table.num_items)
    raw = (total / np.maximum(count, 1))[:, None]
    confidence = count / (count + damping)
    x = content_matrix(table.item_features, table.num_items)
    content_bias, _ = content_prediction(x, raw, confidence)
    bias = (content_bias + confidence[:, None] * (raw - content_bias))[:, 0]

    shape = (table.num_users, table.num_items)
    factors = als(user, item, label - mean - bias[item], shape, dim=dim, penalty=penalty)
    confidence = np.where(count > 0, count / (count + 4 * penalty), 0.0)
    content_factor, _ = content_prediction(x, factors.item.astype(np.float64), confidence)
    factor = np.where(count[:, None] > 0, factors.item, content_factor)
    factor /= np.sqrt(np.mean(np.sum(factor[count > 0] ** 2, axis=1))) + 1e-12

    columns = table.item_features.with_column("bias", bias.astype(np.float32))
    columns = columns.with_column("factor", factor.astype(np.float32))
    return dataclasses.replace(table, item_features=columns), mean
