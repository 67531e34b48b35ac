"""The data sets as TFDS builders, without TensorFlow: one example is one user, one item, one class.

`UserTasks` holds the log, a user and their rows per example; `ItemTable` the items and their side
information; `LabeledRows` the rows of a person where each has several labels; `ImageClasses` the
characters of Omniglot with their 20 drawings. Each has one config per data set and is read at
random places by ``builder.as_data_source``. `metajax.data.builders` prepares them in a cache.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from metajax.data.builders import manifest
from metajax.data.builders.manifest import VERSION
from metajax.data.sources import behaviors, crossdomain, labeled, movielens, published
from metajax.data.table import Features, Interactions
from metajax.types import UserError

PLACES = "Put the files that third_party/datasets.toml lists in a folder of the data set's name."

MOVIE = ("genre", "year", "decade")
CONTENT = ("rated", "genre_imdb", "director", "actor")
PROFILE = movielens.PROFILE
# What a user's example holds of each row; a column that the set lacks is empty.
ROWS = {"row": np.int64, "item": np.int32, "label": np.float32, "time": np.int64, "state": np.int32}


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """One data set: its reader, its entry in the manifest and the columns its readers give.

    A column that a layout of the set does not have is empty in every example.
    """

    reader: Callable[[Path | str], Interactions] = movielens.ml_1m
    entry: str = ""
    user_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()


def _config(
    reader: Callable[[Path | str], Interactions],
    name: str,
    entry: str = "",
    user: tuple[str, ...] = (),
    item: tuple[str, ...] = (),
) -> Config:
    """A data set with the version of all."""
    return Config(
        name=name,
        version=VERSION,
        reader=reader,
        entry=entry or name,
        user_columns=user,
        item_columns=item,
    )


CONFIGS = [
    _config(movielens.ml_100k, "ml-100k", user=PROFILE, item=MOVIE),
    _config(movielens.ml_1m, "ml-1m", user=PROFILE, item=(*MOVIE, *CONTENT)),
    _config(published.movietweetings_100k, "movietweetings-100k", item=MOVIE),
    _config(published.ciaodvd, "ciaodvd", item=("genre",)),
    _config(published.amazon_musical_instruments, "amazon-musical-instruments"),
    _config(published.amazon_grocery, "amazon-grocery", item=("category",)),
    _config(crossdomain.douban_book, "douban-book", "douban"),
    _config(crossdomain.douban_music, "douban-music", "douban"),
    _config(crossdomain.amazon_cloth, "amazon-cloth", "amazon-cloth-sport"),
    _config(crossdomain.amazon_sport, "amazon-sport", "amazon-cloth-sport"),
    _config(published.jester5k, "jester5k"),
    _config(published.msweb, "msweb"),
]
LABELED = [
    Config(name=name, version=VERSION, entry=name)
    for name in ("census-income", "retailrocket-multibehavior")
]
IMAGES = [Config(name=f"omniglot{size}", version=VERSION, entry="omniglot") for size in (28, 105)]


def source_folder(entry: manifest.Entry, dl_manager: Any) -> Path:
    """The folder of a set's files: where they lie, or unpacked from the archive.

    The archive is taken from the manual folder where it lies there, else downloaded.

    Raises:
      UserError: neither files nor an archive; a damaged archive; no connection.
    """
    try:
        root = Path(dl_manager.manual_dir)
    except AssertionError:  # not given, absent or empty
        root = None
    if root is not None and (files := manifest.find_files(entry, root)):
        return files[0].parent
    if not entry.url:
        raise manifest.absent(entry, root)
    try:
        archive = Path(dl_manager.download(entry.url))
    except (OSError, tfds.download.DownloadError) as error:
        what = " ".join(str(error).split())[:160]
        raise UserError(f"{entry.name}: {entry.url} was not downloaded: {what}") from error
    return unpack(entry, archive, Path(dl_manager.download_dir) / "unpacked" / entry.name)


def unpack(entry: manifest.Entry, archive: Path, folder: Path) -> Path:
    """The folder, now with the files that the set's readers want, and no others.

    Raises:
      UserError: not a sound zip archive; a wanted file is not in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            inside = {Path(name).name: name for name in packed.namelist()}
            layouts = [files for files in entry.needs if all(file in inside for file in files)]
            if not layouts:
                raise UserError(f"{archive}: without {', '.join(entry.needs[-1])}; get it again")
            for file in layouts[0]:
                (folder / file).write_bytes(packed.read(inside[file]))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive}: not a sound zip archive; get it again") from error
    return folder


def _vector(kind: type) -> Any:
    """A column of varying length."""
    return tfds.features.Tensor(shape=(None,), dtype=kind)


def _column(features: Features, name: str, row: int) -> np.ndarray:
    """A row of a categorical column, empty where the layout lacks the column."""
    column = features.columns.get(name)
    return np.zeros(0, np.int32) if column is None else column[row]


