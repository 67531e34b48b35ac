"""Lossless compression of arrays of per-task scores, with the standard library alone.

Rows of the same tasks resemble each other: another arm, another seed, another condition. A row is
written as its differences from the most similar of the rows before it, as whole numbers: multiples
of 1/q where all its values are such (q a power of two, or of the fractions that metrics are made
of), else the bits of the floats in their order. The bytes of the differences go to one stream per
significance, and each stream through LZMA.
"""

import itertools
import lzma
import struct
from collections.abc import Sequence

import numpy as np

from metajax.types import UserError

FILTER = {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 24}
LEAST = 1 << 16
"""A dictionary as short as what is packed is as good, and made in a fiftieth of the time."""
NEAR = 48
"""How many rows back the most similar one is looked for."""
DIVISORS = sorted(
    [2**b for b in range(41)]
    + [3, 5, 6, 7, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 100, 200]
    + [840, 2520, 27720, 3255]  # shares of up to 12; gains 2^label - 1 of labels up to 5
)
FLOAT = 0
"""What stands in place of the divisor where a row is packed as floats."""
FORM = "fractions"
"""The name of this way to pack; a record says it, and another way needs another name."""


def divisor(scores: np.ndarray) -> int:
    """The least of `DIVISORS` that all finite values are multiples of; `FLOAT` if there is none."""
    values = np.unique(scores[np.isfinite(scores)])
    largest = float(np.abs(values).max(initial=0.0))
    for q in DIVISORS:
        if largest * q >= 2.0**31:
            break
        if np.array_equal((np.rint(values * float(q)) / q).astype(np.float32), values):
            return q
    return FLOAT


class OtherForm(UserError):
    """The file is whole, but in a format that this version of metajax does not read."""


class _Rows:
    """The rows of equal length that were packed last, the latest first."""

    def __init__(self):
        self.kept: dict[tuple[int, bool], list[np.ndarray]] = {}

    def guesses(self, width: int, q: int) -> np.ndarray:
        """Rows in multiples of 1/q, or as the bits of floats, (number, width); zeros first."""
        kept = np.stack([np.zeros(width, np.int64), *self.kept.get((width, q == FLOAT), [])])
        return _multiples(kept, q) if q else kept

    def guess(self, which: int, width: int, q: int) -> np.ndarray:
        """One of `guesses`."""
        if which == 0:
            return np.zeros(width, np.int64)
        row = self.kept[width, q == FLOAT][which - 1]
        return _multiples(row, q) if q else row

    def keep(self, whole: np.ndarray, q: int) -> None:
        kept = self.kept.setdefault((len(whole), q == FLOAT), [])
        kept.insert(0, whole / q if q else whole)
        del kept[NEAR:]


def _multiples(rows: np.ndarray, q: int) -> np.ndarray:
    return np.rint(rows * float(q)).astype(np.int64)


def pack(arrays: Sequence[np.ndarray]) -> bytes:
    """Float32 arrays, each (S, T), as bytes that `unpack` restores exactly."""
    divisors = [divisor(a) for a in arrays]
    about: list[tuple[int, int, int]] = []
    planes: list[list[bytes]] = [[] for _ in range(5)]
    odd = []
    rows = _Rows()
    for q, row in ((q, row) for q, a in zip(divisors, arrays, strict=True) for row in a):
        odd.append(_odd(row))
        finite = np.isfinite(row)
        whole = _whole(row, q)
        guesses = rows.guesses(len(row), q)
        gaps = np.where(finite, whole - guesses, 0)
        best = int(np.log1p(np.abs(gaps, dtype=np.float32)).sum(axis=1).argmin())
        base = int(np.median(gaps[best][finite])) if finite.any() else 0
        guess = guesses[best] + base
        whole = np.where(finite, whole, guess)
        depth = _put(planes, whole - guess)
        about.append((best, depth, base))
        rows.keep(whole, q)
    shapes = [np.array([a.shape[k] for a in arrays], np.int64).tobytes() for k in (0, 1)]
    columns = np.array(about, np.int64).reshape(-1, 3).T
    odd = np.concatenate(odd).tobytes() if odd else b""
    streams = (b"".join(plane) for plane in planes)
    return _join(
        [
            *shapes,
            np.array(divisors, np.int64).tobytes(),
            *(c.tobytes() for c in columns),
            odd,
            *streams,
        ]
    )


