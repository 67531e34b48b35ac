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

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy import linalg

from metajax.tuning.search import Choice, Real, Space, Whole

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
    gram[np.diag_indices_from(gram)] += penalty
    cholesky, invert = linalg.get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, _ = cholesky(gram, lower=True, overwrite_a=True)
    inverse, _ = invert(factor, lower=True, overwrite_c=True)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weight = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weight, 0.0)
    weight = weight.astype(np.float32)
    return lambda histories: np.asarray(histories @ weight)


def slim(
    met: Sparse,
    alpha: float = 1e-3,
    l1_share: float = 0.3,
    neighbors: int = 50,
    num_sweeps: int = 100,
) -> Scorer:
    """SLIM: each item by an elastic net without negative weights on its nearest items.

    Minimizes ``|x_j - X w|^2 / (2 U) + alpha (l1_share |w|_1 + (1 - l1_share) |w|^2 / 2)``, all
    items at once by coordinate descent on the counts of common users.

    Args:
      alpha: strength of the penalty.
      l1_share: of it that is on absolute values.
      neighbors: items regressed on, those with the most users in common; all others have weight 0.
      num_sweeps: of the descent, at most; it ends when no weight moves by 1e-5.
    """
    num_users, num_items = met.shape
    common = np.asarray((met.T @ met).todense(), np.float32) / num_users
    own = np.diag(common).copy()
    np.fill_diagonal(common, 0.0)
    most = min(neighbors, num_items - 1)
    near_IxN = np.argpartition(-common, most - 1, axis=1)[:, :most]
    target_IxN = np.take_along_axis(common, near_IxN, axis=1)
    gram_IxNxN = common[near_IxN[:, :, None], near_IxN[:, None, :]]
    weight_IxN = np.zeros_like(target_IxN)
    curvature_IxN = own[near_IxN] + alpha * (1 - l1_share)
    for _ in range(num_sweeps):
        before = weight_IxN.copy()
        for k in range(most):
            others = np.einsum("in,in->i", gram_IxNxN[:, k], weight_IxN)  # 0 on the diagonal
            pull = target_IxN[:, k] - others - alpha * l1_share
            weight_IxN[:, k] = np.maximum(pull, 0.0) / (curvature_IxN[:, k] + 1e-12)
        if np.abs(weight_IxN - before).max(initial=0.0) < 1e-5:
            break
    weight_IxN[target_IxN <= 0] = 0.0
    places = (near_IxN.ravel(), np.repeat(np.arange(num_items), most))
    learned = sp.csr_matrix((weight_IxN.ravel(), places), shape=common.shape)
    learned.eliminate_zeros()
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
    num_sweeps: int = 8
    seed: int = 0


def ials(met: Sparse, **settings: Any) -> Scorer:
    """Implicit ALS: vectors that give 1 where users met items, and 0, more softly, everywhere.

    Minimizes the sum over interactions of ``(w_u . h_i - 1)^2``, plus ``unobserved`` times that of
    ``(w_u . h_i)^2`` over all pairs, plus the penalty, which a vector with n interactions and N
    pairs has ``(n + unobserved N) ** scaling`` times. A new user's vector is solved alone.

    Args:
      met: (U, I) ones where a training user has met an item.
      settings: fields of `Ials`.
    """
    items, chosen = ials_items(met, **settings), Ials(**settings)
    return lambda histories: (_vectors(sp.csr_matrix(histories), items, chosen) @ items.T).astype(
        np.float32
    )


def ials_items(met: Sparse, **settings: Any) -> np.ndarray:
    """The item vectors (I, D) of `ials`, which takes the same arguments."""
    chosen = Ials(**settings)
    start = np.random.default_rng(chosen.seed).normal(size=(met.shape[1], chosen.dim))
    items = start * 0.1 / math.sqrt(chosen.dim)
    met, by_item = sp.csr_matrix(met), sp.csr_matrix(met.T)
    met.sort_indices()
    by_item.sort_indices()
    for _ in range(chosen.num_sweeps):
        items = _vectors(by_item, _vectors(met, items, chosen), chosen)
    return items


def _vectors(met: Sparse, other: np.ndarray, settings: Ials) -> np.ndarray:
    """The vectors (N, D) of the rows of ``met`` (N, M), given those (M, D) of the other side."""
    dim, diagonal = other.shape[1], np.arange(other.shape[1])
    count = np.diff(met.indptr) + settings.unobserved * len(other)
    shared = settings.unobserved * other.T @ other
    ridge = settings.penalty * count**settings.scaling
    first, same = _alike(met)  # many have met the same few
    found = np.zeros((len(first), dim))
    for begin in range(0, len(first), 1024):  # so many matrices at a time
        rows = first[begin : begin + 1024]
        normal, right = np.empty((len(rows), dim, dim)), np.empty((len(rows), dim))
        for i, row in enumerate(rows):
            mine = other[met.indices[met.indptr[row] : met.indptr[row + 1]]]
            normal[i] = mine.T @ mine
            right[i] = mine.sum(axis=0)
        normal += shared
        normal[:, diagonal, diagonal] += ridge[rows, None]
        found[begin : begin + 1024] = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return found[same]


def _alike(met: Sparse) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each kind, and of every row (N,) which kind it is; indices are sorted."""
    known: dict[bytes, int] = {}
    ends = zip(met.indptr[:-1], met.indptr[1:], strict=True)
    same = np.array([known.setdefault(met.indices[a:b].tobytes(), len(known)) for a, b in ends])
    return np.unique(same, return_index=True)[1], same


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


RANKERS: dict[str, tuple[Fit, Space]] = {
    "R0 popularity": (popularity, {}),
    "R1 item-kNN": (
        item_knn,
        {"neighbors": Whole(10, 1000, log=True), "shrink": Real(0.3, 300.0, log=True)},
    ),
    "R2 EASE": (ease, {"penalty": Real(3.0, 10_000.0, log=True)}),
    "R3 SLIM": (slim, {"alpha": Real(1e-5, 1e-2, log=True), "l1_share": Real(0.05, 0.9)}),
    "R4 iALS": (
        ials,
        {
            "unobserved": Real(0.003, 1.0, log=True),
            "penalty": Real(3e-4, 0.1, log=True),
            "dim": Choice((32, 16, 64)),
        },
    ),
}
"""Arm -> how it is fitted, and the space that its settings are searched in."""
