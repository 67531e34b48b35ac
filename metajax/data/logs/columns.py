"""Columns of your own log as indices, ratings and counts; errors are one line that says the row."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.logs.raw import require_polars
from metajax.types import UserError

NULLS = (r"\n", "nan", "-nan", "null", "(null)", "none", "na", "n/a", "#n/a", "<na>", "nat", "nil")
"""Texts by which other programs write that there is no value, in lower case."""
TRUTH = {"true": "1", "false": "0", "yes": "1", "no": "0", "t": "1", "f": "0"}
EXACT = {"Float16": 2**11, "Float32": 2**24, "Float64": 2**53}
"""From here on floats of a type leave whole numbers out, so that different ids are one float."""
EMPTY = "correct the row, or say --missing drop to leave such rows out"
COUNTS_SPAN = 1e4  # ratings whose scale is this wide are more likely counts


class Column(NamedTuple):
    """A column of a file.

    Attributes:
      path: the file.
      role: what the column is for, such as "user" or "time".
      values: a polars.Series.
      rows: the number of each value's row, from 0; None is 0, 1, 2...
    """

    path: Path
    role: str
    values: Any
    rows: np.ndarray | None = None

    def error(self, row: int, what: str, remedy: str = "correct or remove the row") -> UserError:
        """The error of one value; rows are counted from 1 below the header."""
        number = row if self.rows is None else int(self.rows[row])
        return UserError(
            f"{self.path}: row {number + 1}: the {self.role} {what} (column {self.values.name!r}); "
            f"{remedy}"
        )

    def kept(self, keep: np.ndarray) -> "Column":
        """The column without some of its rows, whose numbers stay."""
        rows = np.arange(len(keep)) if self.rows is None else self.rows
        return self._replace(values=self.values.filter(keep), rows=rows[keep])


class Read(NamedTuple):
    """A column that was understood: its values, what they are, and what is odd about them."""

    values: np.ndarray
    said: str
    odd: list[str]


def trimmed(values: Any) -> Any:
    """A polars.Series of text without surrounding space, "" as null; other types as they are."""
    polars = require_polars()
    if values.dtype in (polars.Categorical, polars.Enum, polars.Null):
        values = values.cast(polars.String)
    return values.str.strip_chars().replace("", None) if values.dtype == polars.String else values


def missing(column: Column, keep_texts: bool) -> np.ndarray:
    """Which rows have no value: (rows,) bool.

    Args:
      column: any.
      keep_texts: whether texts such as NA and null are values.
    """
    polars = require_polars()
    values = trimmed(column.values)
    absent = values.is_null()
    if values.dtype == polars.String and not keep_texts:
        absent = absent | values.str.to_lowercase().is_in(NULLS).fill_null(False)
    elif values.dtype.is_float():
        absent = absent | values.is_nan().fill_null(False)
    return absent.to_numpy()


def ids(column: Column, keep_texts: bool = False) -> tuple[Read, np.ndarray]:
    """Indices (rows,) int32 of a column of ids, and the n distinct ids (n,) in order.

    Raises:
      UserError: an absent id; ids that cannot be told apart; a type that is neither whole numbers
        nor text.
    """
    polars = require_polars()
    values = trimmed(column.values)
    absent = missing(column, keep_texts)
    if absent.any():
        row = int(np.argmax(absent))
        if values[row] is None:
            raise column.error(row, "is empty", EMPTY)
        raise column.error(
            row,
            f"is {values[row]!r}, which means that there is none",
            "correct the row, or say --missing drop to leave such rows out, --missing keep to take "
            "it for an id",
        )
    odd: list[str] = []
    if values.dtype == polars.String:
        if column.values.dtype == polars.String and (values != column.values).any():
            odd.append(f"spaces around {column.role} ids were removed")
        nul = values.str.contains("\0", literal=True)
        if nul.any():
            raise column.error(int(nul.arg_max() or 0), "holds a NUL, which is not text")
        odd += _odd_texts(column._replace(values=values))
        numbers = _plain_integers(polars, values)
        values = values if numbers is None else numbers
    elif values.dtype.is_float():
        values, odd = _whole(column, values), [f"{column.role} ids are stored as floats"]
    if values.dtype == polars.String:
        known = values.unique().sort()
        codes = values.cast(polars.Enum(known)).to_physical().to_numpy()
        return Read(codes.astype(np.int32), "text", odd), known.to_numpy().astype(np.str_)
    if values.dtype == polars.Int128 or values.dtype.is_decimal():
        return ids(column._replace(values=values.cast(polars.String)), keep_texts)
    if not values.dtype.is_integer():
        raise UserError(
            f"{column.path}: the {column.role} column {values.name!r} has the type "
            f"{values.dtype}; ids are whole numbers or text"
        )
    known, codes = np.unique(values.to_numpy(), return_inverse=True)
    return Read(codes.astype(np.int32), "whole numbers", odd), known


def _whole(column: Column, values: Any) -> Any:
    """Float ids as whole numbers.

    Raises:
      UserError: one is not whole, or so large that its neighbors are the same float.
    """
    polars = require_polars()
    whole = values.is_finite() & (values == values.floor())
    if not whole.all():
        row = int((~whole).arg_max() or 0)
        raise column.error(row, f"{values[row]} is not a whole number")
    large = values.abs() >= EXACT[str(values.dtype)]
    if large.any():
        raise _merged(column, int(large.arg_max() or 0))
    return values.cast(polars.Int64)


def _merged(column: Column, row: int) -> UserError:
    """The error of an id that was once a float too large to be told from its neighbors."""
    return column.error(
        row,
        f"{column.values[row]} is a rounded number",
        "ids of this size that passed through floats cannot be told apart: write them as whole "
        "numbers or text",
    )


def _odd_texts(column: Column) -> list[str]:
    """What is odd about ids of text.

    Raises:
      UserError: floats too large to be exact; a number written in two ways, such as 1 and 1.0.
    """
    polars = require_polars()
    values = column.values
    rounded = values.str.contains(r"^[-+]?\d(\.\d+)?[eE]\+?\d+$")
    if rounded.any():
        raise _merged(column, int(rounded.arg_max() or 0))
    floats = values.str.contains(r"^[-+]?\d+\.0*$")
    odd = []
    if floats.any():
        numbers = values.cast(polars.Float64, strict=False)
        large = floats & (numbers.abs() >= EXACT["Float64"]).fill_null(False)
        if large.any():
            raise _merged(column, int(large.arg_max() or 0))
        both = floats & numbers.is_in(numbers.filter(~floats).drop_nulls().implode())
        if both.any():
            text = values[int(both.arg_max() or 0)]
            raise UserError(
                f"{column.path}: the {column.role} {text} is also written {text.split('.')[0]} "
                f"(column {values.name!r}); write each id one way"
            )
        odd.append(f"{column.role} ids are written as floats, such as {values.filter(floats)[0]}")
    known = values.filter(values.str.contains(r"[^\x00-\x7f]")).unique()
    if known.str.normalize("NFC").n_unique() < len(known):
        odd.append(f"{column.role} ids differ only in how an accent is coded (Unicode NFC, NFD)")
    zeros = values.str.contains(r"^0\d+$")
    if (
        zeros.any()
        and values.is_in(values.filter(zeros).str.strip_chars_start("0").implode()).any()
    ):
        odd.append(f"{column.role} ids differ only in leading zeros, such as 007 and 7")
    return odd


def _plain_integers(polars: Any, values: Any) -> Any | None:
    """Text as integers where every value is a plainly written one, else None."""
    for part in (values.head(1000), values):
        numbers = part.cast(polars.Int64, strict=False)
        if numbers.null_count() or not (numbers.cast(polars.String) == part).all():
            return None
    return numbers


def floats(column: Column, decimal: str | None = None) -> tuple[np.ndarray, str] | None:
    """The numbers of a column and how they were written; None for a type that holds none.

    Raises:
      UserError: an absent value; a value that is not a finite number; commas that may be decimal
        signs or stand between thousands.
    """
    polars = require_polars()
    values, said = trimmed(column.values), ""
    if values.null_count():
        raise column.error(int(values.is_null().arg_max() or 0), "is empty", EMPTY)
    if not (values.dtype.is_numeric() or values.dtype in (polars.String, polars.Boolean)):
        return None
    text = values
    if values.dtype == polars.String:
        lower = values.str.to_lowercase()
        if lower.is_in(list(TRUTH)).all():
            values, said = lower.replace(TRUTH), "true and false as 1 and 0"
        elif decimal != "." and values.str.contains(",", literal=True).any():
            values, said = _with_points(column._replace(values=values), decimal), "decimal commas"
    elif values.dtype == polars.Boolean:
        said = "true and false as 1 and 0"
    numbers = values.cast(polars.Float64, strict=False)
    if numbers.null_count():
        row = int(numbers.is_null().arg_max() or 0)
        raise column.error(row, f"{text[row][:40]!r} is not a number")
    out = numbers.to_numpy()
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out)))
        raise column.error(row, f"is {out[row]}, not a finite number")
    return out, said


def _with_points(column: Column, decimal: str | None) -> Any:
    """Numbers with decimal commas, with points instead."""
    values = column.values
    commas = values.str.contains(r"^[-+]?\d*,\d+$")
    if decimal is None and not (commas | values.str.contains(r"^[-+]?\d+$")).all():
        return values
    thousands = values.str.contains(r"^[-+]?\d{1,3},\d{3}$")
    if decimal is None and (thousands == commas).all():
        row = int(commas.arg_max() or 0)
        raise UserError(
            f"{column.path}: row {row + 1}: the {column.role} {values[row]} may hold a decimal "
            "comma or thousands; say --decimal , or write it without"
        )
    return values.str.replace(",", ".", literal=True)


def labels(column: Column, decimal: str | None = None) -> Read:
    """The ratings of a column: (rows,) float32.

    Raises:
      UserError: an absent value; a value that is not a finite number; true in every row.
    """
    found = floats(column, decimal)
    if found is None:
        raise UserError(
            f"{column.path}: the label column {column.values.name!r} has the type "
            f"{column.values.dtype}; ratings are numbers"
        )
    out, said = found
    if said.startswith("true") and (out == out[0]).all():
        raise UserError(
            f"{column.path}: the label {column.values.name!r} is {column.values[0]} in every row, "
            "so that there is nothing to learn; say --label none to read every row as an event"
        )
    odd = []
    low, high = float(out.min()), float(out.max())
    if high - low >= COUNTS_SPAN:
        odd.append(
            f"ratings from {low:g} to {high:g}: if they are counts, say --count "
            f"{column.values.name}"
        )
    with np.errstate(over="ignore"):
        small = out.astype(np.float32)
    if not np.isfinite(small).all():
        row = int(np.argmin(np.isfinite(small)))
        raise column.error(row, f"{out[row]:g} is too large")
    return Read(small, said, odd)


def counts(column: Column, decimal: str | None = None) -> Read:
    """How often the events of a column happened: (rows,) float32, none below 0.

    Raises:
      UserError: an absent value; a value that is not a number or below 0.
    """
    read = labels(column, decimal)
    if (read.values < 0).any():
        row = int(np.argmax(read.values < 0))
        raise column.error(
            row,
            f"{read.values[row]:g} is below 0",
            "remove the row, or say --count none to read every row as an event",
        )
    positive = read.values[read.values > 0]
    odd = []
    if len(positive) and positive.max() / positive.min() >= 1e5:
        orders = int(np.log10(positive.max() / positive.min()))
        odd.append(f"counts span {orders} orders of magnitude")
    return Read(read.values, read.said, odd)


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
            f"{path}: every rating is {low:g}; give the scale, as --scale LOWEST HIGHEST, or say "
            "--label none to read every row as an event"
        )
    return low, high
