"""Delimited text: its separator, header and quotes, read by polars or `csv`, counted by neither.

Every line of the file is measured (how many fields has it?) before an engine reads it, so that no
row can be lost without a word. Which reading of quotes is right is found by trying, see `quotes`.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.logs import quotes, raw, roles
from metajax.data.logs.source import Source, counted, guarded
from metajax.settings import ReadOptions
from metajax.types import UserError

SEPARATORS = {
    ".csv": (",", ";", "\t", "|"),
    ".tsv": ("\t",),
    **dict.fromkeys(raw.ATOMIC, ("\t",)),
}
ANY = ("\t", "::", ",", ";", "|", " ")
NEWLINE = b"\n"
NAMED = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space", "::": "'::'"}


def from_text(path: Path, data: bytes, options: ReadOptions) -> Source:
    """The columns of delimited text.

    Raises:
      UserError: the fields of a row do not fit the header; quotes that cannot be told apart.
    """
    may_quote = options.quote not in ("", "none") and raw.kind(path) not in raw.ATOMIC
    quoted = may_quote and b'"' in data
    data, blank = _without_blank_lines(data, leading_only=quoted)
    first = data[: data.index(b"\n")].decode() if data else ""
    if not first.strip():
        raise UserError(f"{path}: no rows; give a log with at least one row below the header")
    remarks = _remarks(data)
    data = data[len(remarks) :]
    first = data[: data.index(b"\n")].decode() if data else ""
    said_so = re.fullmatch(r"sep=(.)", first.strip())  # a line that spreadsheets write
    if said_so:
        data = data[data.index(b"\n") + 1 :]
        first = data[: data.index(b"\n")].decode() if data else ""
    separator = options.separator or (said_so[1] if said_so else _separator(path, first))
    separator = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ","}.get(separator, separator)
    shown = NAMED.get(separator, repr(separator))
    if len(separator.encode()) > 1:
        data, first, separator = _one_character(path, data, first, separator)
    cells = quotes.fields(first, separator, quoted)
    names, skip = _names(options, cells)
    said = [f"{shown}-separated" if len(cells) > 1 else "one column"]
    said += ["no header"] * (not skip)
    said += [f"{remarks.count(NEWLINE):,} lines of remarks left out"] * bool(remarks)
    said += [f"{blank:,} blank lines left out"] * (blank > 0)

    def read(places: list[int]) -> dict[int, Any]:
        why = None
        if quoted:
            found = quotes.read(path, data, separator, names, skip, places, options.quote)
            if isinstance(found, quotes.Found):
                said.extend([f"{found.blank:,} blank lines left out"] * (found.blank > 0))
                return _named(found.columns, names)
            why = found
        return _named(plain(path, data, separator, names, skip, places, why), names)

    header = cells if skip and options.columns is None else None
    return Source(path, names, read, said, first=header)


def _remarks(data: bytes) -> bytes:
    """The lines at the start that begin with % or #, but for a header."""
    end = 0
    for line in re.findall(rb"\A(?:[%#][^\n]*\n)+", data)[:1]:
        end = len(line)
    lines = data[:end].splitlines(keepends=True)
    if lines and lines[-1].startswith(b"#"):
        _, header = "", lines[-1].decode().strip("# \n")
        if _is_header([cell.strip() for cell in re.split(r"[,;|\t ]", header)]):
            end -= len(lines[-1])
    return data[:end]


def _named(columns: dict[int, Any], names: list[str]) -> dict[int, Any]:
    return {place: column.alias(names[place]) for place, column in columns.items()}


def _names(options: ReadOptions, cells: list[str]) -> tuple[list[str], int]:
    """The names of the columns, and how many lines they take."""
    if options.columns is not None:
        names = [name.strip() for name in options.columns.split(",")]
        return names, int(options.header and _is_header(cells))
    if not options.header:
        return [str(place + 1) for place in range(len(cells))], 0
    return [cells[0].removeprefix("#").strip(), *cells[1:]], 1


