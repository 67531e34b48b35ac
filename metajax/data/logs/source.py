"""Logs in Parquet, JSON lines, Netflix's and MIND's layouts, as columns that have names."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from metajax.data.logs import raw
from metajax.types import UserError

NETFLIX = re.compile(rb"\A\d+:\n\d+,")
MIND = re.compile(rb"\A\d+\t[^\t\n]+\t[^\t\n]+\t[^\t\n]*\t\S+-[01]( \S+-[01])* *\n")
MIND_NEWS = re.compile(rb"\AN\d+\t[^\t\n]+\t[^\t\n]+\t[^\t\n]+\t[^\t\n]*\thttps?://")


class Source(NamedTuple):
    """A log whose columns can be read by name, before their roles (user, item, ...) are known.

    Attributes:
      path: of the file.
      names: of its columns.
      read: (places of columns) -> (place -> polars.Series); counts the rows itself.
      said: what was understood so far, for the line about the file.
      roles: columns that the layout fixes, by role.
      first: the fields of the first line where that was taken for the header, else None.
      time_format: how the layout writes times.
    """

    path: Path
    names: list[str]
    read: Callable[[list[int]], dict[int, Any]]
    said: list[str]
    roles: Mapping[str, str] = MappingProxyType({})
    first: list[str] | None = None
    time_format: str | None = None


def one_line(error: BaseException) -> str:
    """What an engine says, on one line and without its advice, which is about its own options."""
    first = re.split(r"\n\s*\n|\. (?:Try|Consider|You might)|Resolved plan", str(error))[0]
    return " ".join(first.split())[:150]


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """What a reading gives; an error of polars becomes one line.

    Raises:
      UserError: polars cannot read the file.
    """
    polars = raw.require_polars()
    known = (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError)
    try:
        return read()
    except known as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what the engine's threads say of a damaged file off the terminal."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def from_parquet(path: Path) -> Source:
    """The columns of a Parquet file, whose own count of rows is that of its footer."""
    polars = raw.require_polars()
    raw.check_parquet(path)
    scan = polars.scan_parquet(path, glob=False)
    names = guarded(path, lambda: scan.collect_schema().names())

    def read(places: list[int]) -> dict[int, Any]:
        wanted = [names[place] for place in places]
        with _quietly():
            frame = guarded(path, lambda: scan.select(wanted).collect())
        height = guarded(path, lambda: scan.select(polars.len()).collect().item())
        counted(path, height, frame.height)
        return {place: frame[names[place]] for place in places}

    return Source(path, names, read, ["Parquet"])


def counted(path: Path, num_rows: int, num_read: int) -> None:
    """Checks that polars has read as many rows as were counted without it.

    Raises:
      UserError: they differ.
    """
    if num_rows != num_read:
        raise UserError(
            f"{path}: {num_rows:,} rows were counted and {num_read:,} read; write the file again, "
            "such as by another program, or give it as Parquet"
        )


def from_json(path: Path, data: bytes) -> Source:
    """The columns of JSON lines, or of one list of JSON objects."""
    polars = raw.require_polars()
    if data.lstrip().startswith(b"["):
        frame = _json_list(polars, path, data)
        return Source(path, frame.columns, lambda at: {i: frame[:, i] for i in at}, ["JSON"])
    lines = sum(1 for line in io.BytesIO(data) if line.strip())
    try:
        scan = polars.scan_ndjson(io.BytesIO(data), infer_schema_length=None)
        names = scan.collect_schema().names()
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        raise _bad_json(path, data, error) from error

    def read(places: list[int]) -> dict[int, Any]:
        wanted = [names[place] for place in places]
        try:
            frame = scan.select(wanted).collect()
        except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
            raise _bad_json(path, data, error) from error
        counted(path, lines, frame.height)
        return {place: frame[names[place]] for place in places}

    return Source(path, names, read, ["JSON lines"])


def _json_list(polars: Any, path: Path, data: bytes) -> Any:
    """One list of JSON objects as a frame."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {one_line(error)}; correct the file") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: the JSON list holds no rows; give a list of objects, one a row")
    return guarded(path, lambda: polars.DataFrame(rows, infer_schema_length=None))


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON")


