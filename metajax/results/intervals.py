"""Statistics of results: means and differences with their uncertainty.

The unit is the user (or item: the task), never the rating and never the seed alone: average the
seeds of a user first (`mean_of_seeds`), then pair the two methods by user (`paired_bootstrap`). For
a table of runs by tasks there is `iqm` with `stratified_bootstrap`; for the several comparisons of
one table, `holm`. NumPy only, in float64; every random draw comes from a seed.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from metajax.types import UserError

BLOCK_VALUES = 128_000
"""Values resampled at a time. Larger parts are no faster on a quiet machine, and several times as
slow where other runs keep the cores busy."""
MOST_KEPT = 64_000_000
"""Draws times users, a byte each, up to which the samples are kept for the next number."""


class Interval(NamedTuple):
    """An estimate with its bootstrap interval.

    Attributes:
      mean: the estimate on the sample itself.
      low: lower end of the percentile interval; NaN with fewer than 2 units.
      high: upper end.
      p: two-sided bootstrap p-value of "the true value is 0", at least 2 / (draws + 1).
      num_units: users (or runs) the estimate rests on.
      num_dropped: users left out because a value was NaN.
    """

    mean: float
    low: float
    high: float
    p: float
    num_units: int
    num_dropped: int

    def __format__(self, form: str) -> str:
        """The mean and both ends, each in this format.

        >>> f"{Interval(0.25, 0.125, 0.5, 0.01, 40, 0):+.2f}"
        '+0.25 [+0.12, +0.50]'
        """
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]" if form else str(self)


def mean_of_seeds(scores: np.ndarray) -> np.ndarray:
    """The mean (users,) over the seeds of each user, of scores (seeds, users).

    A seed in which the user's metric is undefined (NaN) is left out; a user without any is NaN.
    """
    scores = _array(scores, 2, "scores")
    valid = ~np.isnan(scores)
    total = np.where(valid, scores, 0.0).sum(0)
    times = valid.sum(0)
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


def mean_interval(
    values: np.ndarray, *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of values (users,) with the percentile interval of a bootstrap over users.

    Args:
      values: one number per user; NaN users are dropped and counted.
      draws: bootstrap samples.
      seed: of the draws; equal seeds and numbers of users give equal samples of users.
      level: coverage of the interval.

    Raises:
      UserError: a value is infinite, or no user is left.

    References: Efron and Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
    """
    values = _array(values, 1, "values")
    kept = values[~np.isnan(values)]
    if kept.size == 0:
        raise UserError("no user has a defined value: nothing to average")
    if np.isinf(kept).any():
        raise UserError("a value is infinite: look for a diverged run before averaging")
    if draws * kept.size <= MOST_KEPT:
        blocks = [times.astype(float) @ kept for times in _times(kept.size, draws, seed)]
    else:
        blocks = [kept[place].sum(1) for place in _places(kept.size, draws, seed)]
    means = np.concatenate(blocks) / kept.size
    return _interval(float(kept.mean()), means, level, kept.size, values.size - kept.size)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of a - b over users, a (users,) and b (users,), as `mean_interval` gives it.

    A user for whom either is NaN is dropped and counted. The difference may be called one only
    where the interval excludes 0.

    Raises:
      UserError: the two are not paired, or as `mean_interval`.
    """
    a, b = _array(a, 1, "a"), _array(b, 1, "b")
    if a.shape != b.shape:
        raise UserError(f"{a.size} and {b.size} users cannot be paired: give both for the same")
    if np.isinf(a).any() or np.isinf(b).any():
        raise UserError("a value is infinite: look for a diverged run before comparing")
    return mean_interval(a - b, draws=draws, seed=seed, level=level)


def two_way_bootstrap(
    groups: Sequence[np.ndarray], *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean over the units of all groups, its interval over groups and over units in them.

    Each draw takes as many groups as there are, with replacement, and of each its units with
    replacement: what another draw of splits with other users would give. With few groups the
    interval is somewhat too narrow.

    Args:
      groups: one array (users,) per split, such as paired differences; NaN users are dropped.
      draws, seed, level: as `mean_interval`.

    Raises:
      UserError: there is no group, one has no defined value, or a value is infinite.

    References: Davison and Hinkley, "Bootstrap methods and their application", 1997, sec. 3.8.
    """
    groups = [_array(group, 1, "a group")[:, None] for group in groups]
    return two_way_bootstraps(groups, draws=draws, seed=seed, level=level)[0]


