"""One columnar table for any interaction log: user, item, label (rating or event) and time.

Users and items are numbered 0..n-1. Side information is kept as indices, never as dense one-hot
rows: a categorical column is (n, width) int32, padded with 0, which means "absent"; a numeric
column is (n, ...) float32.
"""

import dataclasses
import hashlib

import numpy as np

from metajax.types import UserError


@dataclasses.dataclass(frozen=True)
class Features:
    """Side information of users or items.

    Attributes:
      columns: name -> (n, width) int32 for categories (0 = absent), (n, ...) float32 for numbers.
      sizes: name -> number of indices of a categorical column, the 0 included. Numeric columns
        have no entry.
    """

    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def with_column(self, name: str, values: np.ndarray, size: int | None = None) -> "Features":
        """A copy with one more column (n, ...); one with a ``size`` is categorical."""
        sizes = self.sizes if size is None else {**self.sizes, name: size}
        return Features({**self.columns, name: values}, sizes)


@dataclasses.dataclass(frozen=True)
class Interactions:
    """An interaction log of n rows, in columns.

    Attributes:
      name: a short name of the data set.
      user: (n,) int32 user index; item: (n,) int32 item index.
      label: (n,) float32, a rating on ``scale`` or 1.0 for an implicit event.
      time: (n,) int64 Unix seconds, or None where unknown.
      user_ids, item_ids: the original identifiers, by index.
      user_features, item_features: side information, by index.
      scale: (lowest, highest) label.
      state: (n,) int8 a published split's code per row (MeLU: 0 warm, 1 user-cold, 2 item-cold,
        3 both-cold), or None.
      item_year: (num_items,) int16 release year, 0 where unknown, or None.
      item_titles: (num_items,) text, or None.
      count: (n,) float32 how often an implicit event happened (plays, a quantity), or None.
      notes: how a file was interpreted when it was read, and what is odd about it, in one line.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_features: Features
    item_features: Features
    scale: tuple[float, float]
    state: np.ndarray | None = None
    item_year: np.ndarray | None = None
    item_titles: np.ndarray | None = None
    count: np.ndarray | None = None
    notes: str = ""

    @property
    def num_users(self) -> int:
        """The number of users, including those without a row."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """The number of items, including those without a row."""
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.user)

    def checksum(self) -> str:
        """A digest of every column that a result can depend on, as 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        columns = {"user": self.user, "item": self.item, "label": self.label, "time": self.time}
        columns |= {f"user.{k}": v for k, v in sorted(self.user_features.columns.items())}
        columns |= {f"item.{k}": v for k, v in sorted(self.item_features.columns.items())}
        columns |= {"state": self.state, "count": self.count}
        for name, values in columns.items():
            if values is not None:
                digest.update(f"{name}:{values.dtype}:{values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def swapped(table: Interactions) -> Interactions:
    """The table with the roles of users and items exchanged, for learners whose tasks are items.

    ``state``, ``item_year`` and ``item_titles`` are left out.
    """
    return dataclasses.replace(
        table,
        user=table.item,
        item=table.user,
        user_ids=table.item_ids,
        item_ids=table.user_ids,
        user_features=table.item_features,
        item_features=table.user_features,
        state=None,
        item_year=None,
        item_titles=None,
    )


STARS = (1.0, 5.0)
"""The rating scale for which default settings (learning rates, penalties) were chosen."""


def in_stars(table: Interactions) -> tuple[Interactions, float]:
    """The table with its ratings rescaled to 1..5 stars, and the size of a star in its own units.

    So training does not depend on the unit of the ratings: per cent or stars give the same. A table
    on the scale 1..5, or of clicks or events with labels 0 and 1, is returned as it is.
    """
    low, high = table.scale
    is_binary = table.scale == (0.0, 1.0) and bool(np.isin(table.label, (0.0, 1.0)).all())
    if table.scale == STARS or is_binary or not high > low:
        return table, 1.0
    unit = (high - low) / (STARS[1] - STARS[0])
    return dataclasses.replace(table, label=stars_of(table.label, table.scale), scale=STARS), unit


def stars_of(label: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Ratings (n,) of a (lowest, highest) scale, rescaled linearly to 1..5 stars."""
    unit = (scale[1] - scale[0]) / (STARS[1] - STARS[0])
    return np.clip(STARS[0] + (label.astype(float) - scale[0]) / unit, *STARS).astype(np.float32)


def validate(table: Interactions) -> Interactions:
    """The table itself, if it is valid.

    Raises:
      UserError: no rows; columns of unequal length; an index outside its side; a label that is not
        a number or lies outside the scale.
    """
    n = len(table.user)
    if n == 0:
        raise UserError(f"{table.name}: no interactions; give a log with at least one row")
    for name in ("item", "label", "time", "state", "count"):
        values = getattr(table, name)
        if values is not None and len(values) != n:
            raise UserError(f"{table.name}: column {name} has {len(values)} rows, user has {n}")
    for name, count in (("user", table.num_users), ("item", table.num_items)):
        values = getattr(table, name)
        if values.min() < 0 or values.max() >= count:
            raise UserError(f"{table.name}: a {name} index lies outside 0..{count - 1}")
    low, high = table.scale
    bad = ~((table.label >= low) & (table.label <= high))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{table.name}: the rating {table.label[row]:g} in row {row + 1} lies outside the "
            f"scale {low:g}..{high:g}; correct the file or give another scale"
        )
    return table


def repeated_pairs(table: Interactions) -> int:
    """The number of rows whose (user, item) pair occurs in an earlier row."""
    pairs = np.sort(table.user.astype(np.int64) * table.num_items + table.item)
    return int((pairs[1:] == pairs[:-1]).sum())


def tied_rows(table: Interactions) -> int:
    """The number of rows whose user has another row with the same time; 0 without times.

    The true order of such rows is unknown: they keep that of the file.
    """
    if table.time is None:
        return 0
    time = table.time - table.time.min()
    span = int(time.max()) + 1
    if span * table.num_users >= 2**63:
        time = index_encode(time)[0]
        span = len(table)
    moments = np.sort(table.user.astype(np.int64) * span + time)
    same = moments[1:] == moments[:-1]
    return int((np.append(same, False) | np.append(False, same)).sum())


def index_encode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (rows,) as numbers 0..n-1 in sorted order: (codes (rows,) int32, distinct (n,))."""
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int32), distinct


def categorical(values: list[list[str]]) -> tuple[np.ndarray, int]:
    """Multi-valued categories as indices (n, width) int32, padded with 0; and the size, 0 included.

    >>> categorical([["b", "a"], [], ["b"]])
    (array([[2, 1],
           [0, 0],
           [2, 0]], dtype=int32), 3)
    """
    vocabulary = {v: i + 1 for i, v in enumerate(sorted({v for row in values for v in row}))}
    width = max((len(row) for row in values), default=0)
    codes = np.zeros((len(values), max(width, 1)), np.int32)
    for row, names in enumerate(values):
        codes[row, : len(names)] = [vocabulary[v] for v in names]
    return codes, len(vocabulary) + 1
