"""Times of a log as Unix seconds, whatever unit or format they are written in.

Numbers are seconds below 1e11, milliseconds below 1e14, microseconds below 1e17, else nanoseconds,
each by its own size: right for every date after March 1973. Numbers all of which read as a date,
such as 20140407, are dates. Text is ISO 8601 or another usual format; without an offset it counts
as UTC. An ambiguous date, such as 03/04/2014, is an error that asks for the format.
"""

import re
from typing import Any

import numpy as np

from metajax.data.logs.columns import EMPTY, Column, Read, floats, trimmed
from metajax.data.logs.raw import require_polars
from metajax.types import UserError

UNITS = ((1e17, 1_000_000_000, "ns"), (1e14, 1_000_000, "µs"), (1e11, 1_000, "ms"), (0, 1, "s"))
"""Numbers from a size on are in a unit, of which so many are a second."""
CLOCKS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
ISO = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
WORDS = (
    *("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%m %d, %Y", "%b %d %Y", "%Y/%m/%d"),
    *("%Y.%m.%d", "%Y%m%d", "%d-%b-%Y"),
)
OTHERS = (
    *("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%Y%m%dT%H%M%S%#z", "%Y%m%d%H%M%S"),
    *("%a, %d %b %Y %H:%M:%S GMT", "%d/%b/%Y:%H:%M:%S %z", "%Y-%m-%d %I:%M:%S %p"),
    "%Y-%m-%d %I:%M %p",
)
EARLIEST = -2_208_988_800  # the first second of 1900
LATEST = 4_102_444_800  # and that of 2100


def seconds(column: Column, written: str | None = None) -> Read:
    """The times of a column: (rows,) int64 Unix seconds, parts of a second dropped.

    Args:
      column: dates, date-times, numbers, or text.
      written: the format of text, such as "%d/%m/%Y"; None finds it.

    Raises:
      UserError: an absent value; one that is not a time; a format that cannot be told.
    """
    polars = require_polars()
    values = trimmed(column.values)
    column = column._replace(values=values)
    if values.null_count():
        raise column.error(int(values.is_null().arg_max() or 0), "is empty", EMPTY)
    if values.dtype in (polars.Date, polars.Datetime):
        out, said = (
            values.cast(polars.Datetime("us")).dt.epoch("us").to_numpy() // 1_000_000,
            "dates",
        )
    elif values.dtype == polars.String:
        out, said = _from_text(column, written)
    else:
        numbers = floats(column) if values.dtype.is_numeric() else None
        if numbers is None:
            raise UserError(
                f"{column.path}: the time column {values.name!r} has the type {values.dtype}; "
                "times are numbers, dates or ISO text"
            )
        exact = values.cast(polars.Int64).to_numpy() if values.dtype.is_integer() else numbers[0]
        out, said = _by_size(column, exact)
    return Read(out, said, _odd(out, said))


CLOCK = r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[APap][Mm])?$"
LONGEST_YEAR = 366  # days, from which on a number is not one of a month or a year


def clocks(column: Column) -> bool:
    """Whether a column holds times of a day without the day, such as 10:51."""
    polars = require_polars()
    values = trimmed(column.values).cast(polars.String).drop_nulls()
    return bool(len(values)) and bool(values.str.contains(CLOCK).all())


def small_numbers(column: Column) -> tuple[float, float] | None:
    """The lowest and highest of numbers that may be days of a month or a year, else None."""
    polars = require_polars()
    values = trimmed(column.values).drop_nulls()
    if not (values.dtype.is_numeric() or values.dtype == polars.String):
        return None
    numbers = values.cast(polars.Float64, strict=False)
    if not len(numbers) or numbers.null_count() or not numbers.is_between(0, LONGEST_YEAR).all():
        return None
    return float(numbers.min()), float(numbers.max())


def _odd(out: np.ndarray, said: str) -> list[str]:
    """What is odd about times."""
    odd = []
    if " and " in said:
        odd.append(f"times in {said}, each read by its own size or form")
    if out.max() >= LATEST:
        odd.append("times after 2099: is their unit right?")
    if out.max() < 100_000_000:
        odd.append("every time lies before 1974: is the unit right?")
    elif out.min() < 100_000_000 and out.max() > 500_000_000:
        odd.append("times around 1970 beside later ones")
    return odd


def _by_size(column: Column, numbers: np.ndarray) -> tuple[np.ndarray, str]:
    """Seconds from numbers, each in the unit that its size tells, and which units there are."""
    dates = _as_dates(column, numbers)
    if dates is not None:
        return dates
    sizes = np.abs(numbers)
    if (sizes >= 1e19).any():
        row = int(np.argmax(sizes >= 1e19))
        raise column.error(row, f"{numbers[row]:g} is not a time")
    out, said, upper = np.zeros(len(numbers), np.int64), [], np.inf
    for least, parts, unit in UNITS:
        here = (sizes >= least) & (sizes < upper)
        out[here] = numbers[here] // parts
        said += [unit] * bool(here.any())
        upper = least
    zeros = sizes == 0  # the same in every unit
    if len(said) > 1 and "s" in said and zeros.sum() == (sizes < 1e11).sum():
        said.remove("s")
    return out, " and ".join(said)