def _bad_json(path: Path, data: bytes, error: Exception) -> UserError:
    """The error for the first bad line: a slow second look, only after a failure."""
    kinds: dict[str, tuple[int, str]] = {}
    for row, line in enumerate((line for line in io.BytesIO(data) if line.strip()), start=1):
        try:
            value = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as bad:
            return UserError(
                f"{path}: row {row} is not JSON ({one_line(bad)}); every row is an object on a "
                'line of its own, such as {"user": "a", "item": "b", "rating": 4}'
            )
        if not isinstance(value, dict):
            return UserError(f"{path}: row {row} is not a JSON object; correct or remove the row")
        for name, one in value.items():
            kind = type(one).__name__.replace("float", "int")
            if one is not None and kinds.setdefault(name, (row, kind))[1] != kind:
                first, other = kinds[name]
                return UserError(
                    f"{path}: row {row}: {name} is of type {kind}, and of type {other} in row "
                    f"{first}; write it one way"
                )
    return UserError(f"{path}: cannot be read as JSON lines: {one_line(error)}")


def from_netflix(path: Path, data: bytes) -> Source:
    """The blocks of the Netflix prize: a line ``movieid:``, then lines ``user,rating,date``."""
    polars = raw.require_polars()
    line = polars.col("line")

    def read(places: list[int]) -> dict[int, Any]:
        frame = _lines(polars, path, data)
        head = line.str.ends_with(":")
        parts = line.str.split(",")
        frame = frame.with_columns(
            item=polars.when(head).then(line.str.strip_suffix(":")).forward_fill(),
            number=parts.list.len(),
            row=(~head).cum_sum(),
        ).filter(~head)
        bad = frame.filter(polars.col("number") != 3)
        if bad.height:
            raise UserError(
                f"{path}: row {bad['row'][0]}: {bad['line'][0][:60]!r} is neither 'movie:' nor "
                "'user,rating,date'; correct or remove the row"
            )
        fields = [frame["line"].str.split(",").list.get(at) for at in range(3)]
        counted(path, data.count(b"\n") - data.count(b":\n"), frame.height)
        columns = [frame["item"], *fields]
        return {at: columns[at].alias(names[at]) for at in places}

    names = ["movie", "user", "rating", "date"]
    roles = {"item": "movie", "user": "user", "label": "rating", "time": "date"}
    return Source(path, names, read, ["Netflix layout"], roles)


def from_mind(path: Path, data: bytes) -> Source:
    """MIND's impressions: a line for each list shown, a row for each item in it, clicked or not."""
    polars = raw.require_polars()

    def read(places: list[int]) -> dict[int, Any]:
        parts = _lines(polars, path, data)["line"].str.split("\t")
        wrong = parts.list.len() != 5
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UserError(
                f"{path}: row {row + 1} has {parts[row].len()} fields instead of the 5 of an "
                "impression; correct or remove the row"
            )
        frame = polars.DataFrame({names[at]: parts.list.get(at) for at in range(5)})
        frame = frame.with_row_index("row").with_columns(
            shown=polars.col("impressions").str.strip_chars().str.split(" ")
        )
        number = int(frame["impressions"].str.strip_chars().str.count_matches(" ").sum())
        frame = frame.explode("shown", empty_as_null=True, keep_nulls=True)
        counted(path, number + parts.len(), frame.height)
        click = frame["shown"].str.slice(-1)
        bad = ~frame["shown"].str.contains(r"^\S+-[01]$")
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise UserError(
                f"{path}: row {frame['row'][row] + 1}: {frame['shown'][row][:40]!r} is no "
                "impression such as N1-0 or N1-1; correct or remove the row"
            )
        shown = frame["shown"].str.head(-2)
        columns = [frame[name] for name in names[:4]] + [shown, click]
        return {at: columns[at].alias(columns_of[at]) for at in places}

    names = ["impression", "user", "time", "history", "impressions"]
    columns_of = [*names[:4], "news", "click"]
    roles = {"user": "user", "item": "news", "label": "click", "time": "time"}
    said = [f"MIND layout, {data.count(chr(10).encode()):,} impression lists"]
    return Source(path, columns_of, read, said, roles, time_format="%m/%d/%Y %I:%M:%S %p")


def _lines(polars: Any, path: Path, data: bytes) -> Any:
    """The lines that are not blank, as the column ``line``."""
    frame = guarded(
        path,
        lambda: polars.read_csv(
            data,
            has_header=False,
            separator="\x01",
            quote_char=None,
            infer_schema=False,
            new_columns=["line"],
        ),
    )
    return frame.filter(polars.col("line").str.strip_chars() != "")
