"""Ratings of items that people chose, beside ratings of items drawn at random: Coat.

A file ``.npz`` of your own with the same arrays is read alike.
"""

import dataclasses
from pathlib import Path

import numpy as np

from metajax.data.sources.files import arrays, dataset_folder, required
from metajax.types import UserError

NEEDED = ("train", "user_features", "item_features")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What U people rated of I items by their own choice, and what of random ones.

    Attributes:
      name: of the data.
      chosen, random: (U, I) ratings, 0 where there is none.
      user_features: (U, F) numbers known of people; item_features: (I, G).
      user_names: what the F are, as "gender:women"; item_names: what the G are.
      propensity: (U, I) that came with the data, or None.
    """

    name: str
    chosen: np.ndarray
    random: np.ndarray
    user_features: np.ndarray
    item_features: np.ndarray
    user_names: tuple[str, ...] = ()
    item_names: tuple[str, ...] = ()
    propensity: np.ndarray | None = None


def coat(folder: Path | str) -> Chosen:
    """Coat: 290 people, 300 coats, 24 chosen and 16 random ratings of 1..5 from each.

    366 pairs are rated in both ways, each time alike. The propensities of the file are the authors'
    estimates.

    References: Schnabel et al., "Recommendations as Treatments", ICML 2016.
    """
    return read(required(dataset_folder(folder, "coat"), "coat.npz", "coat"))


def read(path: Path) -> Chosen:
    """The ratings in a file of arrays ``train``, ``test``, ``user_features``, ``item_features``.

    ``user_feature_names``, ``item_feature_names`` and ``propensity`` may be there too.

    Raises:
      UserError: an array is missing or of another shape, or no rating is of a random item.
    """
    found = arrays(path, NEEDED)
    chosen = np.asarray(found["train"], np.float32)
    if "test" not in found or not np.asarray(found["test"]).any():
        raise UserError(
            f"{path}: no ratings of items drawn at random (array test), without which nobody can "
            "tell whether a weight has helped; give a log that has them, such as coat"
        )
    random = np.asarray(found["test"], np.float32)
    users, items = chosen.shape
    made = Chosen(
        path.stem,
        chosen,
        random,
        np.asarray(found["user_features"], np.float32),
        np.asarray(found["item_features"], np.float32),
        tuple(map(str, found.get("user_feature_names", ()))),
        tuple(map(str, found.get("item_feature_names", ()))),
        found.get("propensity"),
    )
    own = (random.shape, len(made.user_features), len(made.item_features))
    if own != ((users, items), users, items):
        raise UserError(
            f"{path}: train is {users} x {items}, and test, user_features or item_features are of "
            "other people or items; give arrays of the same"
        )
    levels = np.unique(chosen[chosen > 0])
    if len(levels) == 1:
        raise UserError(
            f"{path}: every rating in train is {levels[0]:g}, so that nothing can be learned of "
            "it; give ratings of more than one value"
        )
    if not (chosen.any(axis=1)).all():
        raise UserError(f"{path}: somebody has no rating in train; leave such people out")
    return made
