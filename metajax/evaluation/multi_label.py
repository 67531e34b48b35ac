"""Measures of several yes-or-no labels at once: F1 over all decisions and by label, calibration.

NumPy on the host, over all people of a test at once: a decision is good or bad for one person, but
a label's F1 and its calibration are of all people together. The average precision of a person's own
list of labels is `metrics.average_precision`.
"""

import numpy as np

from metajax.types import UserError


def best_cutoffs(score_NxL: np.ndarray, label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The cutoff (L,) of each label above which "yes" has the highest F1.

    Ties go to the lowest cutoff. Choose cutoffs on validation people: on test people they overfit.

    Args:
      score_NxL, label, mask: (N, L) scores, 1 for yes, 1 where the label is known.

    Raises:
      UserError: a label is known of nobody.
    """
    found = np.zeros(score_NxL.shape[1])
    for i in range(len(found)):
        known = mask[:, i] > 0
        if not known.any():
            raise UserError(f"label {i} is known of nobody, so no cutoff can be chosen for it")
        score, yes = score_NxL[known, i], label[known, i] > 0
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(yes[order])
        f1 = 2 * hits / (np.arange(1, len(yes) + 1) + yes.sum())
        last_of_ties = np.append(score[order][1:] < score[order][:-1], True)
        best = len(f1) - 1 - int(np.argmax(np.where(last_of_ties, f1, -1.0)[::-1]))
        below = score[order][best + 1 :]
        edge = score[order][best]
        found[i] = (edge + below[0]) / 2 if len(below) else edge - 1.0
    return found


def macro_f1(score_NxL: np.ndarray, label: np.ndarray, mask: np.ndarray, cutoff: np.ndarray):
    """The F1 (L,) of each label over all people; their mean is the macro F1.

    NaN where a label is neither liked nor said of anyone.

    Args:
      score_NxL, label, mask: (N, L); cutoff: (L,).
    """
    said = (score_NxL > cutoff) & (mask > 0)
    yes = (label > 0) & (mask > 0)
    both = said.sum(axis=0) + yes.sum(axis=0)
    return np.where(both > 0, 2 * (said & yes).sum(axis=0) / np.maximum(both, 1), np.nan)


def calibration_error(
    probability_NxL: np.ndarray, label: np.ndarray, mask: np.ndarray, bins: int = 10
) -> np.ndarray:
    """The expected calibration error (L,) of each label, from 0 to 1.

    Probabilities are sorted into bins of equal width; the error is the mean over people of how far
    the share of yes in their bin is from the mean probability there.

    Args:
      probability_NxL, label, mask: (N, L).

    References: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    found = np.full(probability_NxL.shape[1], np.nan)
    for i in range(len(found)):
        known = mask[:, i] > 0
        p, yes = probability_NxL[known, i].astype(float), label[known, i].astype(float)
        if len(p):
            place = np.minimum((p * bins).astype(int), bins - 1)
            gap = np.bincount(place, yes - p, bins)
            found[i] = np.abs(gap).sum() / len(p)
    return found
