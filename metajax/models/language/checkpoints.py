"""Checkpoint folders in the Hugging Face layout: config.json, safetensors in one file or in shards.

The package `safetensors`, of the extras ``text`` and ``llm``, maps a file into memory, so that one
tensor at a time is loaded.
"""

import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 by it)
import numpy as np

from metajax.types import UserError

INSTALL = "pip install 'metajax[llm]'"


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
      UserError: a file is missing, cut or no safetensors file; safetensors is not installed.
    """

    def __init__(self, folder: pathlib.Path):
        folder = pathlib.Path(folder)
        index = folder / "model.safetensors.index.json"
        shards: Iterable[str] = ["model.safetensors"]
        if index.is_file():
            shards = sorted(set(_json(index).get("weight_map", {}).values()))
        self.folder = folder
        self._found: dict[str, tuple[pathlib.Path, Any]] = {}
        for shard in shards:
            path = folder / shard
            if not path.is_file():
                raise UserError(f"{folder} has no {shard}; get a complete checkpoint")
            file = _opened(path)
            self._found |= {name: (path, file) for name in file.keys()}  # noqa: SIM118
        self.unread = set(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __call__(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The tensor of that name.

        Raises:
          UserError: there is none, its shape is not ``shape``, or numpy has no such numbers.
        """
        if name not in self._found:
            raise UserError(f"{self.folder} has no tensor {name}; get a complete checkpoint")
        path, file = self._found[name]
        self.unread.discard(name)
        found = tuple(file.get_slice(name).get_shape())
        if shape is not None and found != tuple(shape):
            raise UserError(f"{path}: {name} has shape {found}, config.json says {tuple(shape)}")
        try:
            return file.get_tensor(name)
        except (TypeError, AttributeError) as error:
            kind = file.get_slice(name).get_dtype()
            raise UserError(f"{path}: {name} has numbers of kind {kind}; convert it") from error

    def stacked(
        self, name: str, count: int, shape: tuple[int, ...], change: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """The tensors ``name.format(i)``, i < count, each through ``change``, stacked on axis 0.

        Args:
          shape: of each, before ``change``.
        """
        return np.stack([change(self(name.format(i), shape)) for i in range(count)])


def _opened(path: pathlib.Path) -> Any:
    """A safetensors file, mapped into memory."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"checkpoints need the package safetensors: {INSTALL}") from error
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        told = str(error).rpartition(": ")[2]
        raise UserError(
            f"{path} is cut or no safetensors file ({told}); get a complete copy"
        ) from error


def tokenizer(folder: pathlib.Path | str, install: str = INSTALL) -> Any:
    """The folder's tokenizer, which neither cuts nor pads.

    Args:
      install: the command that installs what is needed, for the message.

    Raises:
      UserError: the package `tokenizers` or the file is missing, or the file is none.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(f"texts need the package tokenizers: {install}") from error
    path = pathlib.Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json; get a complete checkpoint")
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise UserError(f"{path} is no tokenizer ({error}); get a complete checkpoint") from error
    found.no_padding()
    found.no_truncation()
    return found
