"""N-way K-shot tasks from labeled images: some classes, rotated at random, some images of each."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Episode, Examples, UserError


class ClassImages(NamedTuple):
    """Images and the classes that they belong to, on the device.

    Attributes:
      images: (I, H, W) uint8, ink 1 and paper 0.
      members: (C, M) rows of ``images`` of each class, padded with 0.
      sizes: (C,) how many of them are real.
    """

    images: jax.Array
    members: jax.Array
    sizes: jax.Array


def by_class(images: np.ndarray, label: np.ndarray) -> ClassImages:
    """Images (I, H, W) grouped by their label (I,); a label below 0 leaves its image out."""
    names = np.unique(label[label >= 0])
    rows = [np.flatnonzero(label == name) for name in names]
    members = np.zeros((len(rows), max(map(len, rows), default=1)), np.int32)
    for i, row in enumerate(rows):
        members[i, : len(row)] = row
    sizes = np.array([len(row) for row in rows], np.int32)
    return ClassImages(jnp.asarray(images), jnp.asarray(members), jnp.asarray(sizes))


def check(data: ClassImages, ways: int, images_per_class: int) -> ClassImages:
    """The data itself if tasks of this size can be drawn from it.

    Raises:
      UserError: too few classes, or a class with too few images.
    """
    if len(data.sizes) < ways:
        raise UserError(f"{ways}-way tasks need {ways} classes; there are {len(data.sizes)}")
    smallest = int(data.sizes.min())
    if smallest < images_per_class:
        raise UserError(
            f"tasks need {images_per_class} images a class; one class has {smallest}; lower the "
            "shots or the queries"
        )
    return data


def draw(
    data: ClassImages,
    key: jax.Array,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotates: bool = True,
) -> Episode:
    """One task: ``ways`` classes, numbered anew, with ``shots`` and ``queries`` images of each.

    Inputs are float images (N, H, W, 1), labels the class numbers 0 .. ways - 1 (N,); support rows
    and query rows are class by class and share no image. With ``rotates``, each class is rotated by
    its own random multiple of 90 degrees, so that there are four times as many classes.

    References: Vinyals et al., NeurIPS 2016; Santoro et al., ICML 2016.
    """
    key_class, key_turn, key_row = jax.random.split(key, 3)
    _, chosen = jax.lax.top_k(jax.random.uniform(key_class, (data.sizes.shape[0],)), ways)
    noise_WxM = jax.random.uniform(key_row, (ways, data.members.shape[1]))
    real_WxM = jnp.arange(data.members.shape[1])[None, :] < data.sizes[chosen][:, None]
    _, place_WxK = jax.lax.top_k(jnp.where(real_WxM, noise_WxM, -1.0), shots + queries)
    row_WxK = jnp.take_along_axis(data.members[chosen], place_WxK, axis=1)
    image_WxKxHxW = data.images[row_WxK]
    if rotates:
        turns = jax.random.randint(key_turn, (ways,), 0, 4)
        image_WxKxHxW = jax.vmap(rotated)(image_WxKxHxW, turns)

    def examples(first: int, count: int) -> Examples:
        part = image_WxKxHxW[:, first : first + count].astype(jnp.float32)
        label = jnp.repeat(jnp.arange(ways), count)
        image = part.reshape(ways * count, *part.shape[2:], 1)
        return Examples(image, label, jnp.ones(ways * count))

    return Episode((), examples(0, shots), examples(shots, queries))


def rotated(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Square images (..., H, H) rotated counter-clockwise by 90 degrees ``turns`` times, 0 to 3."""
    by = [lambda x, k=k: jnp.rot90(x, k, axes=(-2, -1)) for k in range(4)]
    return jax.lax.switch(turns, by, image)


def split_classes(num_classes: int, num_train: int, num_valid: int, seed: int) -> dict:
    """A random split of class numbers: ``seed``, ``train``, ``valid`` and ``test``, each sorted."""
    order = np.random.default_rng(seed).permutation(num_classes)
    parts = np.split(order, [num_train, num_train + num_valid])
    named = zip(("train", "valid", "test"), parts, strict=True)
    return {"seed": seed} | {name: sorted(part.tolist()) for name, part in named}


def read_split(path: Path) -> dict:
    """The split written by `split_classes` to a JSON file.

    Raises:
      UserError: the file is missing or its parts overlap.
    """
    if not path.is_file():
        raise UserError(f"no class split {path}; restore it from version control")
    parts = json.loads(path.read_text())
    everyone = [c for name in ("train", "valid", "test") for c in parts[name]]
    if len(everyone) != len(set(everyone)):
        raise UserError(f"{path} puts a class into two parts; restore it from version control")
    return parts
