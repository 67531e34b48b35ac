"""Arms that rank a catalogue for a new user from K interactions: the classics, tuned like the rest.

Each is given the interactions of the training users, a sparse matrix of ones, then settings, and is
then a function from the histories of any users to scores of all items, so that a user who was never
seen is folded in without training. What does not depend on the settings is computed once for all
trials of a search. EASE and SLIM regress each item on the others, EDLAE does so while a part of
them is dropped, item-kNN compares their users, popularity does not look at the user; implicit ALS
is in `ranking_ials`.

An item that nobody has met has no row to learn from. `with_content` gives it the scores of the
items whose content is most like its own, the same for every arm.

References: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019; Steck,
"Autoencoders that don't overfit towards the identity", NeurIPS 2020; Ning, Karypis, "SLIM: sparse
linear methods for top-N recommender systems", ICDM 2011; Rendle, Krichene, Zhang, Koren,
"Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy import linalg

from metajax.benchmark.ranking_ials import ials
from metajax.benchmark.ranking_kshot import kshot_ease
from metajax.tuning.search import Choice, Real, Space, Whole

Sparse = Any  # scipy.sparse comes without types
Scorer = Callable[[Sparse], np.ndarray]
"""Histories (T, I) of ones -> scores (T, I) of all items, the histories' own included."""
Fit = Callable[..., Scorer]
"""Settings by name -> scorer."""
Prepare = Callable[[Sparse], Fit]
"""Interactions (U, I) of ones -> fit."""


def popularity(met: Sparse) -> Fit:
    """How many users have met each item, whoever asks; it has no settings."""
    count = np.asarray(met.sum(axis=0)).ravel().astype(np.float32)
    return lambda: lambda histories: np.tile(count, (histories.shape[0], 1))


def ease(met: Sparse) -> Fit:
    """EASE: each item by ridge regression on all others, in closed form.

    Setting: ``penalty`` of the ridge, in users. The counts of common users are decomposed once;
    with another penalty only the eigenvalues change.
    """
    root, basis = linalg.eigh(np.asarray((met.T @ met).todense(), np.float64), driver="evd")
    basis = basis.astype(np.float32)

    def fit(penalty: float = 300.0) -> Scorer:
        inverse = (1.0 / (np.maximum(root, 0.0) + penalty)).astype(np.float32)
        diagonal = (basis * basis) @ inverse

        def score(histories: Sparse) -> np.ndarray:
            found = ((histories @ basis) * inverse) @ basis.T / -diagonal
            return found + np.asarray(histories.todense())  # the weight of an item on itself is 0

        return score

    return fit


