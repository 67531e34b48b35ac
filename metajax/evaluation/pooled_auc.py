"""The AUC over all rows, as a mean over rows or people, so that it has an interval as other scores.

References: DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated
receiver operating characteristic curves", Biometrics 1988.
"""

import numpy as np
from scipy import stats

from metajax.types import UserError


def auc_parts(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The part (N,) of each row in the AUC; their mean is the AUC.

    With A the AUC and p the share of ones, a one that ranks above the share V of zeros has the part
    ``A + (V - A) / p``, and a zero that ranks below the share V of ones ``A + (V - A) / (1 - p)``;
    ties count half. The standard error of the mean of the parts is that of DeLong, so that
    intervals and paired differences follow from parts as from any score of a row. Where several
    rows are of one person, the sums by person are what is drawn again.

    Args:
      score: (N,) the higher, the surer of a 1; label: (N,) of 0 and 1.

    Raises:
      UserError: all labels are alike.

    >>> auc_parts(np.array([3.0, 1.0, 2.0]), np.array([1, 1, 0])).mean()
    0.5
    """
    one = np.asarray(label) > 0.5
    ones, zeros = int(one.sum()), int((~one).sum())
    if not ones or not zeros:
        raise UserError("all labels are alike: an AUC needs rows with 0 and rows with 1")
    score = np.asarray(score, np.float64)
    rank = stats.rankdata(score)
    above = np.empty(len(score))
    above[one] = (rank[one] - stats.rankdata(score[one])) / zeros
    above[~one] = 1.0 - (rank[~one] - stats.rankdata(score[~one])) / ones
    auc = above[one].mean()
    share = np.where(one, ones, zeros) / len(score)
    return auc + (above - auc) / share


def in_blocks(parts: np.ndarray, unit: np.ndarray, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Parts (N,) in blocks of units, as (B,) with the same mean.

    A unit (a person) is in one block with all its rows, and units are dealt to blocks at random:
    what a record stores where there are too many rows to store. A block has the mean of all, and
    what its rows add to it or take from it; so that a block with more rows is not thereby higher.

    Args:
      parts: (N,) whose mean is what counts; unit: (N,) whose row it is, from 0.
      num_blocks: B, at most as many as there are units.
    """
    units = int(unit.max()) + 1
    count = min(num_blocks, units)
    block = np.random.default_rng(seed).permutation(units) % count
    mean = parts.mean()
    off = np.bincount(block[unit], weights=parts - mean, minlength=count)
    return mean + off * count / len(parts)
