"""A person's own interaction log as `Interactions`: CSV, TSV, Parquet or RecBole atomic files.

    table = logs.load("my_ratings.csv")            # columns found by their usual names
    table = logs.load("events.parquet", user="visitor", item="sku", label="")

What is done with what is found:

* Ids are whole numbers or text, with surrounding space removed. A column of text that holds nothing
  but plain whole numbers becomes numbers; "007" keeps it text. Users and items are numbered in
  sorted order, rows keep the order of the file.
* No label column: every row is an event with the label 1.0 on the scale 0..1. Otherwise ratings, on
  the scale given or from the lowest to the highest that occurs.
* Times become Unix seconds. Numbers whose largest is below 1e11 are seconds, below 1e14
  milliseconds, below 1e17 microseconds, else nanoseconds (so each unit is told right for dates
  after March 1973). Text is ISO 8601, without an offset taken as UTC.
* Repeated (user, item) pairs are kept; with ``last_only`` only the last by time (by row without
  times) is.
* A `.csv` may also be separated by ``;``, tab or ``|``; text is UTF-8, with a header. A `.inter`
  file is read with the `.user` and `.item` files beside it, see `metajax.data.logs.atomic`.

``python -m metajax.data.logs.read FILE`` says what a file holds; ``--measure N`` measures N rows.
"""

import codecs
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.logs import atomic, columns
from metajax.data.table import Features, Interactions, validate
from metajax.types import UserError

# The usual names, most specific first; compared without case, "_", "-" and space.
USER = ("user_id", "user", "uid", "userid", "reviewer_id", "customer_id", "member_id", "visitor_id")
ITEM = (
    *("item_id", "item", "iid", "movie_id", "asin", "parent_asin", "product_id", "book_id", "isbn"),
    *("business_id", "track_id", "song_id", "article_id", "news_id", "game_id", "movie", "product"),
)
LABEL = ("rating", "label", "score", "stars", "overall", "user_rating", "click")
TIME = ("timestamp", "time", "unix_review_time", "datetime", "date", "ts", "created_at", "rated_at")

LONGEST_LINE = 1 << 20  # bytes
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t", ".inter": "\t"}
PARQUET = (".parquet", ".pq")


def load(
    path: Path | str,
    *,
    user: str | None = None,
    item: str | None = None,
    label: str | None = None,
    time: str | None = None,
    scale: tuple[float, float] | None = None,
    last_only: bool = False,
    min_users: int = 2,
    name: str | None = None,
) -> Interactions:
    """The log in ``path``, as a table.

    Args:
      path: a `.csv`, `.tsv`, `.parquet`, `.pq` or RecBole `.inter` file.
      user, item, label, time: the columns; None finds them by their usual names, "" for label or
        time means that there is none.
      scale: (lowest, highest) rating; None takes it from the data.
      last_only: keep only the last row of each (user, item) pair.
      min_users: refuse fewer users; 1 allows one person's own log.
      name: of the table; None takes the file's.

    Raises:
      UserError: one line for anything wrong with the file, with what to do.
    """
    path = Path(path)
    found = _read_columns(path, {"user": user, "item": item, "label": label, "time": time})
    codes_user, user_ids = columns.ids(found.pop("user"))
    codes_item, item_ids = columns.ids(found.pop("item"))
    if len(user_ids) < min_users:
        raise UserError(f"{path}: {len(user_ids)} user; give a log of at least {min_users} users")
    labels = columns.labels(found.pop("label")) if "label" in found else None
    times = columns.seconds(found.pop("time")) if "time" in found else None
    if labels is None:
        scale, labels = scale or (0.0, 1.0), np.ones(len(codes_user), np.float32)
    is_atomic = path.suffix == ".inter"
    about_user = atomic.features(path.with_suffix(".user"), user_ids) if is_atomic else None
    about_item = atomic.features(path.with_suffix(".item"), item_ids) if is_atomic else None
    table = Interactions(
        name=name or path.stem,
        user=codes_user,
        item=codes_item,
        label=labels,
        time=times,
        user_ids=user_ids,
        item_ids=item_ids,
        user_features=about_user.features if about_user else Features(),
        item_features=about_item.features if about_item else Features(),
        scale=scale or columns.scale_of(path, labels),
        item_year=about_item.year if about_item else None,
        item_titles=about_item.titles if about_item else None,
    )
    return columns.keep_last(validate(table)) if last_only else validate(table)


