"""K-shot EASE: the linear map from K shown items to the rest that is best over episodes, exactly.

EASE regresses each item on *all* others of a user. A new user has shown only K, so that its weights
are too small for what they are asked, and nothing says how popular an item is. Here the regression
is that of the episodes themselves: of a training user with n items, K at random are shown and the
other n - K are to be found. The squared error, summed over all ways to draw the K, has moments in
closed form: an item is shown with probability K / n, two are both shown with K (K - 1) / n (n - 1),
and one is shown while another is to be found with K (n - K) / n (n - 1). One ridge regression with
an intercept for each K is therefore meta-trained on every episode there is. For K = 1 it is the
conditional frequency of an item given another, drawn towards its popularity; for long histories it
comes close to EASE.

References: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019; Steck,
"Autoencoders that don't overfit towards the identity", NeurIPS 2020 (dropout in closed form);
Bertinetto et al., "Meta-learning with differentiable closed-form solvers", ICLR 2019.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy import linalg

Sparse = Any  # scipy.sparse comes without types
LEVELS = (1, 3, 5, 10, 20)
"""The numbers of shown items that a regression is made for; a history has that of the nearest."""


class Moments(NamedTuple):
    """Sums over training users of what is expected over their episodes.

    Attributes:
      shown: (I, I) both items shown; on the diagonal, the item shown.
      found: (I, I) the first shown, the second to be found; 0 on the diagonal.
      wanted: (I,) the item is to be found.
      users: the sum of the users' weights.
    """

    shown: Sparse
    found: Sparse
    wanted: np.ndarray
    users: float


def moments(met: Sparse, shots: int, active: float = 0.0) -> Moments:
    """The moments of episodes in which a user shows so many items, but at most half of them.

    Args:
      met: (U, I) ones; users of one item have no episode.
      active: a user with n items weighs ``n ** active``; the weights' mean is 1.
    """
    count = np.diff(met.indptr)
    met, n = met[count >= 2], count[count >= 2].astype(np.float64)
    k = np.minimum(shots, n // 2)
    weight = n**active / np.mean(n**active)
    pairs = weight / (n * (n - 1))

    def common(of_user: np.ndarray, diagonal: np.ndarray) -> Sparse:
        scaled = sp.diags(of_user.astype(np.float32)) @ met
        of_pairs = sp.csr_matrix(met.T @ scaled)
        return of_pairs + sp.diags((diagonal - of_pairs.diagonal()).astype(np.float32))

    shown = common(pairs * k * (k - 1), met.T @ (weight * k / n))
    found = common(pairs * k * (n - k), np.zeros(met.shape[1]))
    return Moments(shown, found, met.T @ (weight * (n - k) / n), weight.sum())


def kshot_ease(met: Sparse, levels: Sequence[int] = LEVELS, intercept: bool = True) -> Any:
    """K-shot EASE of the interactions (U, I) of training users.

    Args:
      levels: the numbers of shown items that a regression is made for.
      intercept: whether a regression has one; without it a user without history gets zeros.

    Returns:
      Settings -> a scorer as in `ranking_arms`. Settings: ``penalty`` of the ridge at K = 1, at
      other K times ``K ** growth``; the intercept has none; ``active`` as in `moments`.
    """
    of_level = functools.cache(functools.partial(moments, met))

    def fit(penalty: float = 1.0, growth: float = 1.0, active: float = 0.5) -> Any:
        @functools.cache
        def solver(shots: int) -> tuple[Any, Moments]:
            moment = of_level(shots, active)
            single, last = moment.shown.diagonal(), met.shape[1]
            normal = np.empty((last + 1, last + 1), np.float32, order="F")  # as LAPACK has it
            normal[:last, :last] = moment.shown.toarray()
            normal[np.arange(last), np.arange(last)] += penalty * shots**growth
            normal[last, :last] = normal[:last, last] = single * intercept
            normal[last, last] = moment.users
            return linalg.cho_factor(normal, lower=True, overwrite_a=True), moment

        def score(histories: Sparse) -> np.ndarray:
            size = np.maximum(np.diff(histories.indptr), 1)
            level = np.abs(np.log(size[:, None] / np.array(levels))).argmin(axis=1)
            scores = np.empty(histories.shape, np.float32)
            for i in np.unique(level):
                factor, moment = solver(levels[i])
                rows = np.flatnonzero(level == i)
                shown = np.empty((len(rows), histories.shape[1] + 1), np.float32)
                shown[:, :-1], shown[:, -1] = histories[rows].toarray(), intercept
                weight = linalg.cho_solve(factor, shown.T).T
                of_items = weight[:, :-1] @ moment.found.toarray()
                scores[rows] = of_items + weight[:, -1:] * moment.wanted
            return scores

        return score

    return fit
