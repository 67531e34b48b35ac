"""The people of a file of events, as a model understands them."""

import pathlib
from typing import NamedTuple

import numpy as np

from metajax.data.logs import read
from metajax.serving.model import Model
from metajax.settings import ReadOptions
from metajax.types import UserError


class Person(NamedTuple):
    """One person of a file: their name, and items (n,) and labels (n,) of their events."""

    name: str
    items: np.ndarray
    labels: np.ndarray


class People(NamedTuple):
    """The people of a file.

    Attributes:
      people: in the order of the file's ids.
      said: what was understood of the file, and what was left out.
    """

    people: list[Person]
    said: str


def of_file(path: pathlib.Path, model: Model) -> People:
    """The people of a log of new events, read as the model's own log was.

    Items are found by id, else by title; those that the model does not know are left out and
    counted. The last event counts where a person has several with one item.

    Raises:
      UserError: the file cannot be read; it is of another kind of log; no item of it is known.
    """
    known = {k: v for k, v in model.about.get("read", {}).items() if v is not None}
    if not model.labels.events:
        known["scale"] = (model.labels.low, model.labels.high)
    table = read.load(path, ReadOptions(**known), min_users=1, last_only=True)
    place = np.array([_found(model, one) for one in table.item_ids.tolist()])
    if (place < 0).all():
        raise UserError(
            f"{path}: none of the {table.num_items} items is in the model, whose items are called "
            f"like {model.catalogue.ids[0]!s}"
        )
    value = table.label if table.count is None else table.count
    if not model.labels.events and "every row is an event" in table.notes:
        raise UserError(f"{path}: no ratings, and the model is of ratings; add a column of them")
    people = []
    for user, name in enumerate(table.user_ids.tolist()):
        rows = np.flatnonzero((table.user == user) & (place[table.item] >= 0))
        items = place[table.item[rows]]
        pairs = zip(items.tolist(), value[rows].tolist(), strict=True)
        said = {f"{model.catalogue.title(i)} (id {model.catalogue.id(i)})": v for i, v in pairs}
        people.append(Person(str(name), items, model.labels.encode(said)))
    unknown = int((place < 0).sum())
    left = f"; {unknown} of {table.num_items} items are not in the model and left out"
    return People(people, table.notes + (left if unknown else ""))


def _found(model: Model, name: int | str) -> int:
    """The item of an id or title; -1 for none."""
    try:
        return model.catalogue.find(name)
    except UserError:
        return -1