def _is_header(cells: list[str]) -> bool:
    """Whether a first line holds usual names of a user and of an item."""
    names = {roles.plain(cell) for cell in cells}
    return all(names & {roles.plain(name) for name in usual} for usual in (roles.USER, roles.ITEM))


def _separator(path: Path, first: str) -> str:
    """The most frequent separator of the first line, what stands in quotes left out."""
    bare = re.sub(r'"[^"]*"', "text", first)
    known = SEPARATORS.get(raw.kind(path), ANY)
    found = max((one for one in known if one != " "), key=bare.count)
    return " " if found not in bare and " " in known and " " in bare.strip() else found


def _one_character(path: Path, data: bytes, first: str, separator: str) -> tuple[bytes, str, str]:
    """The text with one character, which the engines need, in the long separator's place."""
    for short in ("\t", "\x1f"):
        if short.encode() not in data:
            return (
                data.replace(separator.encode(), short.encode()),
                first.replace(separator, short),
                short,
            )
    raise UserError(f"{path}: holds {separator!r} and tabs; separate the fields by tabs alone")


def _without_blank_lines(data: bytes, leading_only: bool) -> tuple[bytes, int]:
    """The text without lines that hold nothing, and how many those are.

    Blank lines inside a quoted text belong to it, so that only those at the start are taken out.
    """
    bare = re.sub(rb"\A(?:[ \t]*\n)+", b"", data)
    blank = data.count(b"\n") - bare.count(b"\n")
    if leading_only or not (b"\n\n" in bare or re.search(rb"\n[ \t]+\n", bare)):
        return bare, blank
    out, more = re.subn(rb"(?m)^[ \t]*\n", b"", bare)
    return out, blank + more


def plain(
    path: Path,
    data: bytes,
    separator: str,
    names: list[str],
    skip: int,
    places: list[int],
    unfit: quotes.Unfit | None,
) -> dict[int, Any]:
    """Columns of text in which quotes mean nothing: place -> polars.Series of text.

    Raises:
      UserError: a line with another number of fields than the header; a value between quotes,
        where the file as a whole does not use them so.
    """
    found = raw.widths(data, separator)[skip:]
    if not len(found):
        raise UserError(f"{path}: no rows; give a log with at least one row below the header")
    if (found != len(names)).any():
        raise wrong_width(path, found, names, data, separator, skip)
    polars = raw.require_polars()
    frame = guarded(
        path,
        lambda: polars.read_csv(
            io.BytesIO(data),
            has_header=False,
            skip_rows=skip,
            separator=separator,
            columns=sorted(places),
            quote_char=None,
            infer_schema=False,
        ),
    )
    counted(path, len(found), frame.height)
    columns = {place: frame[:, at] for at, place in enumerate(sorted(places))}
    for place, column in columns.items():
        if unfit is None:
            break
        wrapped = column.str.contains(r'^\s*".*"\s*$').fill_null(False)
        if wrapped.any():
            row = int(wrapped.arg_max() or 0)
            raise UserError(
                f"{path}: row {unfit.row + 1}: {unfit.what}, while quotes enclose the "
                f"{names[place]} in row {row + 1}; correct the quotes, or say --quote none if they "
                "are part of the text"
            )
    return columns


def wrong_width(
    path: Path, found: np.ndarray, names: list[str], data: bytes, separator: str, skip: int
) -> UserError:
    """The error of the first row with another number of fields than there are names."""
    row = int(np.argmax(found != len(names)))
    line = data.split(b"\n", row + skip + 1)[row + skip].decode()
    if (found == len(names) + 1).all():
        return quotes.one_more(path, row, names, line.endswith(separator))
    remedy = "correct or remove the row"
    if found[row] < len(names) and row == len(found) - 1:
        remedy = "the file may be cut short: get a complete copy, or remove the row"
    if found[row] > len(names):
        remedy += ", or put its text between double quotes"
    return UserError(
        f"{path}: row {row + 1} has {found[row]} field(s) and the header {len(names)} name(s); "
        f"{remedy}"
    )
