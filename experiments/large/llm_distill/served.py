"""The recommender that `llm_distill` leaves behind: a model folder whose new items a student wrote.

A person is the ridge solution on item factors, as in the table; items that were hidden have the
bias and the factors that genres and the student's vectors tell. `metajax recommend` and `metajax
serve` read the folder; neither needs the language model. `added` puts further titles into it.
"""

import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.data.split import Split
from metajax.data.table import Interactions
from metajax.learners import item_ridge
from metajax.serving import files, index, linear, model
from metajax.serving.catalogue import Catalogue, Labels
from metajax.types import Episode, Examples, UserError

from .. import text_cold
from ..llm_uses import content
from ..titles import names_of
from .student import Student

READER = "reader.npz"
"""The file of the `Reader` in a model folder."""
LIST = 10


class Reader(NamedTuple):
    """What turns a title into the bias and the factors of an item.

    Attributes:
      student: writes the vector (D,) of a title.
      center, size: (D,) and (), by which vectors were centered and scaled.
      mean, kernel: (1 + F,) and (D, 1 + F) of the regression on vectors, see `content.Draw.told`.
      unit: () of the factors.
    """

    student: Student
    center: np.ndarray
    size: np.ndarray
    mean: np.ndarray
    kernel: np.ndarray
    unit: np.ndarray

    def __call__(self, titles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Biases (N,) and factors (N, F) of items of which only the title is known."""
        vector = text_cold.TEXT_SCALE * (self.student(titles) - self.center) / self.size
        told = self.mean + vector @ self.kernel
        return told[:, 0] / 3.0, told[:, 1:] * self.unit

    def save(self, path: pathlib.Path) -> pathlib.Path:
        """The file written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {k: np.asarray(v) for k, v in self._asdict().items() if k != "student"}
        own = {f"student.{k}": v for k, v in self.student._asdict().items()}
        files.write(path, arrays | own)
        return path


def read(path: pathlib.Path) -> Reader:
    """The reader of a file that `Reader.save` wrote."""
    if not path.is_file():
        raise UserError(f"no file {path}: run llm_distill first, without --add")
    stored = files.arrays(path)
    own = {k: stored.pop(f"student.{k}") for k in Student._fields}
    return Reader(student=Student(**own), **stored)


def recipe_of(draw: content.Draw) -> item_ridge.Recipe:
    """The learner of every arm: a ridge regression on factors, with the penalty of the table."""
    penalties = (content.PENALTY,) * (1 + draw.factor.shape[1])
    return item_ridge.Recipe(float(draw.mean), ("factor",), penalties)


def columns_of(draw: content.Draw, arm: str) -> dict[str, np.ndarray]:
    """The item columns of an arm: learned from ratings, or told by content where hidden."""
    told = draw.told[arm]
    bias = np.where(draw.hidden, told[:, 0] / 3.0, draw.bias)
    factor = np.where(draw.hidden[:, None], told[:, 1:] * draw.size, draw.factor)
    return {"bias": bias.astype(np.float32), "factor": factor.astype(np.float32)}


def params_of(recipe: item_ridge.Recipe, columns: Mapping[str, np.ndarray]) -> Any:
    """The parameters of a recipe that has nothing to train."""
    row = {"item": np.zeros(1, np.int32)} | {k: v[:1] for k, v in columns.items()}
    one = Examples(row, np.ones(1, np.float32), np.ones(1, np.float32))
    return item_ridge.learner(recipe).init(jax.random.key(0), Episode({}, one, one))


def save(
    folder: pathlib.Path,
    table: Interactions,
    parts: Split,
    draw: content.Draw,
    arm: str,
    reader: Reader,
    about: Mapping[str, Any],
) -> model.Model:
    """Writes the model folder of an arm and gives the model back.

    Its known users are the training people, with their ratings of items that are not hidden.
    """
    rows = parts.train_rows[~draw.hidden[table.item[parts.train_rows]]]
    rows = rows[np.argsort(table.user[rows], kind="stable")]
    owner = table.user[rows]
    people = np.unique(owner)
    start = np.searchsorted(owner, np.append(people, table.num_users))
    known = model.Known(table.user_ids[people], start, table.item[rows], table.label[rows], {})
    recipe, columns = recipe_of(draw), columns_of(draw, arm)
    path = reader.save(folder.with_name(f"{folder.name}.{READER}"))
    try:
        return model.save(
            folder,
            about={"arm": arm, "items that were hidden": int(draw.hidden.sum()), **about},
            labels=Labels("ratings", float(table.scale[0]), float(table.scale[1])),
            catalogue=Catalogue(table.item_ids, names_of(table), table.item_year),
            popularity=np.bincount(table.item[rows], minlength=table.num_items),
            recipe=recipe,
            params=params_of(recipe, columns),
            columns=columns,
            known=known,
            card=f"{__doc__}\nNew items: {arm}.\n",
            others={READER: path},
        )
    finally:
        path.unlink(missing_ok=True)


def added(folder: pathlib.Path, titles: Sequence[str]) -> model.Model:
    """The model with further titles in its catalogue, read by the student; the folder is rewritten.

    Nothing but the title is known of such an item, no genre.

    Raises:
      UserError: the folder has no reader; a title is in the catalogue, or stands twice.
    """
    old, reader = model.load(folder), read(folder / READER)
    there = {*(old.catalogue.titles or [])}
    for place, title in enumerate(titles):
        if title in there or title in titles[:place]:
            raise UserError(f"{title!r} is in the catalogue already; leave it out")
    bias, factor = reader(titles)
    more = {"bias": bias, "factor": factor}
    columns = {k: np.concatenate([v, more[k].astype(v.dtype)]) for k, v in old.columns.items()}
    ids, year = old.catalogue.ids, old.catalogue.year
    numbers = np.arange(len(ids), len(ids) + len(titles))
    if ids.dtype.kind in "iu":
        numbers = numbers - len(ids) + ids.max() + 1
    fresh = numbers if ids.dtype.kind in "iu" else np.array([f"new-{n}" for n in numbers])
    zeros = np.zeros(len(titles), int)
    kept = folder.with_name(f"{folder.name}.{READER}")
    shutil.copy(folder / READER, kept)
    try:
        return model.save(
            folder,
            about={k: v for k, v in old.about.items() if k not in model.OWN},
            labels=old.labels,
            catalogue=Catalogue(
                np.concatenate([ids, fresh]),
                [*(old.catalogue.titles or []), *titles],
                None if year is None else np.concatenate([year, zeros.astype(year.dtype)]),
            ),
            popularity=np.concatenate([old.popularity, zeros]),
            recipe=old.recipe,
            params=old.params,
            columns=columns,
            known=old.known,
            card=(folder / "README.md").read_text(encoding="utf-8"),
            others={READER: kept},
        )
    finally:
        kept.unlink(missing_ok=True)


def milliseconds(
    table: Interactions, parts: Split, draw: content.Draw, arm: str, shots: int, people: int = 100
) -> float:
    """Processor time to adapt to a person's first ratings and to rank the catalogue: a median."""
    recipe, columns = recipe_of(draw), columns_of(draw, arm)
    form = linear.form(recipe, params_of(recipe, columns), columns, {})
    seen = draw.order[~draw.hidden[table.item[draw.order]]]
    took = []
    for person in [None, *content.people_of(parts)[:people]]:  # the first one warms up
        rows = seen[table.user[seen] == person][:shots] if person is not None else seen[:shots]
        item, label = table.item[rows], table.label[rows]
        began = time.process_time_ns()
        state = linear.adapt(form, linear.start(form), item, label)
        index.exact(linear.predict(form, state), LIST, item)
        took.append((time.process_time_ns() - began) / 1e6)
    return float(np.median(took[1:]))