def unpack(data: bytes) -> list[np.ndarray]:
    """The arrays that were packed into bytes by `pack`.

    Raises:
      OtherForm: the bytes are from an early version of `pack`.
      ValueError: the bytes are damaged, or not from `pack`.
    """
    counts, widths, divisors, references, depths, bases, odd, *planes = _split(data)
    if len(divisors) != len(counts):
        raise OtherForm(
            "its scores are packed as binary fractions, a form that was given up before any record "
            "in it was published; run its experiment again"
        )
    whole_of = lambda part: np.frombuffer(part, np.int64).tolist()
    about = zip(*map(whole_of, (references, depths, bases)), strict=True)
    odds, place = np.frombuffer(odd, np.uint8), 0
    streams = [np.frombuffer(plane, np.uint8) for plane in planes]
    places = [0] * len(streams)
    rows, arrays = _Rows(), []
    for count, width, q in zip(*map(whole_of, (counts, widths, divisors)), strict=True):
        array = np.empty((count, width), np.float32)
        for i in range(count):
            best, depth, base = next(about)
            whole = rows.guess(best, width, q) + base + _take(streams, places, depth, width)
            rows.keep(whole, q)
            array[i] = _float(whole, q, odds[place : place + width])
            place += width
        arrays.append(array)
    return arrays


def _odd(row: np.ndarray) -> np.ndarray:
    """1 for NaN, 2 and 3 for the infinities, 4 for -0, else 0."""
    zero = (row == 0) & np.signbit(row)
    return np.select([np.isnan(row), row == np.inf, row == -np.inf, zero], [1, 2, 3, 4], 0).astype(
        np.uint8
    )


def _whole(row: np.ndarray, q: int) -> np.ndarray:
    """A row as whole numbers (int64) in the order of its values; anything where not finite."""
    row = np.where(np.isfinite(row), row, 0).astype(np.float32)
    if q:
        return _multiples(row.astype(np.float64), q)
    pattern = row.view(np.int32).astype(np.int64)
    return np.where(pattern < 0, -(pattern & 0x7FFFFFFF), pattern)


def _float(whole: np.ndarray, q: int, odd: np.ndarray) -> np.ndarray:
    """The inverse of `_whole` and `_odd`."""
    if q:
        row = (whole / q).astype(np.float32)
    else:
        pattern = np.where(whole < 0, -whole | 0x80000000, whole).astype(np.uint32)
        row = pattern.view(np.float32)
    return np.select([odd == k for k in (1, 2, 3, 4)], [np.nan, np.inf, -np.inf, -0.0], row)


def _put(planes: list[list[bytes]], gaps: np.ndarray) -> int:
    """Appends the bytes of differences to the streams; returns how many bytes each has."""
    folded = np.where(gaps < 0, -2 * gaps - 1, 2 * gaps)
    depth = (int(folded.max(initial=0)).bit_length() + 7) // 8
    for k in range(depth):
        planes[k].append((folded >> (8 * k) & 255).astype(np.uint8).tobytes())
    return depth


def _take(streams: list[np.ndarray], places: list[int], depth: int, width: int) -> np.ndarray:
    """The next differences of the streams, of so many bytes each."""
    folded = np.zeros(width, np.int64)
    for k in range(depth):
        folded |= streams[k][places[k] : places[k] + width].astype(np.int64) << (8 * k)
        places[k] += width
    return np.where(folded & 1, -(folded >> 1) - 1, folded >> 1)


def _join(parts: Sequence[bytes]) -> bytes:
    packed = [lzma.compress(part, lzma.FORMAT_RAW, filters=[_filter(len(part))]) for part in parts]
    return struct.pack(f"<{1 + len(packed)}I", len(packed), *map(len, packed)) + b"".join(packed)


def _filter(size: int) -> dict[str, int]:
    """The filter that packs so many bytes; `FILTER` unpacks what any of them packed."""
    longest = FILTER["dict_size"]
    return {**FILTER, "dict_size": min(longest, max(LEAST, 1 << size.bit_length()))}


def _split(data: bytes) -> list[bytes]:
    try:
        (count,) = struct.unpack_from("<I", data)
        sizes = struct.unpack_from(f"<{count}I", data, 4)
        ends = np.cumsum([4 + 4 * count, *sizes]).tolist()
        part = lambda a, b: lzma.decompress(data[a:b], lzma.FORMAT_RAW, filters=[FILTER])
        return [part(a, b) for a, b in itertools.pairwise(ends)]
    except (lzma.LZMAError, struct.error) as error:
        raise ValueError(str(error)) from error
