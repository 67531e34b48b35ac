"""Task files: a split on disk, with checksums of itself and of the table it belongs to."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.split.tasks import Split, Tasks
from metajax.data.table import Interactions
from metajax.types import UserError


def save(path: Path | str, split: Split, table: Interactions) -> Path:
    """Writes the split as a task file (npz) and returns its path.

    The file names the table by its checksum, and itself by that of the split.
    """
    path = Path(path)
    arrays = {"train_rows": np.asarray(split.train_rows, np.int64)}
    for place, tasks in _parts(split).items():
        for field, values in tasks._asdict().items():
            if values is not None:
                arrays[f"{place}/{field}"] = values
    about = {
        "protocol": split.protocol,
        "seed": split.seed,
        "num_query": split.num_query,
        "side": split.side,
        "valid": list(split.valid),
        "test": list(split.test),
        "table": table.name,
        "table_checksum": table.checksum(),
        "checksum": split.checksum(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            **arrays,
        )  # fmt: skip
    return path


def load(path: Path | str, table: Interactions) -> Split:
    """The split in a task file, made from this very table.

    Raises:
      UserError: the file is missing or damaged, or was made from other data.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such task file; give the path that split.save wrote")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        about = json.loads(arrays["about"].tobytes())
        split = _assembled(about, arrays)
        expected, made_from = about["checksum"], about["table_checksum"]
        name = about["table"]
    except (ValueError, KeyError, EOFError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a whole task file; write it again with split.save") from error
    if made_from != table.checksum():
        raise UserError(
            f"{path}: made from {name} with checksum {made_from}, but {table.name} has "
            f"{table.checksum()}; load the data that the tasks were made from"
        )
    if split.checksum() != expected:
        raise UserError(f"{path}: its tasks are not those it was written with; get it again")
    return split


def _parts(split: Split) -> dict[str, Tasks]:
    """Place in the file -> tasks."""
    valid = {f"valid/{k}": tasks for k, tasks in split.valid.items()}
    return {"train": split.train} | valid | {f"test/{k}": t for k, t in split.test.items()}


def _assembled(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Split:
    """The split that the arrays of a task file make."""

    def tasks(place: str) -> Tasks:
        fields = {field: arrays.get(f"{place}/{field}") for field in Tasks._fields}
        missing = [k for k, v in fields.items() if v is None and k != "shots"]
        if missing:
            raise KeyError(missing[0])
        return Tasks(**fields)  # pyright: ignore[reportArgumentType]

    return Split(
        about["protocol"],
        about["seed"],
        arrays["train_rows"],
        tasks("train"),
        {k: tasks(f"valid/{k}") for k in about["valid"]},
        {k: tasks(f"test/{k}") for k in about["test"]},
        about["num_query"],
        about["side"],
    )
