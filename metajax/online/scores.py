"""Statistics of a stream: means with intervals over users, curves over time, recovery, fitness."""

import itertools
from typing import NamedTuple

import numpy as np


class UserLosses(NamedTuple):
    """The sum of each user's losses, total (U,), and their number of events, count (U,)."""

    total: np.ndarray
    count: np.ndarray


def by_user(loss: np.ndarray, user: np.ndarray) -> UserLosses:
    """Losses (n,) of events, summed by their user (n,); the U users are in sorted order."""
    _, index = np.unique(user, return_inverse=True)
    return UserLosses(np.bincount(index, loss), np.bincount(index).astype(float))


class EventMean(NamedTuple):
    """A mean over events, with the ends of its 95 % interval over users."""

    mean: float
    low: float
    high: float


def mean_of_events(users: UserLosses, draws: int = 2_000, seed: int = 0) -> EventMean:
    """The mean loss over events, with the interval of a bootstrap that resamples whole users.

    Events of one user are correlated: resampling them singly would make intervals too narrow. With
    fewer than two users the interval is NaN.

    Args:
      users: losses by user.
      draws: bootstrap samples.
      seed: of the draws.
    """
    total, count = np.asarray(users.total, float), np.asarray(users.count, float)
    mean = float(total.sum() / count.sum())
    if len(total) < 2:
        return EventMean(mean, float("nan"), float("nan"))
    drawn = np.empty(draws)
    rng = np.random.default_rng(seed)
    for i in range(draws):
        chosen = rng.integers(0, len(total), len(total), dtype=np.int32)
        drawn[i] = total[chosen].sum() / count[chosen].sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return EventMean(mean, float(low), float(high))


def over_time(loss: np.ndarray, windows: int = 40) -> np.ndarray:
    """The mean (windows,) of losses (n,) in windows of equally many events, in their order."""
    edges = np.linspace(0, len(loss), min(windows, len(loss)) + 1).astype(int)
    return np.array([loss[a:b].mean() for a, b in itertools.pairwise(edges)])


class Fitness(NamedTuple):
    """``F = L_new / L_baseline`` of tasks; below 1 is better than the baseline.

    Attributes:
      geometric: the geometric mean over tasks.
      of_means: the ratio of the mean losses, which is another number.
      below: the share of tasks with F < 1.
      dropped: tasks without a loss of either.
    """

    geometric: float
    of_means: float
    below: float
    dropped: int


def fitness(new: np.ndarray, baseline: np.ndarray, eps: float = 1e-6) -> Fitness:
    """The ratio of the losses (T,) of tasks to those of a baseline; losses below eps count as eps.

    >>> fitness(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    Fitness(geometric=1.0, of_means=1.25, below=0.5, dropped=0)
    """
    new, baseline = np.asarray(new, float), np.asarray(baseline, float)
    real = np.isfinite(new) & np.isfinite(baseline)
    new, baseline = np.maximum(new[real], eps), np.maximum(baseline[real], eps)
    ratio = np.log(new / baseline)
    return Fitness(
        float(np.exp(ratio.mean())),
        float(new.mean() / baseline.mean()),
        float(np.mean(ratio < -1e-12)),
        int((~real).sum()),
    )


def recovery(excess: np.ndarray, jumps: np.ndarray, width: int) -> np.ndarray:
    """The mean excess loss (width,) at the tasks after a jump; NaN if there is no jump.

    The mean is over all jumps that are followed by ``width`` tasks or more.

    Args:
      excess: (..., T) loss above that of the best tracker.
      jumps: (..., T) whether the world jumped before a task.
    """
    excess = np.asarray(excess).reshape(-1, excess.shape[-1])
    jumps = np.asarray(jumps).reshape(-1, jumps.shape[-1])
    rows = [
        excess[s, t : t + width]
        for s, t in zip(*np.nonzero(jumps), strict=True)
        if t + width <= excess.shape[1]
    ]
    return np.mean(rows, axis=0) if rows else np.full(width, np.nan)
