"""Checkpoint folders in the Hugging Face layout: config.json, safetensors in one file or in shards.

A safetensors file is eight bytes that hold the length of a JSON header, the header, and the tensors
end to end. It is memory-mapped, so that one tensor at a time is loaded.
"""

import json
import pathlib
import struct
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

from metajax.types import UserError

KINDS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
      UserError: no folder, no such file, or not JSON.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"no checkpoint folder {folder}; give one with config.json and safetensors")
    return _json(folder / "config.json")


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path.parent} has no {path.name}; get a complete checkpoint") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get a complete checkpoint") from error


class Tensors:
    """The tensors of a folder by name, read one at a time; ``unread`` are those not yet read.

    Raises:
      UserError: a file is missing, cut or no safetensors file.
    """

    def __init__(self, folder: pathlib.Path):
        folder = pathlib.Path(folder)
        index = folder / "model.safetensors.index.json"
        shards: Iterable[str] = ["model.safetensors"]
        if index.is_file():
            shards = sorted(set(_json(index).get("weight_map", {}).values()))
        self.folder = folder
        self._found: dict[str, tuple[pathlib.Path, dict[str, Any], int]] = {}
        for shard in shards:
            path = folder / shard
            if not path.is_file():
                raise UserError(f"{folder} has no {shard}; get a complete checkpoint")
            header, start = _header(path)
            self._found |= {name: (path, about, start) for name, about in header.items()}
        self.unread = set(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __call__(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The tensor of that name.

        Raises:
          UserError: there is none, or its shape is not ``shape``.
        """
        if name not in self._found:
            raise UserError(f"{self.folder} has no tensor {name}; get a complete checkpoint")
        path, about, start = self._found[name]
        self.unread.discard(name)
        found = tuple(about["shape"])
        if shape is not None and found != tuple(shape):
            raise UserError(f"{path}: {name} has shape {found}, config.json says {tuple(shape)}")
        kind = np.dtype(KINDS[about["dtype"]])
        first, last = about["data_offsets"]
        raw = np.memmap(path, np.uint8, "r", start + first, (last - first,))
        return np.asarray(raw).view(kind).reshape(found)

    def stacked(
        self, name: str, count: int, shape: tuple[int, ...], change: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """The tensors ``name.format(i)``, i < count, each through ``change``, stacked on axis 0.

        Args:
          shape: of each, before ``change``.
        """
        return np.stack([change(self(name.format(i), shape)) for i in range(count)])


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """The entries of a file's header and where its tensors begin."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < size else None
        assert isinstance(header, dict)
        header.pop("__metadata__", None)
        end = max((about["data_offsets"][1] for about in header.values()), default=0)
        known = all(about["dtype"] in KINDS for about in header.values())
    except (struct.error, ValueError, AssertionError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no safetensors file; get a complete copy") from error
    if 8 + length + end != size:
        raise UserError(f"{path} is cut: {size} bytes of {8 + length + end}; get a complete copy")
    if not known:
        raise UserError(f"{path} holds a number format that is not supported; convert it first")
    return header, 8 + length
