"""Rounds the scores of a record as far as no printed number changes, so that its file is small.

Tables print means over tasks, their bootstrap intervals, and paired differences with intervals and
p-values. Per-task scores have seven digits, of
which these need four or five. `printed_alike` finds, array by array, the coarsest multiples of a
power of two at which all of these come out the same to four digits behind the point, stars and
p-values included. Rounding is controlled: the sum over seeds of each task and the sum over all
tasks stay what they were to half a step, so that means hardly move at all.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from metajax.results import intervals, packing
from metajax.results.schema import BASELINE, METHOD, Key, Record

DIGITS = 4
FIRST, LAST, TRIES = 8, 22, 8
"""Bits behind the leading one of the mean: where the search begins and ends; and how many ways of
rounding are tried at each."""
DRAWS, FEWER = 10_000, 2_000
"""Draws of the bootstraps behind intervals; some tables make fewer."""
NOISE, LITTLE = 2e-6, 2e-3
"""Two arrays no further apart differ by rounding alone, or by what is printed with an exponent."""
TIMES = (" ms", "seconds")
"""Endings of metrics that are measured times; percentiles of them are printed."""
EXACT = 4_096
"""Values that are multiples of 1/q with q up to this stay as they are."""
SMALL = 4_000
"""Records with fewer values than this stay as they are."""


def rounded(scores: np.ndarray, bits: int, way: int = 0) -> np.ndarray:
    """Scores (S, T) as multiples of 2^-bits, with the sums of tasks and the sum of all kept.

    First the sum over seeds of each task is rounded, up for as many tasks as the sum of all
    needs, those with the largest remainders (the method of Hamilton); then the seeds of a task in
    the same way. No value moves by more than 2^-bits. Tasks with a value that is not finite stay
    as they are, their finite values rounded to the nearest.

    Args:
      way: remainders are compared after a small disturbance, another one for each way; 0: none.

    >>> rounded(np.array([[0.3, 0.3, 0.4]]), 1)
    array([[0. , 0.5, 0.5]], dtype=float32)
    """
    scaled = np.asarray(scores, np.float64) * 2.0**bits
    whole = np.isfinite(scaled).all(axis=0)
    rng = np.random.default_rng(way)
    noise = lambda shape: 0.3 * rng.random(shape) if way else 0.0
    part = scaled[:, whole]
    sums = part.sum(axis=0)
    sums = _up(np.floor(sums), sums % 1 + noise(sums.shape), round(float((sums % 1).sum())))
    floor = np.floor(part)
    missing = (sums - floor.sum(axis=0)).astype(int)
    rest = part - floor + noise(part.shape)
    ranks = np.argsort(np.argsort(-rest, axis=0, kind="stable"), axis=0)
    found = np.where(np.isfinite(scaled), np.rint(np.where(np.isfinite(scaled), scaled, 0)), scores)
    found = np.where(np.isfinite(scaled), found * 2.0**-bits, scores)
    found[:, whole] = (floor + (ranks < missing)) * 2.0**-bits
    return found.astype(np.float32)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays may be the same scores, each as it is or rounded for another record.

    No value of a rounded array has moved by more than 2^-`FIRST` of the mean, twice that where it
    is below a power of two, and the means of both agree to five digits.
    """
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    one, other = (np.where(np.isfinite(x), x, 0).astype(np.float64) for x in (one, other))
    size = float(np.abs(one).mean())
    return bool(
        np.abs(one - other).max(initial=0.0) <= 4 * 2.0**-FIRST * size
        and abs(float((one - other).mean())) <= 5e-5 * size
    )


