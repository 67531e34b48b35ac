"""Data sets by name or path: ``load("ml-1m", data_dir)`` reads one into `Interactions`."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from metajax.data.logs import raw, read
from metajax.data.sources import crossdomain, movielens, published
from metajax.data.table import Interactions
from metajax.data.worlds import latent
from metajax.settings import Data, ReadOptions, option
from metajax.types import UserError

READERS: dict[str, Callable[[Path | str], Interactions]] = {
    "ml-100k": movielens.ml_100k,
    "ml-1m": movielens.ml_1m,
    "movietweetings-100k": published.movietweetings_100k,
    "ciaodvd": published.ciaodvd,
    "amazon-musical-instruments": published.amazon_musical_instruments,
    "amazon-grocery": published.amazon_grocery,
    "douban-book": crossdomain.douban_book,
    "douban-music": crossdomain.douban_music,
    "amazon-cloth": crossdomain.amazon_cloth,
    "amazon-sport": crossdomain.amazon_sport,
    "jester5k": published.jester5k,
    "msweb": published.msweb,
}

DEFAULT_FOLDERS = (Path("data"), Path("../shared/data"))


def data_folder(data_dir: Path | str | None = None) -> Path:
    """The folder of data sets: ``data_dir``, else METAJAX_DATA, else ``./data``.

    Beside a checkout, ``../shared/data`` serves where there is no ``./data``.

    Raises:
      UserError: the folder is missing.
    """
    default = next((folder for folder in DEFAULT_FOLDERS if folder.is_dir()), DEFAULT_FOLDERS[0])
    folder = Path(data_dir or os.environ.get("METAJAX_DATA") or default)
    if not folder.is_dir():
        raise UserError(
            f"no data folder {folder}; name the folder of your data sets with --data-dir or the "
            "environment variable METAJAX_DATA"
        )
    return folder


def load_named(name: str, data_dir: Path | str | None = None) -> Interactions:
    """The data set called ``name``, read from its folder below `data_folder`.

    Raises:
      UserError: an unknown name; a missing or damaged file.
    """
    if name not in READERS:
        raise UserError(f"no data set {name!r}; the known ones are {', '.join(sorted(READERS))}")
    return READERS[name](data_folder(data_dir))


def load(
    dataset: str,
    data_dir: Path | str | None = None,
    options: ReadOptions | None = None,
    min_rows: int = 0,
) -> Interactions:
    """The data set of that name, the synthetic one, or a person's own log by its path.

    How a log of one's own was interpreted is printed in one line on standard error.

    Args:
      dataset: a name, or the path of a file.
      data_dir: the folder of named data sets, see `data_folder`.
      options: how an own log is read.
      min_rows: of an own log, leave out users with fewer rows.

    Raises:
      UserError: neither a known name nor a file; a missing or damaged file; options for a data set
        whose columns are known.
    """
    if dataset == "synthetic" or dataset in READERS:
        _refuse_options(dataset, options or ReadOptions(), min_rows)
    if dataset == "synthetic":
        return latent.rating_log()
    if dataset in READERS:
        return load_named(dataset, data_dir)
    path = Path(dataset)
    if path.suffix or len(path.parts) > 1:
        table = read.load(path, options, min_rows=min_rows)
        print(table.notes, file=sys.stderr)
        return table
    known = ", ".join(sorted([*READERS, "synthetic"]))
    raise UserError(f"no data set {dataset!r}; give the path of a log, or one of {known}")


def chosen(data: Data) -> Interactions:
    """The data set that the options of a command name, see `load`."""
    return load(data.dataset, data.data_dir, data.read)


def _refuse_options(dataset: str, options: ReadOptions, min_rows: int) -> None:
    """Refuses what is said of columns that are known."""
    said = [
        field.name
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    ]
    said += ["min_rows"] if min_rows else []
    if said:
        raise UserError(
            f"{option(said[0])} says how a log of your own is read, and {dataset} is a named data "
            "set; give the path of a file"
        )


def short_name(dataset: str) -> str:
    """The name itself, or that of the file without folder and endings: fit for a file's name."""
    return raw.stem(Path(dataset))
