"""A simulated shop's log on disk: ``.npy`` files in compressed sparse rows, written in pieces.

A run that was killed resumes after its last complete piece, every piece has a digest in
``manifest.json``, and files are memory-mapped, so that a log may be larger than memory.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.data.worlds import commerce
from metajax.data.worlds.commerce import World
from metajax.types import UserError

VERSION = 1


class Shop(NamedTuple):
    """A memory-mapped log, and the true parameters that it was drawn from.

    Attributes:
      world: its settings.
      offsets: (U + 1,) where each user's events begin and end; they are in time order.
      item: (n,) int32 items shown.
      label: (n,) int8, 1 if liked.
      chance: (n,) float16, the true probability of it.
      taste: (U, dim) float32, each user's vector ``w`` at its last event.
      content: (V, num_features) float16 features.
      latent: (V, dim) float32 item vectors ``z``.
      quality: (V,) float32.
      digest: of all pieces.
    """

    world: World
    offsets: np.ndarray
    item: np.ndarray
    label: np.ndarray
    chance: np.ndarray
    taste: np.ndarray
    content: np.ndarray
    latent: np.ndarray
    quality: np.ndarray
    digest: str


def generate(world: World, folder: Path, report: Callable[[int, int], Any] | None = None) -> Shop:
    """The shop in a folder; pieces that are not there yet are generated first.

    Args:
      report: called after each piece with the pieces done and their number.

    Raises:
      UserError: the folder holds another world; impossible settings.
    """
    commerce.check(world)
    folder.mkdir(parents=True, exist_ok=True)
    told = _manifest(folder)
    settings = _settings(world)
    if told and told["world"] != settings:
        raise UserError(f"{folder} holds another world; remove it or choose another folder")
    done = told.get("pieces", {})
    columns = _columns(world, folder, new=not done)
    every = list(commerce.pieces(world))
    for number, piece in enumerate(every):
        if piece.name not in done:
            made = piece.make()
            for name, values in made.items():
                start, stop = piece.place[name]
                columns[name][start:stop] = values
                columns[name].flush()
            done[piece.name] = _digest(made)
            _write(folder, {"world": settings, "pieces": done})
        if report is not None:
            report(number + 1, len(every))
    return load(folder)


def load(folder: Path) -> Shop:
    """The shop of a folder, memory-mapped.

    Raises:
      UserError: the folder has no shop, or an incomplete one.
    """
    told = _manifest(folder)
    if not told:
        raise UserError(f"no shop in {folder}; generate it first")
    world = World(**{**told["world"], "events": tuple(told["world"]["events"])})
    names = [piece.name for piece in commerce.pieces(world)]
    missing = [name for name in names if name not in told["pieces"]]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(names)} pieces missing; generate again")
    columns = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in commerce.shapes(world)
    }
    digest = hashlib.blake2b("".join(told["pieces"][n] for n in names).encode(), digest_size=16)
    return Shop(world, commerce.offsets(world), **columns, digest=digest.hexdigest())


def verify(folder: Path) -> list[str]:
    """The names of the pieces whose rows on disk do not have the digest in the manifest."""
    shop, told = load(folder), _manifest(folder)["pieces"]
    found = []
    for piece in commerce.pieces(shop.world):
        rows = {name: getattr(shop, name)[a:b] for name, (a, b) in piece.place.items()}
        if _digest(rows) != told[piece.name]:
            found.append(piece.name)
    return found


def _columns(world: World, folder: Path, new: bool) -> dict[str, np.memmap]:
    """The files of all columns, open for writing."""
    found = {}
    for name, (shape, kind) in commerce.shapes(world).items():
        mode = "w+" if new else "r+"
        path = folder / f"{name}.npy"
        given = {"dtype": kind, "shape": shape} if new else {}
        found[name] = np.lib.format.open_memmap(path, mode, **given)
    return found


def _settings(world: World) -> dict[str, Any]:
    return {**dataclasses.asdict(world), "events": list(world.events)}


def _digest(rows: dict[str, np.ndarray]) -> str:
    code = hashlib.blake2b(digest_size=16)
    for name in sorted(rows):
        code.update(np.ascontiguousarray(rows[name]).tobytes())
    return code.hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    told = json.loads(path.read_text())
    if told.get("version") != VERSION:
        raise UserError(f"{folder} was written by another version; remove it")
    return told


def _write(folder: Path, told: dict[str, Any]) -> None:
    """Replaces the manifest as a whole: what it names has been written before."""
    temporary = folder / "manifest.json.new"
    temporary.write_text(json.dumps({"version": VERSION, **told}))
    os.replace(temporary, folder / "manifest.json")
