"""Side information of users and items: a table beside the log, a row each, joined by id.

The tables are RecBole's atomic files, ``log.user`` and ``log.item`` beside ``log.inter`` (of
``log.train.inter`` too), or any file that `ReadOptions.items` and `ReadOptions.users` name. An
atomic file says in its header what a column is (``age:float``); of any other a title is known by
its name, a column of numbers is a number, one with ``|`` between its values holds several
categories, other text is a category unless it is different in nearly every row.

References: RecBole, https://recbole.io/docs/user_guide/data/atomic_files.html
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.logs import columns, opened, raw, roles
from metajax.data.sources.files import categories, split_year
from metajax.data.table import Features
from metajax.settings import ReadOptions
from metajax.types import UserError

TYPES = ("token", "token_seq", "float", "float_seq")
TITLES = (
    *("title", "movietitle", "itemtitle", "name", "itemname", "booktitle", "producttitle"),
    *("productname", "trackname", "songtitle", "articletitle", "artistname"),
)
YEARS = ("releaseyear", "year")
FEW = 1000  # categories of a column of text in a table without types, unless values recur


class Side(NamedTuple):
    """Side information of one side.

    Attributes:
      features: the columns, by index of the user or item.
      titles: (n,) text, or None.
      year: (n,) int16 release year, 0 where unknown, or None.
      said: what was understood, for the line about the log.
      odd: what is odd about it.
    """

    features: Features
    titles: np.ndarray | None
    year: np.ndarray | None
    said: str
    odd: list[str]


def beside(log: Path, role: str) -> Path | None:
    """The atomic file of one side beside an ``.inter`` file; that of d for d.train.inter too."""
    stem = log.with_suffix("")
    for one in (stem, stem.with_suffix("")):
        found = one.parent / f"{one.name}.{role}"
        if found.is_file():
            return found
    return None


def read(path: Path, role: str, ids: np.ndarray, id_name: str, options: ReadOptions) -> Side:
    """The side information of ``ids`` in a table.

    An id that the table lacks has every category absent, every number 0 and no title; rows with
    other ids are left out.

    Args:
      path: of the table.
      role: "user" or "item".
      ids: (n,) the ids of the log, by index.
      id_name: the name of the log's own column of these ids.
      options: of the log; its encoding holds for the table too.

    Raises:
      UserError: no column of ids; an id twice with other values; no id of the log in the table.
    """
    raw.check(path, (*raw.KINDS, ".user", ".item"))
    source = opened.source(path, ReadOptions(encoding=options.encoding))
    names = source.names
    at = _id_place(path, role, names, id_name)
    shown = names[at].split(":")[0]
    frame = source.read(list(range(len(names))))
    found, known = columns.ids(columns.Column(path, role, frame[at]), keep_texts=True)
    place = _rows_of(path, role, frame, found.values, known)
    row_of = {str(one): int(row) for one, row in zip(known.tolist(), place, strict=True)}
    rows = np.array([row_of.get(str(one), -1) for one in ids.tolist()])
    matched = int((rows >= 0).sum())
    if not matched:
        raise UserError(
            f"{path}: none of the {len(ids):,} {role}s of the log is in it: the log writes "
            f"{str(ids[0])!r}, column {shown} here {str(known[0])!r}; write the ids one way"
        )
    texts = {one: frame[one] for one in range(len(names)) if one != at}
    found = [_understood(path, names[one], column, rows) for one, column in texts.items()]
    features = Features()
    for one in found:
        if one.values is not None:
            features = features.with_column(one.name, one.values, one.size)
    share = matched / len(ids)
    said = f"{role}s {path.name}: {matched:,} of {len(ids):,} matched ({share:.1%}) by {shown}"
    taken = ", ".join(one.said for one in found if one.said)
    ignored = ", ".join(one.name or "a column without a name" for one in found if not one.said)
    said += f", as {taken}" * bool(taken) + f", without {ignored}" * bool(ignored)
    return Side(
        features,
        next((one.titles for one in found if one.titles is not None), None),
        next((one.year for one in found if one.year is not None), None),
        said,
        [f"only {share:.1%} of the {role}s are in {path.name}"] if share < 0.5 else [],
    )


def _id_place(path: Path, role: str, names: list[str], id_name: str) -> int:
    """The place of the column of ids: called as in the log, or by a usual name."""
    by_name = {roles.plain(name): place for place, name in reversed(list(enumerate(names)))}
    usual = [name for name in roles.USUAL[role] if roles.plain(name) not in TITLES]
    for name in (id_name, *usual, "id"):
        if roles.plain(name) in by_name:
            return by_name[roles.plain(name)]
    raise UserError(
        f"{path}: no column of the {role} ids; the first line names {roles.shown(names)}; call the "
        f"column {id_name}"
    )


def _rows_of(
    path: Path, role: str, frame: dict[int, Any], codes: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """The first row of each id: (n,).

    Raises:
      UserError: an id has two rows that differ.
    """
    _, first = np.unique(codes, return_index=True)
    for row in np.flatnonzero(first[codes] != np.arange(len(codes))).tolist():
        before = int(first[codes[row]])
        for column in frame.values():
            pair = [None if one is None else str(one) for one in (column[before], column[row])]
            if pair[0] != pair[1]:
                raise UserError(
                    f"{path}: the {role} {str(known[codes[row]])!r} stands in row {before + 1} and "
                    f"in row {row + 1} with another {column.name.split(':')[0]}; keep one of them"
                )
    return first


class Understood(NamedTuple):
    """A column of a side table, by index of the log's ids; only what it is has a value.

    Attributes:
      name: without type.
      said: what it was taken for; "" if it was ignored.
      values: (n, width) categories or numbers.
      size: the number of categories, 0 for "absent" included.
      titles: (n,) text.
      year: (n,) int16.
    """

    name: str
    said: str = ""
    values: np.ndarray | None = None
    size: int | None = None
    titles: np.ndarray | None = None
    year: np.ndarray | None = None


def _understood(path: Path, header: str, column: Any, rows: np.ndarray) -> Understood:
    """What a column of a side table is.

    Args:
      path: of the table, for messages.
      header: the column's name, in an atomic file with its type.
      column: its values, a polars.Series.
      rows: (n,) the row of each id of the log, -1 where there is none.
    """
    name, kind = header, ""
    atomic = raw.kind(path) in raw.ATOMIC
    if atomic:
        name, _, kind = header.rpartition(":")
        if kind not in TYPES or not name:
            raise UserError(
                f"{path}: the column {name or kind!r} has no type; name columns as name:type with "
                f"a type of {', '.join(TYPES)}"
            )
    values = columns.trimmed(column).to_list()
    if roles.plain(name) in TITLES:
        return _titles(name, ["" if one is None else str(one) for one in values], rows, not atomic)
    values = [None if str(value).lower() in columns.NULLS else value for value in values]
    year = None
    if roles.plain(name) in YEARS:
        known = [re.fullmatch(r"([12]\d{3})(\.0)?", str(value)) for value in values]
        year = _taken(np.array([int(one[1]) if one else 0 for one in known], np.int16), rows)
    kind = kind or _kind(column, values)
    if not kind:
        return Understood(name, "year" if year is not None else "", year=year)
    if kind.startswith("float"):
        return Understood(name, f"{name} number", _numbers(path, name, values, rows), year=year)
    sign = {"token_seq": " ", "bars": "|"}.get(kind)
    listed = [_listed(values[row] if row >= 0 else None, sign) for row in rows]
    listed = [[one for one in row if one and one != "(no genres listed)"] for row in listed]
    found = categories({name: listed})
    size = found.sizes[name]
    return Understood(name, f"{name} of {size - 1:,} values", found.columns[name], size, year=year)


def _taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of the table's rows, by index of the log's ids; 0 or "" where there is no row."""
    out = values[np.maximum(rows, 0)]
    out[rows < 0] = np.zeros((), values.dtype)
    return out


