"""Arms that rank a catalogue for a new user from K interactions: the classics, tuned like the rest.

Each is fitted on the interactions of the training users, a sparse matrix of ones, and is then a
function from the histories of any users to scores of all items, so that a user who was never seen
is folded in without training. EASE and SLIM regress each item on the others, item-kNN compares
their users, implicit ALS solves the user's vector, popularity does not look at the user.

An item that nobody has met has no row to learn from. `with_content` gives it the scores of the
items whose content is most like its own, the same for every arm.

References: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019; Ning, Karypis,
"SLIM: sparse linear methods for top-N recommender systems", ICDM 2011; Rendle, Krichene, Zhang,
Koren, "Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from metajax.types import UserError

Sparse = Any  # scipy.sparse comes without types
Scorer = Callable[[Sparse], np.ndarray]
"""Histories (T, I) of ones -> scores (T, I) of all items, the histories' own included."""
Fit = Callable[..., Scorer]
"""(interactions (U, I) of ones, settings by name) -> scorer."""


def popularity(met: Sparse) -> Scorer:
    """How many users have met each item, whoever asks."""
    count = np.asarray(met.sum(axis=0)).ravel().astype(np.float32)
    return lambda histories: np.tile(count, (histories.shape[0], 1))


def ease(met: Sparse, penalty: float = 300.0) -> Scorer:
    """EASE: each item by ridge regression on all others, in closed form.

    Args:
      penalty: of the ridge, in users.
    """
    gram = np.asarray((met.T @ met).todense(), np.float64)
    inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
    weight = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weight, 0.0)
    weight = weight.astype(np.float32)
    return lambda histories: np.asarray(histories @ weight)