def _read_columns(path: Path, given: dict[str, str | None]) -> dict[str, columns.Column]:
    """The columns of a checked file by their role; only these are read."""
    polars = require_polars()
    check_file(path)
    try:
        wanted = _find_columns(path, _header(polars, path), given)
        frame = _read(polars, path, list(dict.fromkeys(wanted.values())))
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {_one_line(error)}") from error
    if frame.height == 0:
        raise UserError(f"{path}: no rows; give a log with at least one row below the header")
    return {role: columns.Column(path, role, frame[at]) for role, at in wanted.items()}


def check_file(path: Path) -> None:
    """Refuses a file before it is read: absent, unknown kind, empty, not UTF-8, a giant line.

    Works in blocks, so that no line, however long, is ever held in memory.

    Raises:
      UserError: one line, with what to do.
    """
    kinds = [*SEPARATORS, *PARQUET]
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a log ({', '.join(kinds)})")
    if path.suffix not in kinds:
        raise UserError(f"{path}: unknown kind {path.suffix!r}; give one of {', '.join(kinds)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give a log with a header and rows")
    if path.suffix in PARQUET:
        _check_parquet(path)
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        block = b"start"
        while block:
            block = file.read(LONGEST_LINE)
            if len(block) == LONGEST_LINE and b"\n" not in block:
                raise UserError(
                    f"{path}: a line is longer than {LONGEST_LINE} bytes; is this a text file "
                    "with one row per line?"
                )
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: the text is not UTF-8 ({error.reason} near byte "
                    f"{file.tell() - len(block) + error.start}); save the file as UTF-8"
                ) from error


def _check_parquet(path: Path) -> None:
    """Refuses a file without the marks at both ends of a Parquet file."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(4, path.stat().st_size), 2)
        tail = file.read(4)
    if head != b"PAR1" or tail != b"PAR1":
        raise UserError(f"{path}: not a complete Parquet file; it may be cut short: write it again")


def require_polars() -> Any:
    """The module polars, of the extra ``data``.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("polars")
    except ImportError as error:
        raise UserError(
            "reading your own log needs polars; install it with: pip install 'metajax[data]'"
        ) from error


def _one_line(error: BaseException) -> str:
    """The message of an error, short and on one line."""
    return " ".join(str(error).split())[:200]


def separator(path: Path, first_line: str) -> str:
    """The separator of a text file: of those its kind may have, the most frequent in line 1."""
    return max(SEPARATORS.get(path.suffix, "\t"), key=first_line.count)


def _first_line(path: Path) -> str:
    """The first line of a text file, as far as a sound one goes."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return file.readline(LONGEST_LINE)


def _header(polars: Any, path: Path) -> list[str]:
    """The names of the columns."""
    if path.suffix in PARQUET:
        return polars.scan_parquet(path, glob=False).collect_schema().names()
    return list(_read_text(polars, path, None, 0).columns)


def _read_text(polars: Any, path: Path, names: list[str] | None, rows: int | None) -> Any:
    """Columns of a text file as they are written; all of them without names."""
    return polars.read_csv(
        path,
        separator=separator(path, _first_line(path)),
        columns=names,
        n_rows=rows,
        glob=False,
        infer_schema=False,
        quote_char=None if path.suffix in (".inter", ".user", ".item") else '"',
    )


def _read(polars: Any, path: Path, names: list[str]) -> Any:
    """The named columns of a log."""
    if path.suffix in PARQUET:
        return polars.read_parquet(path, columns=names, glob=False)
    return _read_text(polars, path, names, None)


def _plain(column: str) -> str:
    """A column's name for comparison; RecBole's ``:type`` is dropped."""
    return re.sub(r"[\s_-]", "", column.split(":")[0]).lower()


def _find_columns(path: Path, header: list[str], given: dict[str, str | None]) -> dict[str, str]:
    """The role -> column of a header; label and time only if there."""
    by_name = {_plain(column): column for column in reversed(header)}
    usual = {"user": USER, "item": ITEM, "label": LABEL, "time": TIME}
    found: dict[str, str] = {}
    for role, name in given.items():
        if name:
            column = name if name in header else by_name.get(_plain(name))
        else:
            matches = (by_name.get(_plain(u)) for u in usual[role] if name is None)
            column = next((match for match in matches if match), None)
        if column:
            found[role] = column
        elif name or role in ("user", "item"):
            shown = " ".join(", ".join(header[:20]).split())[:200]
            wanted = f"no column {name!r}" if name else f"no column of the {role} found"
            raise UserError(f"{path}: {wanted}; the first line names: {shown}; say {role}=NAME")
    return found
