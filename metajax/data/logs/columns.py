"""Columns of a person's own log turned into indices, ratings and seconds, or one clear error."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.table import Interactions
from metajax.types import UserError

# From the finest on: numbers from this size on are in that many parts of a second.
UNITS = ((1e17, 1_000_000_000), (1e14, 1_000_000), (1e11, 1_000))
ISO = (
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
)


class Column(NamedTuple):
    """A column of a file: where it is from, what it is for ("user", "time"), its values."""

    path: Path
    role: str
    values: Any  # polars.Series

    def error(self, row: int, what: str) -> UserError:
        """The error of one row, counted from 1 below the header."""
        return UserError(
            f"{self.path}: row {row + 1}: the {self.role} {what} (column {self.values.name!r}); "
            "correct or remove the row"
        )


def ids(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Indices and identifiers of a column of ids: ((rows,) int32, the distinct ids in order).

    Raises:
      UserError: an empty id; a type that is neither whole numbers nor text.
    """
    polars = importlib.import_module("polars")
    values = column.values
    if values.dtype in (polars.Categorical, polars.Enum, polars.Null):
        values = values.cast(polars.String)
    if values.dtype == polars.String:
        values = values.str.strip_chars().replace("", None)
    if values.null_count():
        raise column.error(int(values.is_null().arg_max() or 0), "is empty")
    if values.dtype == polars.String:
        numbers = _plain_integers(polars, values)
        values = values if numbers is None else numbers
    elif values.dtype.is_float():
        whole = values.is_finite() & (values == values.floor())
        if not whole.all():
            row = int((~whole).arg_max() or 0)
            raise column.error(row, f"{values[row]} is not a whole number")
        values = values.cast(polars.Int64)
    if values.dtype == polars.String:
        known = values.unique().sort()
        codes = values.cast(polars.Enum(known)).to_physical().to_numpy()
        return codes.astype(np.int32), known.to_numpy().astype(np.str_)
    if not values.dtype.is_integer():
        raise UserError(
            f"{column.path}: the {column.role} column {values.name!r} has the type "
            f"{values.dtype}; ids are whole numbers or text"
        )
    known, codes = np.unique(values.to_numpy(), return_inverse=True)
    return codes.astype(np.int32), known


def _plain_integers(polars: Any, values: Any) -> Any | None:
    """Text as integers where every value is a plainly written one, else None."""
    for part in (values.head(1000), values):
        numbers = part.cast(polars.Int64, strict=False)
        if numbers.null_count() or not (numbers.cast(polars.String) == part).all():
            return None
    return numbers


def _floats(column: Column) -> np.ndarray | None:
    """The numbers of a column, None where it holds text that is not numbers at all.

    Raises:
      UserError: a missing value; a value that is not a finite number.
    """
    polars = importlib.import_module("polars")
    values = column.values
    if values.dtype == polars.String:
        values = values.str.strip_chars().replace("", None)
    if values.null_count():
        raise column.error(int(values.is_null().arg_max() or 0), "is empty")
    if not (values.dtype.is_numeric() or values.dtype in (polars.String, polars.Boolean)):
        return None
    numbers = values.cast(polars.Float64, strict=False)
    if numbers.null_count():
        row = int(numbers.is_null().arg_max() or 0)
        raise column.error(row, f"{values[row][:40]!r} is not a number")
    out = numbers.to_numpy()
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out)))
        raise column.error(row, f"is {out[row]}, not a finite number")
    return out


def labels(column: Column) -> np.ndarray:
    """The ratings of a column: (rows,) float32.

    Raises:
      UserError: a missing value; a value that is not a finite number.
    """
    out = _floats(column)
    if out is None:
        raise UserError(
            f"{column.path}: the label column {column.values.name!r} has the type "
            f"{column.values.dtype}; ratings are numbers"
        )
    return out.astype(np.float32)


def scale_of(path: Path, label: np.ndarray) -> tuple[float, float]:
    """The lowest and highest label; 0..1 where every label is 1.

    Raises:
      UserError: every label is the same, so that the scale cannot be seen.
    """
    low, high = float(label.min()), float(label.max())
    if low == high == 1.0:
        return 0.0, 1.0
    if low == high:
        raise UserError(
            f"{path}: every rating is {low:g}; give the scale, as scale=(lowest, highest)"
        )
    return low, high


def seconds(column: Column) -> np.ndarray:
    """The times of a column in Unix seconds: (rows,) int64, parts of a second dropped.

    Dates and date-times, numbers in s, ms, us or ns by their magnitude, numbers as text, ISO text.

    Raises:
      UserError: a missing value; a value that is none of these.
    """
    polars = importlib.import_module("polars")
    values = column.values
    if values.dtype == polars.String:
        text = values.str.strip_chars()
        first = text.drop_nulls().head(1)
        if first.len() and first.cast(polars.Float64, strict=False).null_count():
            values = _from_iso(polars, column)
        else:  # a float64 does not hold nanoseconds
            integers = _plain_integers(polars, text)
            values = values if integers is None else integers
    if values.dtype in (polars.Date, polars.Datetime):
        if values.null_count():
            raise column.error(int(values.is_null().arg_max() or 0), "is empty")
        return values.dt.epoch("s").cast(polars.Int64).to_numpy()
    if values.dtype.is_integer() and not values.null_count():
        numbers = values.cast(polars.Int64).to_numpy()
    else:
        numbers = _floats(column._replace(values=values))
    if numbers is None:
        raise UserError(
            f"{column.path}: the time column {values.name!r} has the type {values.dtype}; times "
            "are numbers, dates or ISO text"
        )
    largest = float(np.abs(numbers).max())
    parts = next((parts for bound, parts in UNITS if largest >= bound), 1)
    return (numbers // parts).astype(np.int64)


def _from_iso(polars: Any, column: Column) -> Any:
    """ISO 8601 text as date-times in UTC."""
    text = column.values.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00")
    text = text.str.replace(" ", "T").str.replace(r"(Z| ?UTC)$", "+00:00")
    out = None
    for form in ISO:
        parsed = text.str.to_datetime(form, strict=False, time_unit="us")
        if parsed.dtype.time_zone is not None:
            parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        out = parsed if out is None else out.zip_with(out.is_not_null(), parsed)
        if not out.null_count():
            return out
    row = int(out.is_null().arg_max() or 0) if out is not None else 0
    value = column.values[row]
    raise column.error(row, "is empty" if not value else f"{value[:40]!r} is not an ISO 8601 time")


def keep_last(table: Interactions) -> Interactions:
    """The last row of each (user, item) pair: by time, by row among equals and without times."""
    n = len(table)
    order = np.arange(n) if table.time is None else np.argsort(table.time, kind="stable")
    pair = table.user.astype(np.int64) * table.num_items + table.item
    _, first = np.unique(pair[order[::-1]], return_index=True)
    kept = np.sort(order[::-1][first])
    return dataclasses.replace(
        table,
        user=table.user[kept],
        item=table.item[kept],
        label=table.label[kept],
        time=None if table.time is None else table.time[kept],
    )
