"""Rows with several labels each, for learning several tasks at once; Census-Income among them.

A file ``.npz`` of your own with arrays ``x`` and ``label`` is read alike.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metajax.data.sources.files import arrays, dataset_folder, required
from metajax.types import UserError

TRAIN, VALID, TEST = 0, 1, 2
CENSUS = {"income": "income_50k", "never married": "marital_stat", "college": "education"}
"""The tasks of Census-Income and their columns, which are then no inputs."""
NO_INPUT = ("instance_weight", "vocabulary_json")
"""The population weight is no feature."""
NUMBERS = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
NUMBERS += ("num_emp", "weeks_worked")
RARE = 0.002
"""A category of fewer training rows has no column."""
COLLEGE = ("Associates", "Bachelors", "Doctorate", "Masters", "Prof school", "Some college")
AGES = ("0-17", "18-34", "35-54", "55 and older")
SCHOOLS = {
    "bachelor or higher": ("Bachelors", "Masters", "Doctorate", "Prof school"),
    "children": ("Children",),
    "high school": ("High school",),
    "some college": ("Some college", "Associates"),
}
"""Groups by education and how their categories begin; all others have no diploma."""


@dataclasses.dataclass(frozen=True)
class Labeled:
    """N rows, each with inputs and the labels of T tasks.

    Attributes:
      name: of the data.
      x: (N, D) float32 inputs; numbers have mean 0 and standard deviation 1 in training.
      label: (N, T) float32, 0 or 1, or a number where the task is one of ``numbers``.
      known: (N, T) 1 where the label is known, else 0.
      tasks: T names.
      unit: (N,) int32 whose row it is; rows of one person are not independent.
      part: (N,) int8 `TRAIN`, `VALID` or `TEST`.
      numbers: (T,) whether a task is a number, else it is a yes or a no.
      chain: whether each label can be 1 only where the one before is: view, cart, purchase.
      about: kind -> (N,) words or whole numbers known of a row's person, by which results are
        grouped; never what a label tells.
    """

    name: str
    x: np.ndarray
    label: np.ndarray
    known: np.ndarray
    tasks: tuple[str, ...]
    unit: np.ndarray
    part: np.ndarray
    numbers: tuple[bool, ...]
    chain: bool = False
    about: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def checked(rows: Labeled) -> Labeled:
    """The rows themselves.

    Raises:
      UserError: shapes that do not fit, an empty part, inputs that are not finite, or a label that
        is the same in all rows of a part.
    """
    count = len(rows.x)
    shapes = {rows.label.shape, rows.known.shape, (count, len(rows.tasks))}
    if len(shapes) > 1 or rows.unit.shape != (count,) or rows.part.shape != (count,):
        raise UserError(
            f"{rows.name}: x has {count} rows, and label, known, unit or part have another number "
            "of rows or tasks; give arrays of the same"
        )
    if not np.isfinite(rows.x).all() or not np.isfinite(rows.label[rows.known > 0]).all():
        raise UserError(f"{rows.name}: x or label has values that are no numbers; fill them in")
    for part, what in ((TRAIN, "training"), (VALID, "validation"), (TEST, "test")):
        for t, task in enumerate(rows.tasks):
            label = rows.label[(rows.part == part) & (rows.known[:, t] > 0), t]
            if len(np.unique(label)) < 2:
                value = f"always {label[0]:g}" if len(label) else "never known"
                raise UserError(
                    f"{rows.name}: the label column {task} is {value} in the {what} rows, so that "
                    "nothing can be learned of it; leave it out or give more rows"
                )
    return rows


def split_rows(unit: np.ndarray, shares: tuple[float, float], seed: int) -> np.ndarray:
    """The part (N,) of each row, all rows of a unit in the same.

    Args:
      unit: (N,) whose row it is; shares: of units in training and in validation.
      seed: of the draw.
    """
    draw = np.random.default_rng(seed).permutation(int(unit.max()) + 1) / (unit.max() + 1)
    return np.digitize(draw, np.cumsum(shares)).astype(np.int8)[unit]


def standardized(x: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The columns (N, C) with mean 0 and standard deviation 1 in the training rows."""
    known = x[part == TRAIN]
    return ((x - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)).astype(np.float32)


def read(path: Path) -> Labeled:
    """The rows of a file with arrays ``x`` (N, D) and ``label`` (N, T) of 0 and 1, or of numbers.

    ``tasks`` (T names), ``unit``, ``part`` (0 training, 1 validation, 2 test) and ``known`` may be
    there too; by default rows are dealt to the parts, 60, 15 and 25 of 100.

    Raises:
      UserError: as `checked`; a file that cannot be read or lacks an array.
    """
    found = arrays(path, ("x", "label"))
    x, label = np.asarray(found["x"], np.float32), np.asarray(found["label"], np.float32)
    if x.ndim != 2 or label.ndim != 2 or not len(x):
        raise UserError(f"{path}: x and label must be tables, rows x columns; reshape them")
    unit = np.asarray(found.get("unit", np.arange(len(x))))
    unit = np.unique(unit, return_inverse=True)[1].astype(np.int32)
    part = np.asarray(found.get("part", split_rows(unit, (0.6, 0.15), 0)), np.int8)
    known = np.asarray(found.get("known", np.ones(label.shape)), np.float32)
    tasks = tuple(map(str, found.get("tasks", [f"task {t + 1}" for t in range(label.shape[1])])))
    numbers = tuple(bool(set(np.unique(column)) - {0.0, 1.0}) for column in label.T)
    return checked(Labeled(path.stem, x, label, known, tasks, unit, part, numbers))