def edlae(met: Sparse) -> Fit:
    """EDLAE: EASE whose inputs are dropped at random while it is trained, in closed form.

    Each item is regressed on those of the others that were kept. In expectation over what is
    dropped this is EASE whose ridge is larger for items that many have met: by the number of their
    users times ``(1 - kept) / kept``.

    Settings: ``penalty`` of the ridge, in users; ``kept``, the probability that an interaction
    stays among the inputs. With 1 it is EASE.
    """
    common = np.asarray((met.T @ met).todense(), np.float32)
    count = np.diag(common).copy()

    def fit(penalty: float = 300.0, kept: float = 0.5) -> Scorer:
        normal = common.copy(order="F")
        normal[np.diag_indices_from(normal)] += penalty + count * (1.0 - kept) / kept
        factor, _ = linalg.cho_factor(normal, lower=True, overwrite_a=True)
        (invert,) = linalg.get_lapack_funcs(("potri",), (factor,))
        inverse = invert(factor, lower=1, overwrite_c=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weight = inverse / -np.diag(inverse)
        np.fill_diagonal(weight, 0.0)
        return lambda histories: np.asarray(histories @ weight)

    return fit


def slim(met: Sparse) -> Fit:
    """SLIM: each item by an elastic net without negative weights on its nearest items.

    Minimizes ``|x_j - X w|^2 / (2 U) + alpha (l1_share |w|_1 + (1 - l1_share) |w|^2 / 2)``, many
    items at once by coordinate descent on the counts of common users.

    Settings: ``alpha``, the strength of the penalty; ``l1_share``, how much of it is on absolute
    values; ``neighbors``, the items regressed on, those with the most users in common (all others
    have weight 0); ``num_sweeps`` of the descent, at most: it ends when no weight moves by 1e-5.
    """
    common = np.asarray((met.T @ met).todense(), np.float32) / met.shape[0]
    own = np.diag(common).copy()
    np.fill_diagonal(common, 0.0)

    def fit(
        alpha: float = 1e-3, l1_share: float = 0.3, neighbors: int = 50, num_sweeps: int = 100
    ) -> Scorer:
        most, columns, places, weights = min(neighbors, len(own) - 1), [], [], []
        for first in range(0, len(own), 256):
            mine = common[first : first + 256]
            near = np.argpartition(-mine, most - 1, axis=1)[:, :most]
            target = np.take_along_axis(mine, near, axis=1)
            gram = common[near[:, :, None], near[:, None, :]]
            ridge = own[near] + alpha * (1 - l1_share)
            weight = _descended(target, gram, ridge, alpha * l1_share, num_sweeps)
            weights.append(np.where(target > 0, weight, 0.0).ravel())
            columns.append(np.repeat(np.arange(first, first + len(mine)), most))
            places.append(near.ravel())
        where = (np.concatenate(places), np.concatenate(columns))
        learned = sp.csr_matrix((np.concatenate(weights), where), shape=common.shape)
        learned.eliminate_zeros()
        return lambda histories: np.asarray((histories @ learned).todense())

    return fit


def _descended(
    target_IxN: np.ndarray,
    gram_IxNxN: np.ndarray,
    curvature_IxN: np.ndarray,
    absolute: float,
    num_sweeps: int,
) -> np.ndarray:
    """The weights (I, N) of elastic nets without negative weights; the grams' diagonals are 0."""
    weight_IxN = np.zeros_like(target_IxN)
    for _ in range(num_sweeps):
        before = weight_IxN.copy()
        for k in range(target_IxN.shape[1]):
            others = np.einsum("in,in->i", gram_IxNxN[:, k], weight_IxN)
            pull = target_IxN[:, k] - others - absolute
            weight_IxN[:, k] = np.maximum(pull, 0.0) / (curvature_IxN[:, k] + 1e-12)
        if np.abs(weight_IxN - before).max(initial=0.0) < 1e-5:
            break
    return weight_IxN


def item_knn(met: Sparse) -> Fit:
    """Item-kNN: an item scores the sum of its similarities to the history's items.

    Settings: ``neighbors`` of each item, the most similar ones (the rest count as not similar at
    all); ``shrink``, added to the denominator of the cosine, so that few common users count less.
    """
    common = np.asarray((met.T @ met).todense(), np.float32)
    length = np.sqrt(np.diag(common))
    np.fill_diagonal(common, 0.0)

    def fit(neighbors: int = 100, shrink: float = 20.0) -> Scorer:
        similar = common / (length[:, None] * length[None, :] + shrink + 1e-12)
        if (
            neighbors < len(similar) - 1
        ):  # rows are columns: it is symmetric until some are left out
            least = np.partition(similar, -neighbors, axis=1)[:, -neighbors]
            similar[similar < least[None, :]] = 0.0
        return lambda histories: np.asarray(histories @ similar)

    return fit


def with_content(scorer: Scorer, content: Sparse, known: np.ndarray, neighbors: int = 20) -> Scorer:
    """A scorer of all items: unknown ones score the weighted mean of known ones of like content.

    Args:
      scorer: histories (T, J) -> scores (T, J) of the J known items.
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
        found = np.zeros(histories.shape, np.float32)
        found[:, known] = scorer(histories[:, known])
        found[:, ~known] = found[:, known] @ share.T
        return found

    return score


def discounted(prepare: Prepare) -> Prepare:
    """The arm with one more setting, ``discount``, of how much its scores favor popular items.

    The scores of an item that n users have met are divided by ``n ** discount``.
    """

    def prepared(met: Sparse) -> Fit:
        fit, divide = prepare(met), discount_of(met)
        return lambda *, discount=0.0, **settings: divide(fit(**settings), discount)

    return prepared


def discount_of(met: Sparse) -> Callable[[Scorer, float], Scorer]:
    """(scorer, discount) -> the scorer that divides by a power of each item's number of users."""
    popular = np.maximum(np.asarray(met.sum(axis=0)).ravel(), 1.0)
    return lambda scorer, discount: lambda histories: scorer(histories) / popular**discount


def _one_level(shots: int) -> Prepare:
    """K-shot EASE with one regression, whatever a user has shown; its penalty does not grow."""

    def prepare(met: Sparse) -> Fit:
        return functools.partial(kshot_ease(met, levels=(shots,)), growth=0.0)

    return discounted(prepare)


DISCOUNT = Real(-1.0, 1.0)
"""The discounts that are searched; 0, in the middle, leaves scores as they are."""
RANKERS: dict[str, tuple[Prepare, Space]] = {
    "R0 popularity": (popularity, {}),
    "R1 item-kNN": (
        discounted(item_knn),
        {
            "neighbors": Whole(10, 1000, log=True),
            "shrink": Real(0.3, 300.0, log=True),
            "discount": DISCOUNT,
        },
    ),
    "R2 EASE": (
        discounted(ease),
        {"penalty": Real(3.0, 10_000.0, log=True), "discount": DISCOUNT},
    ),
    "R3 SLIM": (
        discounted(slim),
        {
            "alpha": Real(1e-5, 0.1, log=True),
            "l1_share": Real(0.05, 0.9),
            "neighbors": Whole(20, 100, log=True),
            "discount": DISCOUNT,
        },
    ),
    "R4 iALS": (
        discounted(ials),
        {
            "unobserved": Real(0.003, 3.0, log=True),
            "penalty": Real(1e-4, 1.0, log=True),
            "dim": Whole(16, 256, log=True),
            "discount": DISCOUNT,
        },
    ),
    "R7 K-shot EASE": (
        discounted(kshot_ease),
        {
            "penalty": Real(0.03, 30.0, log=True),
            "growth": Real(0.0, 1.5),
            "active": Choice((0.5, 0.0, 1.0)),
            "discount": DISCOUNT,
        },
    ),
    "R8 EDLAE": (
        discounted(edlae),
        {
            "penalty": Real(3.0, 10_000.0, log=True),
            "kept": Real(0.003, 1.0, log=True),
            "discount": DISCOUNT,
        },
    ),
}
"""Arm -> how it is prepared and fitted, and the space that its settings are searched in."""
_KSHOT = RANKERS["R7 K-shot EASE"][1]
_ONE_LEVEL = {name: space for name, space in _KSHOT.items() if name != "growth"}
HALF = 10**9
"""A number of shown items that every user is short of: each shows half of what they met."""
ABLATIONS: dict[str, tuple[Prepare, Space]] = {
    "R2a EASE, no discount": (ease, {"penalty": RANKERS["R2 EASE"][1]["penalty"]}),
    "R7a K-shot EASE, half shown": (_one_level(HALF), _ONE_LEVEL),
    "R7b K-shot EASE, K = 5 alone": (_one_level(5), _ONE_LEVEL),
    "R7c K-shot EASE, no intercept": (
        discounted(functools.partial(kshot_ease, intercept=False)),
        _KSHOT,
    ),
    "R7d K-shot EASE, no discount": (
        kshot_ease,
        {name: space for name, space in _KSHOT.items() if name != "discount"},
    ),
}
"""Arms with a part left out, searched like the rest: what each part gives."""
