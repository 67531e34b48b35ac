"""Implicit ALS, and how a new user is folded in: closed forms that alternate, at a user's cost.

Vectors are solved in the eigenbasis of the term that all share, where it and the penalty are a
diagonal matrix: a user with n items needs an n x n system if n is below the dimension (the matrix
inversion lemma), so that long vectors cost little where histories are short.

References: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM
2008; Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation
benchmarks", RecSys 2022 (the penalty's scaling, 16 sweeps, first vectors).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

Sparse = Any  # scipy.sparse comes without types
AT_ONCE = 20_000_000
"""Numbers of the systems that are solved at a time, which bounds the memory."""


class Ials(NamedTuple):
    """The settings of implicit ALS.

    Attributes:
      dim: length of a vector.
      unobserved: weight of any pair of a user and an item, beside an interaction's 1.
      penalty: on squared lengths.
      scaling: how the penalty grows with the number of interactions.
      num_sweeps: alternations between users and items.
      seed: of the first item vectors.
    """

    dim: int = 64
    unobserved: float = 0.1
    penalty: float = 0.003
    scaling: float = 1.0
    num_sweeps: int = 16
    seed: int = 0


def ials(met: Sparse) -> Any:
    """Implicit ALS: vectors that give 1 where users met items, and 0, more softly, everywhere.

    Minimizes the sum over interactions of ``(w_u . h_i - 1)^2``, plus ``unobserved`` times that of
    ``(w_u . h_i)^2`` over all pairs, plus the penalty, which a vector with n interactions and N
    pairs has ``(n + unobserved N) ** scaling`` times. A new user's vector is solved alone.

    Args:
      met: (U, I) ones where a training user has met an item.

    Returns:
      Settings, the fields of `Ials`, -> a scorer as in `ranking_arms`.
    """

    def fit(**settings: Any):
        items, chosen = ials_items(met, **settings), Ials(**settings)
        return lambda histories: vectors(sp.csr_matrix(histories), items, chosen) @ items.T

    return fit


def ials_items(met: Sparse, **settings: Any) -> np.ndarray:
    """The item vectors (I, D) of `ials`, with the same settings."""
    chosen = Ials(**settings)
    start = np.random.default_rng(chosen.seed).normal(size=(met.shape[1], chosen.dim))
    items = (start * 0.1 / math.sqrt(chosen.dim)).astype(np.float32)
    met, by_item = sp.csr_matrix(met), sp.csr_matrix(met.T)
    for _ in range(chosen.num_sweeps):
        items = vectors(by_item, vectors(met, items, chosen), chosen)
    return items


def vectors(met: Sparse, other: np.ndarray, settings: Ials) -> np.ndarray:
    """The vectors (N, D) of the rows of ``met`` (N, M), given those (M, D) of the other side."""
    shared, basis = np.linalg.eigh(settings.unobserved * other.T @ other)
    turned, length = other @ basis, np.diff(met.indptr)
    found = np.zeros((met.shape[0], other.shape[1]), other.dtype)
    for n in np.unique(length[length > 0]):
        penalty = settings.penalty * (n + settings.unobserved * len(other)) ** settings.scaling
        diagonal = (np.maximum(shared, 0) + penalty).astype(other.dtype)
        rows, size = np.flatnonzero(length == n), max(n, min(n, len(basis))) * len(basis)
        for some in np.array_split(rows, math.ceil(len(rows) * size / AT_ONCE)):
            own = turned[met.indices[met.indptr[some][:, None] + np.arange(n)]]
            found[some] = _solved(own, diagonal)
    return found @ basis.T


def _solved(own_RxNxD: np.ndarray, diagonal_D: np.ndarray) -> np.ndarray:
    """Solutions (R, D) of ``(diag + own.T own) w = own.T 1``, by the smaller of two systems."""
    count, dim = own_RxNxD.shape[1:]
    if count < dim:
        scaled = own_RxNxD / diagonal_D
        normal = scaled @ own_RxNxD.transpose(0, 2, 1)
        normal[:, np.arange(count), np.arange(count)] += 1
        weight = np.linalg.solve(normal, np.ones((len(normal), count, 1), normal.dtype))
        return (weight.transpose(0, 2, 1) @ scaled)[:, 0]
    normal = own_RxNxD.transpose(0, 2, 1) @ own_RxNxD
    normal[:, np.arange(dim), np.arange(dim)] += diagonal_D
    return np.linalg.solve(normal, own_RxNxD.sum(axis=1)[:, :, None])[:, :, 0]
