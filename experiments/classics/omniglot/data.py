"""The characters of Omniglot, and the classes that are trained on, chosen by and tested on."""

import json
import pathlib

import numpy as np

from metajax.data import images
from metajax.data.builders import cache

SPLIT = pathlib.Path(__file__).with_name("split.json")


def load(data_dir: pathlib.Path | None) -> dict[str, np.ndarray]:
    """The images (32460, 28, 28) and their class numbers, through the prepared data set.

    Raises:
      UserError: the files are missing or damaged.
    """
    examples = cache.source(cache.prepare("omniglot28", data_dir), "image_classes")
    found = [examples[i] for i in range(len(examples))]
    found.sort(key=lambda example: example["class_id"])
    drawings = [len(example["images"]) for example in found]
    label = np.repeat([example["class_id"] for example in found], drawings)
    return {"images": np.concatenate([example["images"] for example in found]), "label": label}


def part(data: dict[str, np.ndarray], name: str) -> images.ClassImages:
    """The classes of one part of the written split: train, valid or test."""
    kept = np.isin(data["label"], images.read_split(SPLIT)[name])
    return images.of_labels(data["images"], np.where(kept, data["label"], -1))


def write_split(path: pathlib.Path = SPLIT) -> None:
    """Writes the split of the 1,623 classes that all runs share; it stands in the repository."""
    path.write_text(json.dumps(images.split_classes(1623, 1100, 100, seed=1)) + "\n")