def census_income(
    folder: Path | str, tasks: tuple[str, ...] = ("income", "never married"), seed: int = 0
) -> Labeled:
    """Census-Income: 99,762 people, the published test part, with two or three labels each.

    The tasks are an income above 50,000 (6 %), never married (43 %), and at least some college
    (33 %). No label is an input, nor the sampling weight. The rows are dealt to training (40 %),
    validation (10 %) and test (50 %): the published training part is not among the files.

    Args:
      folder: of the data sets; tasks: of `CENSUS`; seed: of the parts.

    References: US Census Bureau, "Census-Income (KDD)", UCI 2000; the tasks of Ma et al., KDD 2018.
    """
    name = "census-income"
    path = required(dataset_folder(folder, name), "census_income_test.npz", name)
    found = arrays(path, (*CENSUS.values(), *NUMBERS, "vocabulary_json"))
    words = json.loads(str(found["vocabulary_json"]))

    def begins(column: str, *names: str) -> np.ndarray:
        return np.isin(
            found[column], [i for i, w in enumerate(words[column]) if w.startswith(names)]
        )

    every = {
        "income": begins("income_50k", "50000+"),
        "never married": begins("marital_stat", "Never married"),
        "college": begins("education", *COLLEGE),
    }
    label = np.column_stack([every[task] for task in tasks]).astype(np.float32)
    unit = np.arange(len(label), dtype=np.int32)
    part = split_rows(unit, (0.4, 0.1), seed)
    hidden = {*NO_INPUT, *NUMBERS, *(CENSUS[task] for task in tasks)}
    hidden |= {"hs_college"} if "college" in tasks else set()  # enrolled: it tells of education
    codes = [np.asarray(v, int) for k, v in found.items() if k not in hidden]
    numbers = np.column_stack([np.log1p(found[k].astype(float)) for k in NUMBERS])
    age = np.asarray(found["age"], float)[:, None] / 10 - np.arange(1, 8)
    bumps = np.exp(-(age**2))  # what depends on age does not depend on it linearly
    one_hot = [np.eye(int(c.max()) + 1, dtype=np.float32)[c] for c in codes]
    common = [c[:, c[part == TRAIN].mean(axis=0) >= RARE] for c in one_hot]
    x = np.hstack([standardized(np.hstack([numbers, bumps]), part), *common])
    known, yes = np.ones_like(label), (False,) * len(tasks)
    about = _about(found, words)
    if "college" in tasks:  # then education is a label
        del about["education"]
    return checked(Labeled(name, x, label, known, tasks, unit, part, yes, about=about))


def _about(
    column: Mapping[str, np.ndarray], words: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Kind -> the group (N,) of each person of Census-Income, in words."""
    school = [
        next((group for group, begins in SCHOOLS.items() if word.startswith(begins)), "no diploma")
        for word in words["education"]
    ]
    sex = ["women" if word == "Female" else "men" for word in words["sex"]]
    named = lambda names, place: np.asarray(names)[np.asarray(place, int)]
    return {
        "sex": named(sex, column["sex"]),
        "age": named(AGES, np.digitize(column["age"], (18, 35, 55))),
        "education": named(school, column["education"]),
        "weeks worked": named(("0", "1-51", "52"), np.digitize(column["weeks_worked"], (1, 52))),
    }


def chosen(rows: Labeled, tasks: tuple[str, ...]) -> Labeled:
    """The rows with some of the tasks, in the order given."""
    place = [rows.tasks.index(task) for task in tasks]
    numbers = tuple(rows.numbers[i] for i in place)
    kept = {"label": rows.label[:, place], "known": rows.known[:, place]}
    return dataclasses.replace(rows, tasks=tasks, numbers=numbers, **kept)


def sampled(rows: Labeled, most: dict[int, int], seed: int = 0) -> Labeled:
    """The rows with at most so many of each part, drawn at random: part -> rows."""
    draw, kept = np.random.default_rng(seed), np.zeros(len(rows.x), bool)
    for part in (TRAIN, VALID, TEST):
        place = np.flatnonzero(rows.part == part)
        kept[draw.permutation(place)[: most.get(part, len(place))]] = True
    unit = np.unique(rows.unit[kept], return_inverse=True)[1].astype(np.int32)
    about = {kind: values[kept] for kind, values in rows.about.items()}
    parts = {
        "about": about,
        "x": rows.x[kept],
        "label": rows.label[kept],
        "known": rows.known[kept],
    }
    return dataclasses.replace(rows, **parts, unit=unit, part=rows.part[kept])
