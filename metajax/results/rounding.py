"""Rounds the scores of a run far below their own noise, so that the file of its record is small.

Float32 scores have seven digits. Of these, the last four are noise that no compression can
remove. `rounded` keeps, array by array, as many as any comparison of two rows can use. It is
applied once, when a record is `made`, before anything is printed or written: a run prints what its
record holds, whatever a table computes from the scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from metajax.results import packing
from metajax.results.schema import Key

PARTS = 16
"""Steps in the standard deviation of the difference between the two most similar rows. The errors
of both rows add 1 / (6 PARTS^2) to its variance: an interval becomes 0.03 % wider."""
TIMES = (" ms", "seconds")
"""Endings of metrics that are measured times; these stay as they are."""
EXACT = 4_096
"""Values that are multiples of 1/q with q up to this stay as they are."""
SMALL = 4_000
"""Records with fewer values than this stay as they are."""
MEAN = 64
"""Steps in the mean of the absolute values, at least."""
MOVED = 1 / 500
"""How far a mean may move, in standard errors of a difference from the most similar row."""
FINE = 2.0**-22
"""A step of less than this, relative to the largest value, is no gain over float32."""
RESOLVED = 1e-12
"""Squared differences below this, relative to the square of a row, are lost in float64."""


def rounded(scores: Mapping[Key, np.ndarray]) -> dict[Key, np.ndarray]:
    """Scores, each (S, T), as multiples of a step of its own, with the mean of each array kept.

    The step is a power of two, at most 1/`PARTS` of the standard deviation over tasks of the
    difference between any row of the array and any unequal row of the same scenario and metric:
    another seed, another condition, another arm. Arrays that are nearly the same stay exact.
    """
    found = {key: np.asarray(values, np.float32) for key, values in scores.items()}
    if sum(values.size for values in found.values()) < SMALL:
        return found
    groups: dict[tuple[str, str, bytes], list[Key]] = {}
    for key, values in found.items():
        defined = ~np.isnan(values).all(axis=0)
        if defined.any() and not np.isinf(values).any():
            groups.setdefault((key.scenario, key.metric, defined.tobytes()), []).append(key)
    for keys in groups.values():
        spreads = _spreads([found[key] for key in keys])
        for key, spread in zip(keys, spreads, strict=True):
            exact = 0 < packing.divisor(found[key]) <= EXACT or key.metric.endswith(TIMES)
            if not exact and spread > 0:
                found[key] = _coarser(found[key], spread)
    return found


def in_steps(scores: np.ndarray, step: float) -> np.ndarray:
    """Scores (S, T) as multiples of a step, their sum kept as well as one threshold can.

    What lies above a common part of a step is rounded up: equal values stay equal, and larger
    ones are never smaller. No value moves by a step or more. NaN stays.

    >>> in_steps(np.array([[0.3, 0.4, 0.5]]), 0.5)
    array([[0. , 0.5, 0.5]], dtype=float32)
    """
    scaled = np.asarray(scores, np.float64) / step
    finite = np.isfinite(scaled)
    floor = np.floor(scaled[finite])
    rest = scaled[finite] - floor
    ups = round(float(rest.sum()))
    least = np.sort(rest)[-ups] if ups else np.inf
    fewer, more = (rest > least), (rest >= least)
    up = fewer if ups - fewer.sum() < more.sum() - ups else more
    scaled[finite] = floor + up
    return (scaled * step).astype(np.float32)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays may be the same scores, each rounded for the record that it stands in.

    Their values differ by at most 1/16 of their mean, more than any two roundings do, and their
    means agree to five digits.
    """
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    one, other = (np.where(np.isfinite(x), x, 0).astype(np.float64) for x in (one, other))
    size = float(np.abs(one).mean())
    return bool(
        np.abs(one - other).max(initial=0.0) <= size / 16
        and abs(float((one - other).mean())) <= 5e-5 * size
    )


def _coarser(values: np.ndarray, spread: float) -> np.ndarray:
    """Values in the largest steps that `PARTS`, `MEAN` and `MOVED` allow."""
    most = MOVED * spread / np.sqrt((~np.isnan(values)).sum())
    step = 2.0 ** np.floor(np.log2(min(spread / PARTS, np.nanmean(np.abs(values)) / MEAN)))
    while step > FINE * np.nanmax(np.abs(values)):
        found = in_steps(values, step)
        if abs(np.nanmean(found, dtype=np.float64) - np.nanmean(values, dtype=np.float64)) <= most:
            return found
        step /= 2
    return values


def _spreads(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """For each array (S, T) the least spread (arrays,) of one of its rows.

    That of a row is the standard deviation over tasks of its difference from the most similar
    unequal one, or 1/`PARTS` of its own where there is no other: 0 where float64 cannot tell rows
    apart.
    """
    place: dict[bytes, int] = {}
    of = [[place.setdefault(row.tobytes(), len(place)) for row in array] for array in arrays]
    rows = [np.frombuffer(row, np.float32) for row in place]
    centered = np.nan_to_num(np.stack(rows).astype(np.float64))
    centered -= centered.mean(axis=1, keepdims=True)
    products = centered @ centered.T / centered.shape[1]
    own = np.diag(products)
    squares = own[:, None] + own - 2 * products
    np.fill_diagonal(squares, np.inf if len(own) > 1 else own / PARTS**2)
    least = squares.min(axis=1)
    least = np.sqrt(np.where(least > RESOLVED * own, least, 0.0))
    return np.array([least[some].min() for some in of])
