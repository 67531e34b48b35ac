"""Side information of RecBole atomic files: the `.user` and `.item` files beside an `.inter` file.

The first line names the columns as ``name:type``, separated by tabs. ``token`` is a category,
``token_seq`` several separated by spaces, ``float`` a number, ``float_seq`` several. A title
(``movie_title``, ``title``, ``name``...) is kept as text, a release year also as a year.

References: RecBole, https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.data.sources.files import categories, rows
from metajax.data.table import Features
from metajax.types import UserError

TYPES = ("token", "token_seq", "float", "float_seq")
TITLES = ("title", "movie_title", "item_title", "name", "item_name")
YEARS = ("release_year", "year")


class Side(NamedTuple):
    """Side information of one side: its features, and of items titles and years if there."""

    features: Features
    titles: np.ndarray | None
    year: np.ndarray | None


def features(path: Path, ids: np.ndarray) -> Side | None:
    """The side information of ``ids`` in a `.user` or `.item` file; None where there is no file.

    An id that the file does not name has every category absent, every number 0 and no title; a
    row of the file with an id that is not asked for is left out. The first column is the id.

    Raises:
      UserError: a header that is not ``name:type``; a line of another length; a bad number.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig") as file:
        header = [tuple(name.strip().rpartition(":")[::2]) for name in file.readline().split("\t")]
    for name, kind in header:
        if kind not in TYPES or not name:
            raise UserError(
                f"{path}: the column {name or kind!r} has no type; name columns as name:type with "
                f"a type of {', '.join(TYPES)}"
            )
    lines = {line[0].strip(): line for line in rows(path, "\t", len(header), header=True)}
    absent = [""] * len(header)
    known = [lines.get(str(one), absent) for one in ids.tolist()]
    side, titles, year = Features(), None, None
    for place, (name, kind) in list(enumerate(header))[1:]:
        texts = [line[place].strip() for line in known]
        if name in TITLES:
            titles = np.array(texts)
            continue
        if name in YEARS:
            year = np.array([int(text) if text.isdecimal() else 0 for text in texts], np.int16)
        if kind.startswith("float"):
            side = side.with_column(name, _numbers(path, name, texts))
            continue
        names = [text.split(" ") if kind == "token_seq" else [text] for text in texts]
        names = [[one for one in row if one] for row in names]
        one = categories({name: names})
        side = side.with_column(name, one.columns[name], one.sizes[name])
    return Side(side, titles, year)


def _numbers(path: Path, name: str, texts: list[str]) -> np.ndarray:
    """Numbers separated by spaces, padded with 0: (n, width) float32."""
    values = [text.split() for text in texts]
    width = max((len(row) for row in values), default=0)
    out = np.zeros((len(values), max(width, 1)), np.float32)
    for place, row in enumerate(values):
        try:
            out[place, : len(row)] = [float(one) for one in row]
        except ValueError as error:
            raise UserError(f"{path}: the {name} {texts[place][:40]!r} is not a number") from error
    if not np.isfinite(out).all():
        raise UserError(f"{path}: the {name} holds a value that is not finite; correct it")
    return out
