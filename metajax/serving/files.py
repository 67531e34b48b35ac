"""Files of a model folder: named arrays, the shape of nested parameters, digests."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.types import PyTree


def flat(tree: PyTree, path: str = "") -> dict[str, np.ndarray]:
    """Path -> array of the leaves of nested dicts and sequences."""
    if isinstance(tree, Mapping):
        pairs = tree.items()
    elif isinstance(tree, list | tuple):
        pairs = enumerate(tree)
    else:
        return {path: np.asarray(tree)}
    return {k: v for name, part in pairs for k, v in flat(part, f"{path}/{name}").items()}


def structure(tree: PyTree, path: str = "") -> Any:
    """The nested dicts and lists of a tree, with the path of each leaf in its place."""
    if isinstance(tree, Mapping):
        return {name: structure(part, f"{path}/{name}") for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [structure(part, f"{path}/{i}") for i, part in enumerate(tree)]
    return path


def nested(shape: Any, leaves: Mapping[str, np.ndarray]) -> PyTree:
    """The tree of a structure, with its leaves in their places."""
    if isinstance(shape, dict):
        return {name: nested(part, leaves) for name, part in shape.items()}
    if isinstance(shape, list):
        return [nested(part, leaves) for part in shape]
    return leaves[shape]


def write(path: pathlib.Path, given: Mapping[str, Any], skip: str = "") -> None:
    """Writes named arrays, but the one called ``skip``."""
    with path.open("wb") as file:
        kept = {k: np.asarray(v) for k, v in given.items() if k != skip}
        np.savez(file, allow_pickle=False, **kept)


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The named arrays of a file."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def digest(path: pathlib.Path) -> str:
    """A digest of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
