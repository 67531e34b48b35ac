"""The characters of Omniglot, and the classes that are trained on, chosen by and tested on."""

import pathlib

import numpy as np

from metajax.data import images
from metajax.data.builders import manifest
from metajax.data.sources import named, published

SPLIT = pathlib.Path(__file__).with_name("split.json")


def load(data_dir: pathlib.Path | None) -> dict[str, np.ndarray]:
    """The images (32460, 28, 28) and their class numbers, class by class.

    They are read from the published file itself, so that a card's machine needs no more than JAX.

    Raises:
      UserError: the file is missing or damaged.
    """
    folder = named.data_folder(data_dir)
    entry = manifest.read()["omniglot"]
    manifest.check(entry, manifest.find_files(entry, folder))
    found = published.omniglot(folder)
    order = np.argsort(found["class_id"], kind="stable")
    return {"images": found["images"][order], "label": found["class_id"][order].astype(int)}


def part(data: dict[str, np.ndarray], name: str) -> images.ClassImages:
    """The classes of one part of the written split: train, valid or test."""
    kept = np.isin(data["label"], images.read_split(SPLIT)[name])
    return images.by_class(data["images"], np.where(kept, data["label"], -1))
