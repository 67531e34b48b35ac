"""Readers of the files of published data sets, with checks and one-line errors.

Every function raises `UserError` with the file, the line where there is one, what is wrong and
what to do.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metajax.data.table import Features, Interactions, categorical, index_encode, validate
from metajax.types import UserError

STARS = (1.0, 5.0)
IMPLICIT = (0.0, 1.0)  # every label is 1.0

Encoded = tuple[np.ndarray, np.ndarray]  # codes per row, ids per code


def dataset_folder(folder: Path | str, name: str) -> Path:
    """The folder that holds the files of ``name``: ``folder/name`` if it is there, else ``folder``.

    Raises:
      UserError: ``folder`` is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{name}: no folder {folder}; name the folder that holds {name}/ with --data-dir or "
            "the environment variable METAJAX_DATA"
        )
    return folder / name if (folder / name).is_dir() else folder


def required(folder: Path, file: str, name: str) -> Path:
    """The path of a required file.

    Raises:
      UserError: it is missing; the message says which file to put where.
    """
    path = folder / file
    if not path.is_file():
        home = folder if folder.name == name else folder / name
        raise UserError(
            f"{name}: {file} is missing; put it at {home / file}, or name another folder with "
            "--data-dir or METAJAX_DATA"
        )
    return path


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
      UserError: unreadable, or bytes that are not ``encoding``.
    """
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not {encoding}; save the file as {encoding}"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def rows(
    path: Path, separator: str, width: int, encoding: str = "utf-8", header: bool = False
) -> list[list[str]]:
    """The non-empty lines of a text file, each split into ``width`` fields.

    Raises:
      UserError: a line with another number of fields.
    """
    out = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path, encoding)), start=1):
        if not line or (header and number == 1):
            continue
        fields = line.split(separator)
        if len(fields) != width:
            raise UserError(_wrong_width(path, number, len(fields), width))
        out.append(fields)
    if not out:
        raise UserError(f"{path}: the file is empty; get a complete copy")
    return out


def numbers(
    path: Path, separator: str, names: Sequence[str], header: bool = False, ends: bool = False
) -> np.ndarray:
    """The table of a text file of numbers alone: (lines, len(names)) float64.

    Args:
      path: the file.
      separator: between fields, one or more characters.
      names: what the fields are, for the messages.
      header: skip the first line.
      ends: the last field has the same number of digits in neighbouring lines (timestamps), so a
        last line without its end that is shorter than the one before is a sign of a cut file.

    Raises:
      UserError: no lines; a line with too few or too many fields (as in a file cut short); a
        field that is not a finite number.
    """
    text = read_text(path, "latin-1")
    if header:
        text = text.partition("\n")[2]
    if not text.strip():
        raise UserError(f"{path}: the file is empty; get a complete copy")
    if separator != "\t" and "\t" not in text:
        text, separator = text.replace(separator, "\t"), "\t"
    first = 2 if header else 1
    try:
        table = np.loadtxt(io.StringIO(text), delimiter=separator, ndmin=2, comments=None)
    except ValueError as error:
        raise _explain(path, text, separator, names, first) from error
    if table.shape[1] != len(names) or not np.isfinite(table).all():
        raise _explain(path, text, separator, names, first)
    if ends and not text.endswith("\n"):
        _check_end(path, text)
    return table


def _check_end(path: Path, text: str) -> None:
    """Refuses a text whose last line is shorter than the one before, with no end of its own."""
    last = [re.split(r"\D", line)[-1] for line in text[-400:].splitlines()[-2:]]
    if len(last) == 2 and len(last[1]) < len(last[0]):
        raise UserError(f"{path}: the last line is cut short; get a complete copy of the file")


def _wrong_width(path: Path, number: int, found: int, width: int) -> str:
    """The message for a line of another number of fields."""
    return (
        f"{path}: line {number} has {found} field(s) instead of {width}; the file may be cut "
        "short: get a complete copy"
    )


def _explain(path: Path, text: str, separator: str, names: Sequence[str], first: int) -> UserError:
    """The error for the first bad line: a slow second look, only after a failure."""
    for number, line in enumerate(text.splitlines(), start=first):
        fields = line.split(separator)
        if line and len(fields) != len(names):
            return UserError(_wrong_width(path, number, len(fields), len(names)))
        for name, field in zip(names, fields, strict=False):
            try:
                sound = np.isfinite(float(field))
            except ValueError:
                sound = False
            if line and not sound:
                return UserError(
                    f"{path}: line {number}: the {name} {field[:40]!r} is not a number; correct "
                    "the line or get a complete copy"
                )
    return UserError(f"{path}: not a table of {', '.join(names)}; get a complete copy")


def arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Every array of an ``.npz`` file by name; ``names`` have to be among them.

    Raises:
      UserError: not an npz file or cut short; an array of ``names`` is missing.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            out = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: not a complete npz file; it may be cut short: get a complete copy"
        ) from error
    missing = [name for name in names if name not in out]
    if missing:
        raise UserError(f"{path}: no array {missing[0]}; get a complete copy")
    return out


def integers(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    """The values as int64.

    Raises:
      UserError: one of them is not a whole number.
    """
    whole = values.astype(np.int64)
    if (whole != values).any():
        row = int(np.argmax(whole != values))
        raise UserError(f"{path}: row {row + 1}: the {name} {values[row]:g} is not a whole number")
    return whole


def categories(columns: dict[str, list[list[str]]]) -> Features:
    """Features of categorical columns given as lists of names per entity; [] is absent."""
    features = Features()
    for name, values in columns.items():
        codes, size = categorical(values)
        features = features.with_column(name, codes, size)
    return features


def split_year(title: str) -> tuple[str, int]:
    """A title without its "(year)", and the year, 0 where there is none.

    >>> split_year("Toy Story (1995)")
    ('Toy Story', 1995)
    """
    match = re.search(r"\((\d{4})[^()]*\)\s*$", title)
    return (title[: match.start()].strip(), int(match[1])) if match else (title.strip(), 0)


def year_columns(years: Sequence[int]) -> dict[str, list[list[str]]]:
    """The categories ``year`` and ``decade`` of release years, absent where the year is 0."""
    return {
        "year": [[str(y)] if y else [] for y in years],
        "decade": [[f"{y // 10 * 10}s"] if y else [] for y in years],
    }


def assemble(
    name: str,
    user: np.ndarray | Encoded,
    item: np.ndarray | Encoded,
    label: np.ndarray,
    time: np.ndarray | None,
    scale: tuple[float, float],
    item_features: Features | None = None,
    state: np.ndarray | None = None,
    item_year: np.ndarray | None = None,
    item_titles: np.ndarray | None = None,
) -> Interactions:
    """A valid table of published columns; ids not yet encoded are numbered in order.

    Raises:
      UserError: the columns do not make a sound table, see `validate`.
    """
    user, user_ids = user if isinstance(user, tuple) else index_encode(user)
    item, item_ids = item if isinstance(item, tuple) else index_encode(item)
    table = Interactions(
        name=name,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        label=np.asarray(label, np.float32),
        time=time,
        user_ids=user_ids,
        item_ids=item_ids,
        user_features=Features(),
        item_features=item_features or Features(),
        scale=scale,
        state=state,
        item_year=item_year,
        item_titles=item_titles,
    )
    return validate(table)