def _as_dates(column: Column, numbers: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Seconds from numbers such as 20140407 or 20140407105109, if every one reads as a date."""
    polars = require_polars()
    for low, high, form in (
        (1_900, 2_100, "%Y"),
        (19_000_101, 21_001_231, "%Y%m%d"),
        (19_000_101_000_000, 21_001_231_235_959, "%Y%m%d%H%M%S"),
    ):
        if ((numbers < low) | (numbers > high) | (numbers != np.floor(numbers))).any():
            continue
        text = polars.Series(numbers.astype(np.int64)).cast(polars.String)
        parsed = _parsed(text + "0101000000"[len(form) - 2 :], "%Y%m%d%H%M%S")
        if not parsed.null_count():
            return _epoch(parsed), f"numbers written {form}"
    return None


def _epoch(parsed: Any) -> np.ndarray:
    """Date-times as Unix seconds."""
    return parsed.dt.epoch("us").to_numpy() // 1_000_000


def _parsed(text: Any, form: str) -> Any:
    """Text read in one format as date-times in UTC, null where it is in another one."""
    parsed = text.str.to_datetime(form, strict=False, time_unit="us")
    if parsed.dtype.time_zone is not None:
        parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return parsed


def _from_text(column: Column, written: str | None) -> tuple[np.ndarray, str]:
    """Seconds from text: numbers by their size, what else there is by its format."""
    polars = require_polars()
    values = column.values
    if written is not None:
        return _epoch(_as_written(column, values, written)), f"text written {written}"
    numbers = values.cast(polars.Float64, strict=False)
    number = numbers.is_not_null()
    if number.all():
        whole = values.cast(polars.Int64, strict=False)
        exact = numbers if whole.null_count() else whole
        checked = floats(column)
        return _by_size(column, exact.to_numpy() if checked else numbers.to_numpy())
    out = np.zeros(len(values), np.int64)
    place = np.flatnonzero(~number.to_numpy())
    rows = place if column.rows is None else column.rows[place]
    texts = column._replace(values=values.filter(~number), rows=rows)
    offset = texts.values.str.contains(r":.*(Z|z|UTC|GMT|[+-]\d\d:?\d\d)( \d{4})?$")
    said = ["text"]
    if offset.any() and not offset.all():
        said = ["text with an offset", "text without one (UTC)"]
    out[place] = _epoch(_dates(texts))
    if (out[place] < EARLIEST).any():
        row = int(np.argmax(out[place] < EARLIEST))
        raise texts.error(
            row,
            f"{texts.values[row][:40]!r} reads as a time before 1900",
            "write years with four digits, or say how times are written, such as --time-format "
            "'%d/%m/%y'",
        )
    if number.any():
        at = np.flatnonzero(number.to_numpy())
        out[at], unit = _by_size(column, numbers.filter(number).to_numpy())
        said.append(unit)
    return out, " and ".join(said)


def _as_written(column: Column, values: Any, written: str) -> Any:
    """Text in the format that a person named."""
    polars = require_polars()
    try:
        if "%H" in written or "%I" in written or "%s" in written or "%T" in written:
            parsed = _parsed(values, written)
        else:
            parsed = values.str.to_date(written, strict=False).cast(polars.Datetime("us"))
    except polars.exceptions.PolarsError as error:
        raise UserError(
            f"--time-format {written!r} is not understood; give one such as '%d/%m/%Y %H:%M'"
        ) from error
    if parsed.null_count():
        row = int(parsed.is_null().arg_max() or 0)
        raise column.error(row, f"{values[row][:40]!r} is not written as {written}")
    return parsed


def _dates(column: Column) -> Any:
    """Text as date-times in UTC: ISO 8601 first, then what else is usual.

    Raises:
      UserError: text that is no time; a day that may be a month.
    """
    text = column.values.str.replace(r"^(\d{4}-\d\d?-\d\d?)$", "${1}T00:00")
    text = text.str.replace(r"^(\d{4}-\d\d?-\d\d?) ", "${1}T")
    text = text.str.replace(r"(Z| ?UTC|z)$", "+00:00").str.replace(r" ([+-]\d\d:?\d\d)$", "${1}")
    out = None
    for form in ISO:
        parsed = _parsed(text, form)
        out = parsed if out is None else out.zip_with(out.is_not_null(), parsed)
        if not out.null_count():
            return out
    text = column.values
    for form in OTHERS:
        out = _filled(out, _parsed(text, form))
    for form in WORDS:
        for clock in CLOCKS:
            out = _filled(out, _day(text, form, clock))
    return _numeric_days(column, out) if out is not None and out.null_count() else out


def _filled(out: Any, parsed: Any) -> Any:
    return out.zip_with(out.is_not_null(), parsed)


def _day(text: Any, form: str, clock: str) -> Any:
    """Text in a format of a day and one of a clock, as date-times."""
    if clock:
        return _parsed(text, form + clock)
    polars = require_polars()
    return text.str.to_date(form, strict=False).cast(polars.Datetime("us"))


def _numeric_days(column: Column, out: Any) -> Any:
    """Days such as 31/12/2014, where it can be told which is the month."""
    text = column.values.str.replace(r"^(\d\d?)[./-](\d\d?)[./-](\d{4})", "${1}/${2}/${3}")
    left = out.is_null()
    readings = {}
    for form in ("%d/%m/%Y", "%m/%d/%Y"):
        found = out
        for clock in CLOCKS:
            found = _filled(found, _day(text, form, clock))
        if not found.null_count():
            readings[form] = found
    if len(readings) == 2 and (readings["%d/%m/%Y"] != readings["%m/%d/%Y"]).any():
        row = int(left.arg_max() or 0)
        raise column.error(
            row,
            f"{column.values[row][:40]!r} may begin with the day or with the month",
            "say --time-format '%d/%m/%Y' or '%m/%d/%Y', with the clock if there is one",
        )
    if readings:
        return next(iter(readings.values()))
    row = int(left.arg_max() or 0)
    value = column.values[row][:40]
    if re.match(CLOCK, value):
        remedy = "name the column of the date with --time, or say --time none"
        raise column.error(row, f"{value!r} is a time of day without the day", remedy)
    raise column.error(row, f"{value!r} is not a time that is known here")