class _Published(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the two builders of a log share: finding the files and telling what they hold."""

    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = PLACES

    @property
    def _set(self) -> Config:
        config = self.builder_config
        if not isinstance(config, Config):
            raise TypeError(f"{self.name} needs one of its own configs")
        return config

    def _about(self, features: dict[str, Any]) -> tfds.core.DatasetInfo:
        entry = manifest.read()[self._set.entry]
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{entry.title}. {type(self).__doc__} Terms: {entry.licence}",
            features=tfds.features.FeaturesDict(features),
            homepage=entry.homepage,
            citation=entry.citation,
            license=entry.licence,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        table = self._set.reader(source_folder(manifest.read()[self._set.entry], dl_manager))
        if self.info.metadata is not None:
            self.info.metadata.update(facts(table))
        return {"train": self._generate_examples(table)}


def facts(table: Interactions) -> dict[str, Any]:
    """The facts of a table that its examples do not contain, as JSON values."""
    sides = {"user": table.user_features, "item": table.item_features}
    return {
        "name": table.name,
        "scale": list(table.scale),
        "checksum": table.checksum(),
        "sizes": {side: features.sizes for side, features in sides.items()},
        "kinds": {"user": table.user_ids.dtype.str, "item": table.item_ids.dtype.str},
        "has": [n for n in ("time", "state", "item_year") if getattr(table, n) is not None],
        "title": None if table.item_titles is None else table.item_titles.dtype.str,
    }


class UserTasks(_Published):
    """One example is one user: profile and rows, with the row number of each in the log."""

    BUILDER_CONFIGS = CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        profile = {f"user_{name}": _vector(np.int32) for name in self._set.user_columns}
        columns = {name: _vector(kind) for name, kind in ROWS.items()}
        return self._about({"user_id": tfds.features.Text()} | columns | profile)

    def _generate_examples(self, table: Interactions) -> Iterator[tuple[int, dict[str, Any]]]:
        order = np.argsort(table.user, kind="stable")
        ends = np.cumsum(np.bincount(table.user, minlength=table.num_users))
        columns = {"item": table.item, "label": table.label}
        columns |= {"time": table.time, "state": table.state}
        for user, rows in enumerate(np.split(order, ends[:-1])):
            example: dict[str, Any] = {"user_id": str(table.user_ids[user]), "row": rows}
            for name, values in columns.items():
                found = np.zeros(0) if values is None else values[rows]
                example[name] = found.astype(ROWS[name])
            for name in self._set.user_columns:
                example[f"user_{name}"] = _column(table.user_features, name, user)
            yield user, example


class ItemTable(_Published):
    """One example is one item: its id, title, year and side information."""

    BUILDER_CONFIGS = CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        about = {f"item_{name}": _vector(np.int32) for name in self._set.item_columns}
        text = {"item_id": tfds.features.Text(), "title": tfds.features.Text()}
        return self._about(text | {"released": tfds.features.Scalar(np.int32)} | about)

    def _generate_examples(self, table: Interactions) -> Iterator[tuple[int, dict[str, Any]]]:
        for item in range(table.num_items):
            example: dict[str, Any] = {
                "item_id": str(table.item_ids[item]),
                "title": "" if table.item_titles is None else str(table.item_titles[item]),
                "released": 0 if table.item_year is None else int(table.item_year[item]),
            }
            for name in self._set.item_columns:
                example[f"item_{name}"] = _column(table.item_features, name, item)
            yield item, example


class LabeledRows(_Published):
    """One example is one person: the inputs, labels and parts of their rows, see `Labeled`."""

    BUILDER_CONFIGS = LABELED

    def _info(self) -> tfds.core.DatasetInfo:
        zipped = tfds.features.Encoding.ZLIB
        table = tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding=zipped)
        rows = dict.fromkeys(("x", "label", "known"), table)
        return self._about(rows | {"part": _vector(np.int8)})

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = source_folder(manifest.read()[self._set.entry], dl_manager)
        census = self._set.name == "census-income"
        found = labeled.census_income(folder) if census else behaviors.retailrocket(folder)
        if self.info.metadata is not None:
            told = {"name": found.name, "tasks": found.tasks, "numbers": found.numbers}
            self.info.metadata.update(told | {"chain": found.chain})
        return {"train": self._generate_examples(found)}

    def _generate_examples(
        self, rows: labeled.Labeled
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        order = np.argsort(rows.unit, kind="stable")
        ends = np.cumsum(np.bincount(rows.unit))
        for unit, mine in enumerate(np.split(order, ends[:-1])):
            columns = {"x": rows.x, "label": rows.label, "known": rows.known, "part": rows.part}
            yield unit, {name: values[mine] for name, values in columns.items()}


class ImageClasses(_Published):
    """One example is one character of Omniglot: its 20 drawings (20, size, size), 1 is ink."""

    BUILDER_CONFIGS = IMAGES

    def _size(self) -> int:
        return int(self._set.name.removeprefix("omniglot"))

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._size()
        zipped = tfds.features.Encoding.ZLIB
        images = tfds.features.Tensor(shape=(20, size, size), dtype=np.uint8, encoding=zipped)
        numbers = {n: tfds.features.Scalar(np.int32) for n in ("class_id", "character")}
        rest = {"alphabet": tfds.features.Text(), "evaluation": tfds.features.Scalar(np.bool_)}
        return self._about({"images": images} | numbers | rest)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = source_folder(manifest.read()["omniglot"], dl_manager)
        return {"train": self._generate_examples(published.omniglot(folder, self._size()))}

    def _generate_examples(
        self, found: dict[str, np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for place in range(0, len(found["images"]), 20):
            alphabet = found["alphabet_names"][found["alphabet_id"][place]]
            yield (
                place // 20,
                {
                    "images": found["images"][place : place + 20],
                    "class_id": int(found["class_id"][place]),
                    "character": int(found["character"][place]),
                    "alphabet": str(alphabet),
                    "evaluation": bool(found["evaluation"][place]),
                },
            )