def _up(floor: np.ndarray, rest: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers, of which as many are one higher, those with the largest remainders."""
    floor[np.argsort(-rest, kind="stable")[:count]] += 1
    return floor


class _Group:
    """Arrays over the same tasks: the statistics that tables may print of them.

    Args:
      keys: of the arrays.
      exact: their scores, each (S, T); NaN for the same tasks in all.
      pairs: (i, j) of the arrays whose difference may be printed; (i, i) is an array itself.
      record: that they are of.
    """

    def __init__(
        self, keys: Sequence[Key], exact: Sequence[np.ndarray], pairs: np.ndarray, record: Record
    ):
        self.exact, self.pairs = exact, pairs
        self.tails = np.array([k.arm == record.method and k.condition == "all" for k in keys])
        methods = record.names(METHOD)
        self.methods = np.array([k.arm in methods and k.condition == "all" for k in keys])
        arms = np.array([key.arm for key in keys])
        self.same_arm = arms[:, None] == arms
        self.squared = np.array([key.metric == "mse" for key in keys])
        self.digits = np.array([_digits(key, record) for key in keys])
        num_tasks = int((~np.isnan(exact[0]).all(axis=0)).sum())
        self.counts = None if _are_draws(keys[0]) else _counts(num_tasks)
        self.means, self.draws = self.resampled(exact)
        self.wanted = self.printed(self.means, self.draws, np.arange(len(pairs)))

    def resampled(self, scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Means (N,) over tasks, and those (draws, N) over the resampled tasks of `intervals`."""
        tasks = np.stack([intervals.mean_of_seeds(s) for s in scores], axis=1)
        tasks = tasks[~np.isnan(tasks[:, 0])]
        if self.counts is None:
            return tasks.mean(axis=0), tasks
        some = (self.counts[i : i + 500].astype(np.float64) for i in range(0, DRAWS, 500))
        draws = np.concatenate([times @ tasks for times in some])
        return tasks.mean(axis=0), draws / len(tasks)

    def printed(self, means: np.ndarray, draws: np.ndarray, which: np.ndarray) -> np.ndarray:
        """What tables may print of the pairs ``which``, as whole numbers (pairs, facts)."""
        found = []
        for i, j in self.pairs[which]:
            own = i == j
            values = draws[:, i] if own else draws[:, i] - draws[:, j]
            ends = [np.quantile(values[:n], [0.025, 0.975]) for n in (DRAWS, FEWER)]
            told = np.array([means[i] if own else means[i] - means[j], *ends[0], *ends[1]])
            if own and self.squared[i]:
                told = np.sqrt(np.maximum(told, 0))
            tail = 0 if own else min(np.sum(values <= 0), np.sum(values >= 0))
            shown = np.round(told[:, None] * 10.0 ** np.arange(1, DIGITS + 1))
            digits = max(self.digits[[i, j]]) if self.same_arm[i, j] else min(self.digits[[i, j]])
            shown[1:3, digits:] = 0
            shown[3:, DIGITS - 1 :] = 0
            tail = tail if self.tails[j] or self.methods[i] else tail // 10
            found.append(np.concatenate([shown.ravel(), [tail, *np.sign(ends[0])]]))
        return np.array(found)

    def searched(self, finer: np.ndarray, still: np.ndarray) -> list[np.ndarray]:
        """The scores, rounded as far as every statistic stays as printed.

        Args:
          finer: which arrays others are compared with; they are kept finer from the start.
          still: which arrays stay as they are.
        """
        size = [np.log2(np.nanmean(np.abs(a)) + 1e-12) for a in self.exact]
        bits = FIRST - np.floor(size).astype(int) + 2 * finer
        most, ways = bits + LAST - FIRST, np.zeros(len(bits), int)
        bits[still] = most[still]

        def now(i: int) -> np.ndarray:
            whole = bits[i] >= most[i]
            return self.exact[i] if whole else rounded(self.exact[i], int(bits[i]), int(ways[i]))

        scores = [now(i) for i in range(len(bits))]
        means, draws = self.resampled(scores)
        left = np.arange(len(self.pairs))
        while True:
            same = (self.printed(means, draws, left) == self.wanted[left]).all(axis=1)
            i, j = self.pairs[left[~same]].T
            failing = np.unique(np.where(bits[i] < most[i], i, j))
            failing = failing[bits[failing] < most[failing]]
            if not len(failing):
                return scores
            ways[failing] += 1
            bits[failing[ways[failing] == TRIES]] += 1
            ways[failing] %= TRIES
            for k in failing:
                scores[k] = now(k)
            means[failing], draws[:, failing] = self.resampled([scores[k] for k in failing])
            left = np.flatnonzero(np.isin(self.pairs, failing).any(axis=1))


def _are_draws(key: Key) -> bool:
    """Whether scores are no tasks but the draws of a bootstrap."""
    return key.metric.endswith("_draws")


def _digits(key: Key, record: Record) -> int:
    """Digits behind the point of the ends of intervals, as tables print them."""
    rating = bool(record.tasks) and "table" not in record.extra
    some = rating and (key.condition != "all" or key.metric == "mse")
    return DIGITS - 1 if some or key.condition.startswith("steps=") else DIGITS


def _counts(num_tasks: int) -> np.ndarray:
    """How often (draws, T) each task is in each draw of `intervals.mean_interval`."""
    rng, found = np.random.default_rng(0), []
    for rows in intervals._blocks(DRAWS, num_tasks):
        drawn = rng.integers(0, num_tasks, (rows, num_tasks), dtype=np.int32)
        place = (drawn + num_tasks * np.arange(rows)[:, None]).ravel()
        found.append(np.bincount(place, minlength=rows * num_tasks).astype(np.uint8))
    return np.concatenate(found).reshape(DRAWS, num_tasks)


def printed_alike(record: Record) -> Record:
    """The record with its scores rounded as far as no printed number changes.

    Records of fewer than `SMALL` values stay as they are.
    """
    if sum(values.size for values in record.scores.values()) < SMALL:
        return record
    scores = dict(record.scores)
    groups: dict[tuple[str, bytes, bool], list[Key]] = {}
    for key, values in record.scores.items():
        defined = ~np.isnan(values).all(axis=0)
        exact = 0 < packing.divisor(values) <= EXACT or key.metric.endswith(TIMES)
        if not exact and defined.sum() > 1 and not np.isinf(values).any():
            groups.setdefault((key.scenario, defined.tobytes(), _are_draws(key)), []).append(key)
    for keys in groups.values():
        scores |= _searched(record, keys)
    return dataclasses.replace(record, scores=scores)


def _searched(record: Record, keys: Sequence[Key]) -> dict[Key, np.ndarray]:
    """The scores of arrays over the same tasks, equal ones equal."""
    unlike = {record.scores[key].tobytes(): key for key in reversed(keys)}
    first = {key: unlike[record.scores[key].tobytes()] for key in keys}
    some = list(dict.fromkeys(first.values()))
    place = {key: some.index(first[key]) for key in keys}
    pairs, still = set(), np.zeros(len(some), bool)
    for a, b in _compared(record, keys):
        i, j = place[a], place[b]
        gap = _gap(record.scores[a], record.scores[b])
        if i == j or gap > NOISE:
            pairs.add((i, j))
        if i != j and (NOISE < gap < LITTLE or (gap <= NOISE and _is_control(a, b))):
            still[[i, j]] = True
    finer = np.isin([key.arm for key in some], _references(record))
    group = _Group(some, [record.scores[k] for k in some], np.array(sorted(pairs)), record)
    found = dict(zip(some, group.searched(finer, still), strict=True))
    return {key: found[first[key]] for key in keys}


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference between two arrays; infinite where they cannot be compared."""
    return float(np.nanmax(np.abs(one - other))) if one.shape == other.shape else np.inf


def _is_control(a: Key, b: Key) -> bool:
    """Whether the difference is that of shuffled labels, which tables print of every arm."""
    return a.metric in ("mae", "mse") and {a.condition, b.condition} == {"all", "shuffled"}


def _references(record: Record) -> list[str]:
    """The arms that tables compare others with."""
    if not record.method and set(record.names()) == set(record.names(BASELINE)):
        return []
    known = [name for name in ("A2 fold-in", "A4 fine-tuned") if name in record.names()]
    return [*known, *([record.method] if record.method else [])] or record.names()


def _compared(record: Record, keys: Sequence[Key]) -> Iterator[tuple[Key, Key]]:
    """Arrays whose difference may be printed: another arm, or another condition of the arm."""
    known, conditions = set(keys), list(dict.fromkeys(key.condition for key in keys))
    others = {c for c in ("all", "k=0") if c in conditions} | {conditions[0], conditions[-1]}
    references = _references(record)
    for key in keys:
        yield key, key
        bayes = ["A7 hier. Bayes"] if record.arm(key.arm).role == METHOD else []
        for arm in [*references, *bayes]:
            other = key._replace(arm=arm)
            if arm != key.arm and other in known:
                yield key, other
        for condition in others - {key.condition}:
            other = key._replace(condition=condition)
            if other in known:
                yield key, other
