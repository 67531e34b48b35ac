"""Membership inference: can one tell from a released model who was in its training?

The attack trains shadow models, each on a random half of the people, and computes of every person a
statistic under every model, such as the loss. For a target model, a person's statistic is compared
with what it is under the other models that have them and that do not: a likelihood ratio. An area
under the ROC curve (AUC) of .5 is guessing.

References: Carlini et al., IEEE S&P 2022 (LiRA, the online attack); Shokri et al., IEEE S&P 2017.
"""

import numpy as np

from metajax.results.intervals import Interval
from metajax.types import UserError


def likelihood_ratio(statistic_MxU: np.ndarray, member_MxU: np.ndarray) -> np.ndarray:
    """Scores (M, U), higher for likelier members: each model is attacked by the other pairs.

    A person's statistic is taken as normal with a mean for members and one for others, and the
    deviations of all people alike, as is advised where shadow models are few. The other model of
    the target's pair is left out too: with it, one of the two means would rest on a model more,
    which tells who is a member, though nothing leaks.

    Args:
      statistic_MxU: of U people under M models, in pairs as `halves` makes them.
      member_MxU: whether the model was trained on the person.
    """
    models, member = len(statistic_MxU), member_MxU.astype(bool)
    found = np.zeros(statistic_MxU.shape)
    for target in range(models):
        others = np.arange(models) // 2 != target // 2
        value, inside = statistic_MxU[others], member[others]
        mean_in, spread_in = _moments(value, inside)
        mean_out, spread_out = _moments(value, ~inside)
        seen = statistic_MxU[target]
        found[target] = _log_normal(seen, mean_in, spread_in) - _log_normal(
            seen, mean_out, spread_out
        )
    return found


def auc(score: np.ndarray, member: np.ndarray) -> float:
    """The probability that a member's score is above another's, ties half; arrays of one shape.

    >>> auc(np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, False, True, False]))
    0.875
    """
    from scipy.stats import rankdata

    rank, inside = rankdata(score.ravel()), member.ravel().astype(bool)
    yes, no = inside.sum(), (~inside).sum()
    return float((rank[inside].sum() - yes * (yes + 1) / 2) / (yes * no))


def auc_interval(
    score_MxU: np.ndarray, member_MxU: np.ndarray, draws: int = 1000, seed: int = 0
) -> Interval:
    """The AUC over all models and people, with the 95 % interval of a bootstrap over people."""
    rng = np.random.default_rng(seed)
    people = score_MxU.shape[1]
    value = auc(score_MxU, member_MxU)
    drawn = np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(people, size=people)
        drawn[i] = auc(score_MxU[:, chosen], member_MxU[:, chosen])
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = min(1.0, 2 * min(float(np.mean(drawn <= 0.5)), float(np.mean(drawn >= 0.5))))
    return Interval(value, float(low), float(high), p, people, 0)


def halves(num_models: int, num_people: int, seed: int = 0) -> np.ndarray:
    """Members (M, U) of models in pairs: a random half of the people, then the other half.

    Raises:
      UserError: the number of models is odd, or below 4.
    """
    if num_models < 4 or num_models % 2:
        raise UserError(f"{num_models} shadow models: give an even number, 4 or more")
    half = np.random.default_rng(seed).random((num_models // 2, num_people)) < 0.5
    return np.stack([half, ~half], axis=1).reshape(-1, num_people)


def _moments(value: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean (U,) of each person over the models inside, and the deviation of all from theirs."""
    count = np.maximum(inside.sum(axis=0), 1)
    mean = np.where(inside, value, 0.0).sum(axis=0) / count
    gap = np.where(inside, value - mean, 0.0)
    freedom = max(int((inside.sum(axis=0) - 1).clip(0).sum()), 1)
    return mean, max(float(np.sqrt((gap**2).sum() / freedom)), 1e-12)


def _log_normal(x: np.ndarray, mean: np.ndarray, deviation: float) -> np.ndarray:
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)
