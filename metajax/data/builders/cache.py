"""The cache of prepared data sets, written atomically: safe with several processes and kills."""

import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax import places
from metajax.data.builders import manifest
from metajax.data.builders.manifest import VERSION
from metajax.data.sources.named import data_folder
from metajax.data.table import Features, Interactions, validate
from metajax.types import UserError

IMAGES = ("omniglot28", "omniglot105")
LABELED = ("census-income", "retailrocket-multibehavior")


def cache_folder(cache: Path | str | None = None) -> Path:
    """The folder of prepared data: ``cache``, else METAJAX_CACHE, else `metajax.places.cache`."""
    return Path(cache or os.environ.get("METAJAX_CACHE") or places.cache())


def prepare(
    name: str,
    data_dir: Path | str | None = None,
    cache: Path | str | None = None,
    download: bool = False,
) -> Path:
    """The folder of the prepared data set, written first if it is not there.

    The folder's name holds a fingerprint of the source files, so changed files are prepared anew.
    It is written under another name by one process at a time and renamed when complete.

    Args:
      name: as in `metajax.data.sources.named`, or ``omniglot28``, ``omniglot105``.
      data_dir: the folder of data sets, see `data_folder`.
      cache: see `cache_folder`.
      download: fetch the owner's archive where nothing is found; without it the network is never
        reached.

    Raises:
      UserError: an unknown name; absent, damaged or unpublished files; no connection.
    """
    entry = _entry(name)
    root = _root(data_dir, download)
    files = manifest.find_files(entry, root) if root else []
    archive = manifest.find_archive(entry, root) if root else None
    if not files and archive is None and not (download and entry.url):
        raise manifest.absent(entry, root)
    fingerprint = manifest.check(entry, files or ([archive] if archive else []))
    home = cache_folder(cache)
    final = home / f"{name}-{VERSION}-{fingerprint}"
    if final.is_dir():
        return final
    with _only_one(home, name):
        for left in home.glob(f".{name}-*.partial"):  # of a process that was killed
            shutil.rmtree(left)
        if final.is_dir():
            return final
        partial = home / f".{final.name}-{os.getpid()}.partial"
        try:
            _write(name, root, partial, home / "downloads")
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return final


def _root(data_dir: Path | str | None, download: bool) -> Path | None:
    """The folder of data sets; where a download is allowed it may be missing."""
    try:
        return data_folder(data_dir)
    except UserError:
        if not download:
            raise
        return None


def _entry(name: str) -> manifest.Entry:
    """The manifest's entry of a data set."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError("tensorflow-datasets is missing; pip install 'metajax[builders]'")
    from metajax.data.builders import tasks

    entries = {
        config.name: config.entry for config in (*tasks.CONFIGS, *tasks.IMAGES, *tasks.LABELED)
    }
    if name not in entries:
        raise UserError(f"no data set {name!r}; the known ones are {', '.join(sorted(entries))}")
    return manifest.read()[entries[name]]


@contextlib.contextmanager
def _only_one(home: Path, name: str) -> Iterator[None]:
    """Lets one process at a time prepare a set; a killed one lets go by itself."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(name: str, root: Path | None, folder: Path, downloads: Path) -> None:
    """Writes the TFDS builders of a set below ``folder``."""
    import tensorflow_datasets as tfds

    from metajax.data.builders import tasks

    kinds = (tasks.ImageClasses,) if name in IMAGES else (tasks.UserTasks, tasks.ItemTable)
    kinds = (tasks.LabeledRows,) if name in LABELED else kinds
    config = tfds.download.DownloadConfig(
        manual_dir=None if root is None else str(root), try_download_gcs=False
    )
    tfds.disable_progress_bar()
    for kind in kinds:
        builder = kind(data_dir=folder, config=name, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # what TFDS prints
            builder.download_and_prepare(download_dir=downloads, download_config=config)


def source(folder: Path, kind: str) -> Sequence[dict[str, Any]]:
    """The examples of a prepared set with random access: ``len``, ``[i]``, ``__getitems__``.

    Args:
      folder: from `prepare`.
      kind: ``user_tasks``, ``item_table``, ``labeled_rows`` or ``image_classes``.
    """
    return _builder(folder, kind).as_data_source(split="train")


def _builder(folder: Path, kind: str) -> Any:
    """The TFDS builder of one kind in a prepared folder."""
    import tensorflow_datasets as tfds

    places = sorted(folder.glob(f"{kind}/*/*/dataset_info.json"))
    if not places:
        raise UserError(f"{folder}: no prepared {kind}; prepare the data set again")
    return tfds.builder_from_directory(places[0].parent)


def load(
    name: str,
    data_dir: Path | str | None = None,
    cache: Path | str | None = None,
    download: bool = False,
) -> Interactions:
    """The table of a data set from the cache, prepared first if necessary.

    It equals the table of the set's reader. Arguments are those of `prepare`.

    Raises:
      UserError: as of `prepare`; or the set holds images, or rows with several labels.
    """
    if name in LABELED:
        raise UserError(
            f"{name} has several labels per row, no log; use source(prepare({name!r}), "
            '"labeled_rows")'
        )
    if name in IMAGES:
        raise UserError(f"{name} holds images, no log; use source(prepare({name!r}), ...)")
    return assemble(prepare(name, data_dir, cache, download))


def assemble(folder: Path) -> Interactions:
    """The table of a prepared set, its rows in the order of the published log.

    Raises:
      UserError: the prepared set is damaged.
    """
    users, items = (_builder(folder, kind) for kind in ("user_tasks", "item_table"))
    facts = users.info.metadata
    people, things = (_all(builder.as_data_source(split="train")) for builder in (users, items))
    order = np.argsort(np.concatenate(people["row"]))
    counts = [len(rows) for rows in people["row"]]
    columns = {
        n: np.concatenate(people[n])[order]
        for n in ("item", "label", "time", "state")
        if n in ("item", "label") or n in facts["has"]
    }
    titles = facts["title"]
    table = Interactions(
        name=facts["name"],
        user=np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order],
        item=columns["item"],
        label=columns["label"],
        time=columns.get("time"),
        user_ids=_ids(people["user_id"], facts["kinds"]["user"]),
        item_ids=_ids(things["item_id"], facts["kinds"]["item"]),
        user_features=_features(people, "user", facts["sizes"]["user"]),
        item_features=_features(things, "item", facts["sizes"]["item"]),
        scale=tuple(facts["scale"]),
        state=columns["state"].astype(np.int8) if "state" in columns else None,
        item_year=np.array(things["released"], np.int16) if "item_year" in facts["has"] else None,
        item_titles=_ids(things["title"], titles) if titles else None,
    )
    if table.checksum() != facts["checksum"]:
        raise UserError(f"{folder}: damaged; remove the folder and prepare the data set again")
    return validate(table)


def _all(examples: Any) -> dict[str, list[Any]]:
    """Every example of a source, in columns."""
    found = examples.__getitems__(list(range(len(examples))))
    return {name: [example[name] for example in found] for name in found[0]}


def _ids(values: list[bytes], kind: str) -> np.ndarray:
    """Texts as stored, in the type that the ids had."""
    return np.array([value.decode() for value in values]).astype(kind)


def _features(columns: dict[str, list[Any]], side: str, sizes: dict[str, int]) -> Features:
    """The categorical columns of one side."""
    features = Features()
    for name, size in sizes.items():
        features = features.with_column(name, np.stack(columns[f"{side}_{name}"]), size)
    return features
