"""Propensities: how likely it is that a rating was given at all, from which rows get their weights.

Who chooses what to rate does not choose at random: what is liked is rated more often. A mean over
rated pairs is then a mean over the wrong pairs, and a row that was likely to be seen stands for
fewer of them. Weighed by the inverse of its propensity, each row counts as often as all pairs like
it, and the weighted mean is unbiased where the propensities are true (inverse propensity scoring).

References: Schnabel et al., "Recommendations as Treatments", ICML 2016; Rosenbaum and Rubin, "The
central role of the propensity score", 1983.
"""

import numpy as np
from scipy import optimize, special

from metajax.types import UserError

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Tried by `logistic`, in units of one pair's log-likelihood."""


def popularity(rated_UxI: np.ndarray) -> np.ndarray:
    """The share of users who rated the item, for each pair (U, I); never 0.

    One user is added who rated half of the items, so that an item that nobody rated has a
    propensity too.

    >>> popularity(np.array([[1, 0], [1, 0], [0, 0]])).round(3).tolist()[0]
    [0.625, 0.125]
    """
    users = len(rated_UxI)
    share = (np.asarray(rated_UxI, float).sum(axis=0) + 0.5) / (users + 1)
    return np.broadcast_to(share, rated_UxI.shape).copy()


def logistic(
    rated_UxI: np.ndarray,
    user_UxF: np.ndarray,
    item_IxG: np.ndarray,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> np.ndarray:
    """The probability (U, I) that a pair is rated, by logistic regression on features.

    The logit is linear in the features of the user, those of the item, and all products of one of
    each. The ridge penalty is the one of ``penalties`` with the highest likelihood of a fifth of
    the pairs that the fit has not seen; the result is fitted to all pairs.

    Args:
      rated_UxI: 1 where the user rated the item, else 0.
      user_UxF: features of users; item_IxG: of items.
      penalties: on the squared weights; the constant has none.
      seed: of the pairs that are left out.
    """
    rated = np.asarray(rated_UxI, float)
    x_UxF = np.column_stack([np.ones(len(user_UxF)), np.asarray(user_UxF, float)])
    z_IxG = np.column_stack([np.ones(len(item_IxG)), np.asarray(item_IxG, float)])
    left_out = np.random.default_rng(seed).random(rated.shape) < 0.2
    best, lowest = penalties[0], np.inf
    if len(penalties) > 1:
        for penalty in penalties:
            logit = _fitted(rated, x_UxF, z_IxG, ~left_out, penalty)
            loss = float((_log_loss(logit, rated) * left_out).sum())
            best, lowest = (penalty, loss) if loss < lowest else (best, lowest)
    return special.expit(_fitted(rated, x_UxF, z_IxG, np.ones(rated.shape), best))


def _fitted(
    rated: np.ndarray, x: np.ndarray, z: np.ndarray, counted: np.ndarray, penalty: float
) -> np.ndarray:
    """The logits (U, I) of all pairs after a fit to those that are counted."""
    shape = (x.shape[1], z.shape[1])
    free = np.ones(shape)
    free[0, 0] = 0.0

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(shape)
        logit = x @ weight @ z.T
        slope = x.T @ ((special.expit(logit) - rated) * counted) @ z + penalty * free * weight
        loss = (_log_loss(logit, rated) * counted).sum() + penalty / 2 * (free * weight**2).sum()
        return float(loss), slope.ravel()

    start = np.zeros(shape)
    found = optimize.minimize(value, start.ravel(), jac=True, method="L-BFGS-B")
    return x @ found.x.reshape(shape) @ z.T


def _log_loss(logit: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each pair."""
    return np.logaddexp(0.0, logit) - rated * logit


def naive_bayes(label: np.ndarray, random_label: np.ndarray, share: float) -> np.ndarray:
    """The propensity (N,) of each rated pair by its label alone, with Bayes' rule.

    ``P(rated | label) = P(label | rated) P(rated) / P(label)``. The last needs a few labels of
    pairs drawn at random; half a label is added to each count of them.

    Args:
      label: (N,) of the rated pairs; random_label: of pairs drawn at random.
      share: P(rated), the share of all pairs that are rated.
    """
    levels, place = np.unique(label, return_inverse=True)
    among_rated = np.bincount(place) / len(label)
    count = np.array([(random_label == level).sum() for level in levels]) + 0.5
    among_all = count / count.sum()
    return np.minimum(among_rated * share / among_all, 1.0)[place]


def weights(propensity: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Inverse propensities (N,) of rated pairs, of mean 1.

    Args:
      propensity: (N,) in (0, 1].
      floor: the share of pairs with the lowest propensities, whose propensities are raised to the
        lowest of the others, so that few pairs do not decide everything (clipping).

    Raises:
      UserError: a propensity is 0, or no probability.
    """
    p = np.asarray(propensity, float)
    if (p == 0).any():
        raise UserError(
            f"the propensity of {int((p == 0).sum())} rated pair(s) is 0: what cannot be rated "
            "cannot be weighed; estimate propensities by another model or raise the zeros"
        )
    if not ((p > 0) & (p <= 1)).all():
        raise UserError("a propensity is no probability above 0 and up to 1; check the estimates")
    inverse = 1.0 / np.maximum(p, np.quantile(p, floor))
    return inverse / inverse.mean()
