"""Reads delimited text with quotes by the standard library's `csv`, in the dialect that fits.

A dialect fits if no field has text behind its closing quote, every row has as many fields as the
header, and no quoted field spans several lines each of which would be a whole row by itself (the
sign of a stray quote that swallows the rows up to the next one). Dialects are tried in this order:
quotes escaped by doubling (RFC 4180), then by a backslash; if neither fits, quotes may be plain
text.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.logs import raw
from metajax.types import UserError

CHUNK = 200_000  # rows that are held as Python text at a time


class Unfit(Exception):
    """A row that a dialect does not fit: its number from 0, what is wrong, its width."""

    def __init__(self, row: int, what: str, width: int = 0):
        super().__init__(row, what)
        self.row, self.what, self.width = row, what, width


class Found(NamedTuple):
    """Columns that were read, place -> polars.Series of text, and how many lines were blank."""

    columns: dict[int, Any]
    blank: int


def one_more(path: Path, row: int, names: list[str], ends_so: bool) -> UserError:
    """The error of rows that have one field more than the header has names."""
    what = f"{path}: row {row + 1} has {len(names) + 1} fields and the header {len(names)} names"
    named = ",".join(names)
    if ends_so:
        return UserError(
            f"{what}: it ends in one separator too many; remove it, or name the columns, such as "
            f"--columns {named},_"
        )
    return UserError(
        f"{what}: the header has one name less than the rows, as with row names; name the columns, "
        f"such as --columns _,{named}"
    )


def fields(line: str, separator: str, quoted: bool) -> list[str]:
    """The trimmed fields of one line."""
    if not quoted:
        return [field.strip() for field in line.split(separator)]
    found = next(csv.reader([line], delimiter=separator), [""])
    return [field.strip() for field in found]


def read(
    path: Path,
    data: bytes,
    separator: str,
    names: list[str],
    skip: int,
    places: list[int],
    said: str | None,
) -> Found | Unfit:
    """The wanted columns of a text with quotes; why not, if quotes are plain text.

    Args:
      path: of the file, for messages.
      data: its text.
      separator: one character.
      names: of the columns.
      skip: number of lines before the first row.
      places: the numbers of the wanted columns, from 0.
      said: what the user's options say of quotes, see `ReadOptions.quote`.

    Raises:
      UserError: no reading fits.
    """
    width = len(names)
    lines = raw.widths(data, separator)
    troubles = []
    for backslash in (False, True) if b'\\"' in data else (False,):
        rows = _rows(data, separator, backslash, skip)
        try:
            return _columns(rows, lines, width, places, trusted=said == '"')
        except Unfit as trouble:
            troubles.append(trouble)
    worst = max(troubles, key=lambda trouble: trouble.row)
    if said is None and (lines[skip:] == width).all():
        return worst
    if worst.width == width + 1 and worst.row == 0:
        line = data.split(b"\n", skip + 1)[skip].decode()
        raise one_more(path, worst.row, names, line.endswith(separator))
    raise UserError(
        f"{path}: row {worst.row + 1}: {worst.what}; double the quotes inside a quoted text, or "
        "say --quote none if quotes are part of the text"
    )


def _rows(
    data: bytes, separator: str, backslash: bool, skip: int
) -> Iterator[tuple[int, list[str], int, int]]:
    """(number, fields, first line, line behind) of every row that is not blank; a header is -1."""
    lines: Iterator[str] = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="\n")
    if backslash:
        plainly = {'"': '""', "\\": "\\"}
        lines = (re.sub(r'\\(["\\])', lambda sign: plainly[sign[1]], line) for line in lines)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    number, start = -skip, 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            open_end = "unexpected end" in str(error) or "limit" in str(error)
            what = "a quote opens and never closes" if open_end else "text behind a closing quote"
            raise Unfit(max(number, 0), what) from error
        if len(row) > 1 or (row and row[0].strip()):
            yield number, row, start, reader.line_num
            number += 1
        start = reader.line_num


def _columns(
    rows: Iterator[tuple[int, list[str], int, int]],
    lines: np.ndarray,
    width: int,
    places: list[int],
    trusted: bool,
) -> Found:
    """The wanted columns of rows, each of which is checked.

    Raises:
      Unfit: a row of another width; a quote that swallows whole rows.
    """
    polars = raw.require_polars()
    chunks: list[Any] = []
    taken: list[list[str]] = []
    blank = len(lines)
    for number, row, start, end in rows:
        blank -= end - start
        if number < 0:
            continue
        if len(row) != width:
            what = f"{len(row)} field(s) and the header has {width} name(s)"
            raise Unfit(number, what, len(row))
        if end - start > 1 and not trusted and (lines[start:end] == width).all():
            raise Unfit(number, f"a quote opens here and closes {end - start - 1} row(s) below")
        taken.append([row[place] for place in places])
        if len(taken) == CHUNK:
            chunks.append(_frame(taken, places))
            taken = []
    frame = polars.concat([*chunks, _frame(taken, places)])
    return Found({place: frame[str(place)] for place in places}, blank)


def _frame(rows: list[list[str]], places: list[int]) -> Any:
    """Rows as a frame of text whose columns are called by their places."""
    polars = raw.require_polars()
    return polars.DataFrame(rows, {str(place): polars.String for place in places}, orient="row")
