"""Named data sets: ``load_named("ml-1m", data_dir)`` reads one into `Interactions`."""

import os
from collections.abc import Callable
from pathlib import Path

from metajax.data import crossdomain, movielens, published
from metajax.data.table import Interactions
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

DEFAULT_FOLDER = Path("../shared/data")


def data_folder(data_dir: Path | str | None = None) -> Path:
    """The folder of data sets: ``data_dir``, else METAJAX_DATA, else ``../shared/data``.

    Raises:
      UserError: the folder is missing.
    """
    folder = Path(data_dir or os.environ.get("METAJAX_DATA") or DEFAULT_FOLDER)
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