def _titles(name: str, texts: list[str], rows: np.ndarray, split: bool) -> Understood:
    """A column of titles; the years in brackets behind most of them are split off."""
    parts = [split_year(text) for text in texts]
    years = np.array([year for _, year in parts], np.int16)
    if not split or (years > 0).mean() <= 0.5:
        return Understood(name, f"{name} title", titles=_taken(np.array(texts), rows))
    titles = _taken(np.array([title for title, _ in parts]), rows)
    return Understood(name, f"{name} title and year", titles=titles, year=_taken(years, rows))


def _numbers(path: Path, name: str, values: list[Any], rows: np.ndarray) -> np.ndarray:
    """Numbers, several of them separated by spaces and padded with 0: (n, width) float32."""
    texts = ["" if value is None else str(value) for value in values]
    parts = [text.split() for text in texts]
    width = max((len(row) for row in parts), default=0)
    out = np.zeros((len(parts), max(width, 1)), np.float32)
    for place, row in enumerate(parts):
        try:
            out[place, : len(row)] = [float(one) for one in row]
        except ValueError as error:
            raise UserError(
                f"{path}: row {place + 1}: the {name} {texts[place][:40]!r} is not a number; "
                "correct it"
            ) from error
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out).all(axis=1)))
        raise UserError(
            f"{path}: row {row + 1}: the {name} holds a value that is not finite; correct it"
        )
    return _taken(out, rows)


def _listed(value: Any, sign: str | None) -> list[str]:
    """The categories of one value."""
    if value is None:
        return []
    if isinstance(value, list):
        return [str(one).strip() for one in value if one is not None]
    return [part.strip() for part in str(value).split(sign)] if sign else [str(value)]


def _kind(column: Any, values: list[Any]) -> str:
    """What a column without a type is: float, category, categories, or "" for neither."""
    polars = raw.require_polars()
    there = [value for value in values if value is not None]
    if not there:
        return ""
    if column.dtype.is_numeric():
        return "float"
    if isinstance(column.dtype, polars.List):
        return "list" if column.dtype.inner == polars.String else ""
    if column.dtype not in (polars.String, polars.Boolean, polars.Categorical, polars.Enum):
        return ""
    texts = [str(value) for value in there]
    if all(re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", text) for text in texts):
        return "float"
    if any("|" in text for text in texts):
        return "bars"
    different = len(set(texts))
    return "token" if different <= min(FEW, max(20, len(texts) // 2)) else ""
