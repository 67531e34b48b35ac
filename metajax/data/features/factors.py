"""Matrix factors of residual ratings: alternating least squares, and hierarchical Bayes by EM."""

from typing import Any, NamedTuple

import numpy as np
import scipy

Sparse = Any  # scipy.sparse comes without types


class Factors(NamedTuple):
    """Matrix factors of a residual ``e_ui ~ c_u + p_u . q_i``.

    Attributes:
      user: (num_users, 1 + D) the constant c_u, then p_u.
      item: (num_items, D) q_i.
    """

    user: np.ndarray
    item: np.ndarray


def solve_side(rows: Sparse, present: Sparse, other: np.ndarray, penalty: float):
    """Ridge solutions (N, D) of every row given the other side's vectors (M, D): half an ALS sweep.

    Args:
      rows, present: sparse (N, M) values, and 1 where there is a value.
      penalty: of the ridge.
    """
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
    values = scipy.sparse.csr_matrix((residual.astype(np.float64), (user, item)), shape=shape)
    present = scipy.sparse.csr_matrix((np.ones(len(user)), (user, item)), shape=shape)
    q = 0.1 * np.random.default_rng(seed).normal(size=(shape[1], dim))
    p = np.zeros((shape[0], dim + 1))
    for _ in range(num_sweeps):
        p = solve_side(values, present, np.column_stack([np.ones(len(q)), q]), penalty)
        centered = values - scipy.sparse.diags(p[:, 0]) @ present
        q = solve_side(
            scipy.sparse.csr_matrix(centered.T),
            scipy.sparse.csr_matrix(present.T),
            p[:, 1:],
            penalty,
        )
    return Factors(p.astype(np.float32), q.astype(np.float32))


class Hierarchy(NamedTuple):
    """A Gaussian factor model ``e_ui = [1, q_i] . w_u + noise`` with ``w_u ~ N(mean, covariance)``.

    Attributes:
      item: (num_items, D) q_i.
      mean: (1 + D,), covariance: (1 + D, 1 + D), the prior of a user's weights.
      noise: the variance of the noise.
      user: (num_users, 1 + D) posterior means, second: (num_users, 1 + D, 1 + D) posterior second
        moments of the users' weights.
    """

    item: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: float
    user: np.ndarray
    second: np.ndarray


def solve_items(
    values: Sparse, present: Sparse, w: np.ndarray, second: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means (num_items, D) and covariances of item vectors with the prior N(0, I).

    Args:
      values, present: (num_users, num_items) residuals, and where they are.
      w, second: (num_users, 1 + D) means and (num_users, 1 + D, 1 + D) second moments of the users'
        weights; noise: its variance.
    """
    dim = w.shape[1] - 1
    values_t, present_t = scipy.sparse.csr_matrix(values.T), scipy.sparse.csr_matrix(present.T)
    normal = (present_t @ second[:, 1:, 1:].reshape(len(w), -1)).reshape(-1, dim, dim)
    right = values_t @ w[:, 1:] - present_t @ second[:, 0, 1:]
    spread = np.linalg.inv(normal / noise + np.eye(dim))
    return np.einsum("nij,nj->ni", spread, right / noise), spread


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
    """The prior over user weights, and the item vectors, by variational EM.

    The posterior of user weights and item vectors, with the prior N(0, I) for the latter, is taken
    as independent given the ratings (mean field). Point estimates of item vectors would overfit
    where items have few ratings. A new user's weights are the prior conditioned on the support.

    Args:
      user, item: (n,) indices; residual: (n,) what the item biases leave unexplained.
      shape: (num_users, num_items).
      dim: D.
      num_sweeps: iterations of EM.

    References: Lim, Teh, "Variational Bayesian approach to movie rating prediction", 2007.
    """
    values = scipy.sparse.csr_matrix((residual.astype(np.float64), (user, item)), shape=shape)
    present = scipy.sparse.csr_matrix((np.ones(len(user)), (user, item)), shape=shape)
    active = np.diff(present.indptr) > 0
    q = np.random.default_rng(seed).normal(size=(shape[1], dim)) * 0.3
    doubt = np.zeros((shape[1], dim, dim))
    mean, covariance, noise = np.zeros(dim + 1), np.eye(dim + 1) * 0.1, float(residual.var())
    total = float(residual @ residual)
    w, second = np.zeros((shape[0], dim + 1)), np.zeros((shape[0], dim + 1, dim + 1))
    for _ in range(num_sweeps):
        x = np.column_stack([np.ones(len(q)), q])
        square = x[:, :, None] * x[:, None, :]
        square[:, 1:, 1:] += doubt
        gram = (present @ square.reshape(len(x), -1)).reshape(-1, dim + 1, dim + 1)
        moment = values @ x
        prior = np.linalg.inv(covariance)
        spread = np.linalg.inv(prior + gram / noise)
        w = np.einsum("uij,uj->ui", spread, prior @ mean + moment / noise)
        second = spread + w[:, :, None] * w[:, None, :]
        mean = w[active].mean(axis=0)
        covariance = second[active].mean(axis=0) - np.outer(mean, mean)
        noise = (total - 2 * np.sum(w * moment) + np.sum(second * gram)) / len(user)
        q, doubt = solve_items(values, present, w, second, noise)
    return Hierarchy(q, mean, covariance, float(noise), w, second)