def slim(met: Sparse, alpha: float = 1e-3, l1_share: float = 0.3, neighbors: int = 50) -> Scorer:
    """SLIM: each item by an elastic net without negative weights on its nearest items.

    Args:
      alpha: strength of the penalty; scikit-learn's, per user.
      l1_share: of it that is on absolute values, above 0.
      neighbors: items regressed on, those with the most users in common; all others have weight 0.

    Raises:
      UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import ElasticNet
    except ImportError as missing:
        raise UserError("SLIM needs scikit-learn: pip install metajax[boosting]") from missing
    columns, num_items = sp.csc_matrix(met, dtype=np.float64), met.shape[1]
    common = sp.csr_matrix(columns.T @ columns)
    model = ElasticNet(
        alpha=alpha, l1_ratio=l1_share, positive=True, fit_intercept=False, max_iter=200, tol=1e-4
    )
    source, target, weight = [], [], []
    for j in range(num_items):
        row = common[j]
        near, count = row.indices[row.indices != j], row.data[row.indices != j]
        if len(near) > neighbors:
            near = near[np.argpartition(-count, neighbors)[:neighbors]]
        if len(near):
            found = model.fit(columns[:, near], columns[:, [j]].toarray().ravel()).coef_
            kept = np.flatnonzero(found)
            source.append(near[kept]), weight.append(found[kept])
            target.append(np.full(len(kept), j))
    empty = [np.zeros(0)]
    places = (np.concatenate(source or empty), np.concatenate(target or empty))
    learned = sp.csr_matrix(
        (np.concatenate(weight or empty), places), shape=(num_items, num_items), dtype=np.float32
    )
    return lambda histories: np.asarray((histories @ learned).todense())


def item_knn(met: Sparse, neighbors: int = 100, shrink: float = 20.0) -> Scorer:
    """Item-kNN: an item scores the sum of its similarities to the history's items.

    Args:
      neighbors: of each item, the most similar ones; the rest count as not similar at all.
      shrink: added to the denominator of the cosine, so that few common users count less.
    """
    common = np.asarray((met.T @ met).todense(), np.float32)
    length = np.sqrt(np.diag(common))
    similar = common / (length[:, None] * length[None, :] + shrink + 1e-12)
    np.fill_diagonal(similar, 0.0)
    if neighbors < len(similar) - 1:
        least = np.partition(similar, -neighbors, axis=0)[-neighbors]
        similar = np.where(similar >= least[None, :], similar, 0.0)
    return lambda histories: np.asarray(histories @ similar)


def ials(
    met: Sparse,
    dim: int = 64,
    unobserved: float = 0.1,
    penalty: float = 0.003,
    scaling: float = 1.0,
    num_sweeps: int = 12,
    seed: int = 0,
) -> Scorer:
    """Implicit ALS: vectors that give 1 where users met items, and 0, more softly, everywhere.

    Minimizes the sum over interactions of ``(w_u . h_i - 1)^2``, plus ``unobserved`` times that of
    ``(w_u . h_i)^2`` over all pairs, plus the penalty, which a vector with n interactions and N
    pairs has ``(n + unobserved N) ** scaling`` times. A new user's vector is solved alone.

    Args:
      dim: of the vectors.
      unobserved: weight of a pair, beside an interaction's 1.
      penalty: on squared lengths.
      scaling: how it grows with the number of interactions.
      num_sweeps: alternations.
      seed: of the first item vectors.
    """
    items = np.random.default_rng(seed).normal(size=(met.shape[1], dim)) * 0.1 / math.sqrt(dim)
    solve = functools.partial(_vectors, unobserved=unobserved, penalty=penalty, scaling=scaling)
    by_item = sp.csr_matrix(met.T)
    for _ in range(num_sweeps):
        users = solve(met, items)
        items = solve(by_item, users)
    return lambda histories: (solve(histories, items) @ items.T).astype(np.float32)


def _vectors(
    met: Sparse, other: np.ndarray, unobserved: float, penalty: float, scaling: float
) -> np.ndarray:
    """The vectors (N, D) of the rows of ``met`` (N, M), given those (M, D) of the other side."""
    dim = other.shape[1]
    outer = (other[:, :, None] * other[:, None, :]).reshape(len(other), -1)
    count = np.diff(met.indptr) + unobserved * len(other)
    shared, ridge = unobserved * other.T @ other, penalty * count**scaling
    found = np.empty((met.shape[0], dim))
    for first in range(0, met.shape[0], 4096):  # so many matrices at a time
        rows = slice(first, first + 4096)
        normal = (met[rows] @ outer).reshape(-1, dim, dim) + shared
        normal[:, np.arange(dim), np.arange(dim)] += ridge[rows, None]
        found[rows] = np.linalg.solve(normal, (met[rows] @ other)[:, :, None])[:, :, 0]
    return found


def with_content(scorer: Scorer, content: Sparse, known: np.ndarray, neighbors: int = 20) -> Scorer:
    """The scorer where unknown items score the weighted mean of known items of like content.

    Args:
      content: (I, C) what is known of each item; its rows are compared by their cosine.
      known: (I,) whether an item has been met in training.
      neighbors: known items that an unknown one is compared with.
    """
    length = np.sqrt(np.asarray(content.multiply(content).sum(axis=1)).ravel())
    unit = sp.csr_matrix(sp.diags(1.0 / np.maximum(length, 1e-12)) @ content)
    like = np.asarray((unit[~known] @ unit[known].T).todense(), np.float32)
    if neighbors < like.shape[1]:
        least = np.partition(like, -neighbors, axis=1)[:, -neighbors][:, None]
        like = np.where(like >= least, like, 0.0)
    share = like / np.maximum(like.sum(axis=1, keepdims=True), 1e-12)

    def score(histories: Sparse) -> np.ndarray:
        found = np.array(scorer(histories))
        found[:, ~known] = found[:, known] @ share.T
        return found

    return score


Grid = Mapping[str, tuple[float, ...]]
RANKERS: dict[str, tuple[Fit, tuple[Grid, ...]]] = {
    "R0 popularity": (popularity, ({},)),
    "R1 item-kNN": (item_knn, ({"neighbors": (20, 50, 200, 1000), "shrink": (0.0, 20.0, 100.0)},)),
    "R2 EASE": (ease, ({"penalty": (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)},)),
    "R3 SLIM": (slim, ({"alpha": (1e-5, 1e-4, 1e-3), "l1_share": (0.1, 0.5)},)),
    "R4 iALS": (
        ials,
        (
            {"unobserved": (0.01, 0.03, 0.1, 0.3, 1.0), "penalty": (0.001, 0.003, 0.01, 0.03)},
            {"dim": (16, 32, 64, 128)},
        ),
    ),
}
"""Arm -> how it is fitted, and the grids that are searched one after the other."""
