"""Numbers of a stream: means with user-block intervals, curves over time, regret, fitness."""

import itertools
from typing import NamedTuple

import numpy as np


class Users(NamedTuple):
    """Losses summed by user, total (U,), and the events they are of, count (U,)."""

    total: np.ndarray
    count: np.ndarray


def by_user(loss: np.ndarray, user: np.ndarray) -> Users:
    """Losses (n,) of events, summed by their user (n,), users numbered as they are sorted."""
    _, index = np.unique(user, return_inverse=True)
    return Users(np.bincount(index, loss), np.bincount(index).astype(float))


class Ratio(NamedTuple):
    """A mean over events with its 95 % interval over users."""

    mean: float
    low: float
    high: float


def mean_of_events(users: Users, draws: int = 2_000, seed: int = 0) -> Ratio:
    """The mean loss of an event, with a bootstrap that draws users with all their events.

    Events of one user hang together: drawing them one by one would make intervals too narrow.
    """
    total, count = np.asarray(users.total, float), np.asarray(users.count, float)
    mean = float(total.sum() / count.sum())
    if len(total) < 2:
        return Ratio(mean, float("nan"), float("nan"))
    drawn = np.empty(draws)
    rng = np.random.default_rng(seed)
    for i in range(draws):
        chosen = rng.integers(0, len(total), len(total), dtype=np.int32)
        drawn[i] = total[chosen].sum() / count[chosen].sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Ratio(mean, float(low), float(high))


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
    """The fitness of the losses (T,) of tasks against a baseline's; losses below eps count as eps.

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
    """The mean excess loss (width,) at the tasks after a jump, over all jumps with room behind.

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