def two_way_bootstraps(
    groups: Sequence[np.ndarray], *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """`two_way_bootstrap` of several columns on the same draws, for the time of one.

    Args:
      groups: one array (users, columns) per split; a user must be NaN in all columns or in none.
      draws, seed, level: as `mean_interval`.

    Raises:
      UserError: as `two_way_bootstrap`, or a user is undefined in some columns only.
    """
    groups = [_array(group, 2, "a group") for group in groups]
    kept = [group[~np.isnan(group).all(axis=1)] for group in groups]
    if not kept or min(map(len, kept)) == 0:
        raise UserError("a two-way bootstrap needs groups that have defined values")
    if any(np.isinf(group).any() for group in kept):
        raise UserError("a value is infinite: look for a diverged run before averaging")
    if any(np.isnan(group).any() for group in kept):
        raise UserError("columns of a two-way bootstrap must be defined for the same users")
    rng = np.random.default_rng(seed)
    taken = rng.integers(0, len(kept), (draws, len(kept)))
    total, units = np.zeros((draws, kept[0].shape[1])), np.zeros((draws, 1))
    for i, group in enumerate(kept):
        times = (taken == i).sum(axis=1)
        for again in range(1, int(times.max()) + 1):
            some = np.flatnonzero(times >= again)
            for rows in np.array_split(some, len(_blocks(max(1, len(some)), len(group)))):
                place = rng.integers(0, len(group), (len(rows), len(group)), dtype=np.int32)
                total[rows] += _how_often(place) @ group
                units[rows] += len(group)
    every = np.concatenate(kept)
    dropped = sum(map(len, groups)) - len(every)
    each = zip(every.mean(axis=0), (total / units).T, strict=True)
    return [_interval(float(mean), of, level, len(every), dropped) for mean, of in each]


def ratio_bootstrap(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The ratio of two sums over users, or of one method minus another's, with its interval.

    For measures that pool what is counted over users, such as the micro F1: each draw takes users
    with replacement, and the sums are of those.

    Args:
      a, b: (top (users,), bottom (users,)) of each method; the same users in both.

    Raises:
      UserError: the two are not paired.
    """
    parts = [np.stack([_array(x, 1, "a ratio") for x in pair]) for pair in (a, b) if pair]
    if len({part.shape for part in parts}) > 1:
        raise UserError("ratios of other users cannot be paired: give both for the same")
    size, rng = parts[0].shape[1], np.random.default_rng(seed)
    ratio = lambda sums: sums[0] / np.maximum(sums[1], 1e-12)
    gap = lambda sums: ratio(sums[0]) - (ratio(sums[1]) if len(sums) > 1 else 0.0)
    found = []
    for rows in _blocks(draws, size):
        place = rng.integers(0, size, (rows, size), dtype=np.int32)
        found.append(gap([part[:, place].sum(axis=2) for part in parts]))
    mean = float(gap([part.sum(axis=1) for part in parts]))
    return _interval(mean, np.concatenate(found), level, size, 0)


def crossed_bootstrap(
    scores: np.ndarray, *, draws: int = 2_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of scores (S, T) of S seeds on the same T tasks, its interval over both.

    Each draw takes S seeds with replacement and T tasks with replacement, the same for all seeds:
    what other tasks and other seeds would give. With one seed it is the interval over tasks.

    Args:
      scores: NaN is not allowed.
      draws, seed, level: as `mean_interval`.

    References: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007.
    """
    scores = np.asarray(scores, float)
    num_seeds, num_tasks = scores.shape
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), draws)
    means = np.empty(draws)
    for rows in np.array_split(np.arange(draws), max(1, draws * num_tasks // 4_000_000)):
        of_tasks = rng.multinomial(num_tasks, np.full(num_tasks, 1 / num_tasks), len(rows))
        by_seed = of_tasks @ scores.T / num_tasks
        means[rows] = (by_seed * of_seeds[rows]).sum(axis=1) / num_seeds
    return _interval(float(scores.mean()), means, level, num_tasks, 0)


def holm(p_values: np.ndarray) -> np.ndarray:
    """The p-values (comparisons,) adjusted for being the several comparisons of one table.

    Rejecting where the adjusted value is below alpha keeps the chance of any false rejection below
    alpha. NaN, a comparison that was not made, stays NaN and does not count.

    References: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    p_values = _array(p_values, 1, "p_values")
    tested = np.flatnonzero(~np.isnan(p_values))
    ascending = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(len(ascending), 0, -1)
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(factors * p_values[ascending]), 1.0)
    return adjusted


def iqm(scores: np.ndarray) -> np.ndarray:
    """The interquartile mean: of scores (..., runs, tasks), the mean of the middle half.

    A quarter of the runs x tasks scores, rounded down, is cut from each end.

    References: Agarwal et al., "Deep reinforcement learning at the edge of the statistical
    precipice", NeurIPS 2021.
    """
    scores = np.asarray(scores, np.float64)
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    keep = slice(cut, flat.shape[-1] - cut)
    return np.partition(flat, (keep.start, keep.stop - 1), axis=-1)[..., keep].mean(-1)


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A statistic of scores (runs, tasks) with its interval over runs.

    Each draw resamples, for each task on its own, its runs with replacement: the uncertainty is
    that of the seeds, for these tasks. With few runs the interval is too narrow: the bootstrap
    variance of a mean of n runs is (n - 1) / n of the unbiased one.

    Args:
      scores: finite scores.
      statistic: (..., runs, tasks) -> (...).
      draws: bootstrap samples.
      seed: of the draws.
      level: coverage of the interval.

    Raises:
      UserError: a score is not finite.

    References: Agarwal et al., NeurIPS 2021, section 4.1.
    """
    scores = _finite(scores, "scores")
    num_runs, num_tasks = scores.shape
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [
            statistic(
                np.take_along_axis(
                    scores[None], rng.integers(0, num_runs, (rows, *scores.shape)), 1
                )
            )
            for rows in _blocks(draws, num_runs * num_tasks)
        ]
    )
    return _interval(float(statistic(scores)), values, level, num_runs, 0)


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """The chance that a run of a scores above one of b, ties counting one half, mean over tasks.

    Args:
      a: (runs, tasks) of one method.
      b: (runs, tasks) of the other, its runs perhaps of another number.

    Raises:
      UserError: the tasks differ in number, or a score is not finite.

    References: Agarwal et al., NeurIPS 2021, section 4.3; Mann and Whitney, 1947.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.shape[1] != b.shape[1]:
        raise UserError(f"a has {a.shape[1]} tasks and b has {b.shape[1]}: compare on the same")
    margin_RxSxT = a[:, None, :] - b[None, :, :]
    return float(np.mean(0.5 * (1.0 + np.sign(margin_RxSxT))))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share (thresholds,) of all runs x tasks scores that lie above each threshold.

    References: Agarwal et al., NeurIPS 2021, section 4.2; Dolan and Moré, 2002.
    """
    ascending = np.sort(_finite(scores, "scores"), axis=None)
    at_most = np.searchsorted(ascending, np.asarray(thresholds, np.float64), side="right")
    return 1.0 - at_most / ascending.size


def _places(size: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap samples of users: blocks (draws, size) of their places."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(draws, size):
        yield rng.integers(0, size, (rows, size), dtype=np.int32)


@functools.lru_cache(maxsize=4)
def _times(size: int, draws: int, seed: int) -> list[np.ndarray]:
    """How often each user is in each sample: blocks (draws, size). Kept for the next number."""
    return [_how_often(place).astype(np.uint8) for place in _places(size, draws, seed)]


def _how_often(places: np.ndarray) -> np.ndarray:
    """How often each of ``size`` users is in each row of places (rows, size)."""
    rows, size = places.shape
    places = places + np.arange(rows, dtype=np.int32)[:, None] * size
    return np.bincount(places.ravel(), minlength=places.size).reshape(rows, size)


def _interval(mean: float, draws: np.ndarray, level: float, units: int, dropped: int) -> Interval:
    if units < 2:
        return Interval(mean, np.nan, np.nan, np.nan, units, dropped)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    tail = min(np.sum(draws <= 0), np.sum(draws >= 0))
    p = min(1.0, 2 * (1 + int(tail)) / (1 + draws.size))
    return Interval(mean, float(low), float(high), p, units, dropped)


def _blocks(draws: int, values_per_draw: int) -> list[int]:
    """The numbers of draws to make at a time, so that memory stays bounded."""
    if draws < 1:
        raise UserError(f"a bootstrap needs at least 1 draw, not {draws}")
    most = max(1, BLOCK_VALUES // values_per_draw)
    return [min(most, draws - done) for done in range(0, draws, most)]


def _array(values: np.ndarray, rank: int, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != rank:
        raise UserError(f"{name} must have {rank} axes, not the shape {values.shape}")
    return values


def _finite(scores: np.ndarray, name: str) -> np.ndarray:
    scores = _array(scores, 2, name)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise UserError(f"{name} must be finite and not empty: average over users first")
    return scores
