"""A plain stack of rankers: the weighted sum of their scores, with weights learned on validation.

The scores of each arm are standardized within a user. The probability that an item is the next one
found is the softmax of the weighted sum over the items that the user has not shown; the weights
maximize the mean log-likelihood of what validation users found, for each number of shown items.

References: Wolpert, "Stacked generalization", Neural Networks 1992; Breiman, "Stacked
regressions", Machine Learning 1996.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from metajax.benchmark.ranking import Lists
from metajax.benchmark.ranking_arms import Scorer, Sparse

RIDGE = 1e-3
"""Penalty of the squared weights, beside the mean log-likelihood of users."""


def stack(scorers: Sequence[Scorer], valid: Sequence[Lists], shots: Sequence[int]) -> Scorer:
    """The stack of N rankers.

    Args:
      scorers: histories (T, I) -> scores (T, I), one for each arm, fitted without ``valid``.
      valid: lists of validation users, one for each number of shots.
      shots: the shown items of each of the lists; a history gets the weights of the nearest.

    Returns:
      histories (T, I) -> scores (T, I).
    """
    weight_KxN = np.stack([weights(features(scorers, lists.history), lists) for lists in valid])
    level = np.log(np.asarray(shots, np.float64))

    def score(histories: Sparse) -> np.ndarray:
        size = np.maximum(np.diff(histories.indptr), 1)
        nearest = np.abs(np.log(size[:, None]) - level).argmin(axis=1)
        return np.einsum("nti,tn->ti", features(scorers, histories), weight_KxN[nearest])

    return score


def features(scorers: Sequence[Scorer], histories: Sparse) -> np.ndarray:
    """Scores (N, T, I) of the arms: of each user the mean 0 and the variance 1."""
    found = np.stack([np.asarray(scorer(histories), np.float32) for scorer in scorers])
    found -= found.mean(axis=2, keepdims=True)
    return found / (found.std(axis=2, keepdims=True) + 1e-12)


def weights(features_NxTxI: np.ndarray, lists: Lists) -> np.ndarray:
    """The weights (N,) of arms under which users find what they did with most probability.

    A user counts once, however much they found; one who found nothing does not count.
    """
    seen = lists.history.toarray() > 0
    wanted = (lists.relevant.toarray() > 0) & ~seen & lists.candidates
    told = wanted.any(axis=1)
    x = features_NxTxI[:, told]
    hidden = (seen | ~lists.candidates)[told]
    share = wanted[told] / wanted[told].sum(axis=1, keepdims=True)
    users = max(len(share), 1)

    def loss(weight_N: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(weight_N.astype(np.float32), x, 1)
        logits[hidden] = -np.inf
        log_p = special.log_softmax(logits, axis=1)
        slope = np.tensordot(x, np.exp(log_p) - share, axes=([1, 2], [0, 1])) / users
        fit = -np.sum(share * np.where(hidden, 0.0, log_p)) / users
        return fit + RIDGE / 2 * weight_N @ weight_N, slope + RIDGE * weight_N

    start = np.full(len(x), 1.0 / len(x))
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
