"""The records that an edition of the paper is built from, and what they say."""

import dataclasses
import fnmatch
import functools
import pathlib
import tomllib
from typing import NamedTuple

import numpy as np

from metajax.results import intervals, records, registered, tables
from metajax.types import UserError

HERE = pathlib.Path(__file__).resolve().parent
BASELINES = (
    *("A0 item mean", "A1 bias", "A2 fold-in", "A7 hier. Bayes", "A3 joint", "A4 fine-tuned"),
    *("A8 boosting", "A8 boosting alone", "A9 stack"),
)
"""Arms that are no meta-learners; older records lack the last three."""
SCENARIOS = ("user_cold", "item_cold", "both_cold", "warm")
ALPHA = 0.05
PRIMARY = "mse"
"""What arms are compared by: the squared error of a task, whose root over tasks is the RMSE."""


@dataclasses.dataclass(frozen=True)
class Edition:
    """What an edition of the paper is built from; see editions.toml."""

    dataset: str
    base: str
    required: tuple[str, ...]
    sinusoid: tuple[str, ...]
    optional: tuple[str, ...]


class Method(NamedTuple):
    """A meta-learner of a record, beside the baselines of the same record."""

    record: str
    arm: str

    @property
    def name(self) -> str:
        """Its name without the number of the arm."""
        return records.label(self.arm)


class Against(NamedTuple):
    """Methods by how they compare with a baseline, at 5 per cent after Holm."""

    better: list[str]
    worse: list[str]
    open: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The records of an edition; two are equal only if they are one, so that each can be a key.

    Attributes:
      edition: what was asked for.
      ratings: name -> record, all on one data set and split; the base first.
      sinusoid: name -> record.
      omniglot: name -> record, trained with labels.
      unlabeled: name -> record of Omniglot, trained without.
      tables: name -> record of the field's tables.
      ranking: name -> record of a catalogue ranked for new users.
      fresh: name -> record of a split that was registered before it was opened.
    """

    edition: Edition
    ratings: dict[str, records.Record]
    sinusoid: dict[str, records.Record]
    omniglot: dict[str, records.Record] = dataclasses.field(default_factory=dict)
    unlabeled: dict[str, records.Record] = dataclasses.field(default_factory=dict)
    tables: dict[str, records.Record] = dataclasses.field(default_factory=dict)
    ranking: dict[str, records.Record] = dataclasses.field(default_factory=dict)
    fresh: dict[str, records.Record] = dataclasses.field(default_factory=dict)

    @property
    def base(self) -> records.Record:
        """The record whose baselines stand in the tables."""
        return next(iter(self.ratings.values()))

    @property
    def base_split(self) -> records.Split:
        """The split of the base."""
        return self.base.split or records.Split("none")

    def everything(self) -> dict[str, records.Record]:
        """All records, by name."""
        others = self.omniglot | self.unlabeled | self.tables | self.ranking | self.fresh
        return self.ratings | self.sinusoid | others

    @functools.cached_property
    def registered(self) -> list[registered.Comparison]:
        """The registered comparisons of the fresh splits whose splits are all there."""
        return registered.whole(list(self.fresh.values()))

    @property
    def scenarios(self) -> list[str]:
        """The test scenarios, in the order of the tables."""
        return [s for s in SCENARIOS if s in self.base.tasks]

    def methods(self) -> list[Method]:
        """The meta-learners of all records; one that two records share stands once."""
        found = {
            arm: Method(name, arm)
            for name, record in self.ratings.items()
            for arm in record.names(records.METHOD)
        }
        return list(found.values())

    def gap(self, method: Method, baseline: str, scenario: str = "user_cold") -> intervals.Interval:
        """Squared error of a method minus that of a baseline of its record, paired by task."""
        record = self.ratings[method.record]
        mine = record.of(scenario, method.arm, "all", PRIMARY)
        return records.difference(mine, record.of(scenario, baseline, "all", PRIMARY))

    def adaptation(self, method: Method, scenario: str = "user_cold") -> intervals.Interval:
        """Squared error with shuffled support labels minus that without (control N1)."""
        record = self.ratings[method.record]
        shuffled = record.of(scenario, method.arm, "shuffled", PRIMARY)
        return records.difference(shuffled, record.of(scenario, method.arm, "all", PRIMARY))

    def adapts(self, method: Method, scenario: str = "user_cold") -> str:
        """What a method adapts to, by its controls in squared error; see `tables.adaptation`."""
        return tables.adaptation(self.ratings[method.record], scenario, method.arm, PRIMARY)

    def diverged(self, method: Method, scenario: str = "user_cold") -> bool:
        """Whether a method diverged; then it is compared with nothing."""
        record = self.ratings[method.record]
        return tables.diverged(record, scenario, method.arm, metric=PRIMARY)

    def against(self, baseline: str, scenario: str = "user_cold") -> Against:
        """The methods better than a baseline, worse, and neither, with p-values after Holm.

        Methods whose record has no such baseline, or that diverged, are left out.
        """
        methods = [m for m in self.methods() if baseline in self.ratings[m.record].names()]
        methods = [m for m in methods if not self.diverged(m, scenario)]
        gaps = [self.gap(m, baseline, scenario) for m in methods]
        p = intervals.holm(np.array([gap.p for gap in gaps]))
        sides = Against([], [], [])
        for method, gap, value in zip(methods, gaps, p, strict=True):
            side = sides.open if value >= ALPHA else sides.worse if gap.mean > 0 else sides.better
            side.append(method.name)
        return sides


def editions() -> dict[str, Edition]:
    """The editions that editions.toml declares."""
    declared = tomllib.loads((HERE / "editions.toml").read_text())
    return {
        name: Edition(
            e["dataset"], e["base"], *(tuple(e[k]) for k in ("required", "sinusoid", "optional"))
        )
        for name, e in declared.items()
    }


def load(edition: Edition, folder: pathlib.Path) -> Results:
    """The records of an edition in a folder and in the folders right below it.

    Raises:
      UserError: a required record is missing, or two are of different data or splits.
    """
    folders = [folder, *sorted(p for p in folder.glob("*") if p.is_dir())]
    files = {p.stem: p for place in folders for p in records.files(place)}

    def one(name: str) -> records.Record:
        if name not in files:
            raise UserError(
                f"the paper needs the record {name} and {folder} has none; run its experiment "
                "with --publish, or remove it from paper/editions.toml"
            )
        return records.read(files[name])

    ending = f"-{edition.dataset}"
    required = [f"{e}{ending}" for e in edition.required]
    first = f"{edition.base}{ending}"
    names = [first, *required, *(n for n in files if n.endswith(ending))]
    found = {name: one(name) for name in dict.fromkeys(names)}
    ratings = {n: r for n, r in found.items() if n in required or _is_rating(r)}
    splits = {name: r.split.checksum for name, r in ratings.items() if r.split}
    if len(set(splits.values())) > 1:
        told = ", ".join(f"{name}: {checksum}" for name, checksum in splits.items())
        raise UserError(f"the records are of different splits ({told}); run them on one")
    wanted = [n for n in files if any(fnmatch.fnmatch(n, pattern) for pattern in edition.optional)]
    extra = {name: one(name) for name in wanted}
    labeled = lambda name: "unsupervised" not in name
    return Results(
        edition,
        ratings,
        {name: one(name) for name in edition.sinusoid},
        {n: r for n, r in extra.items() if n.startswith("omniglot-") and labeled(n)},
        {n: r for n, r in extra.items() if n.startswith("omniglot-") and not labeled(n)},
        {n: r for n, r in extra.items() if n.startswith("tables-")},
        {n: r for n, r in extra.items() if n.startswith("ranking-")},
        {n: r for n, r in extra.items() if n.startswith("fresh-")},
    )


def _is_rating(record: records.Record) -> bool:
    """Whether a record is a table of rating arms with the baselines."""
    return "user_cold" in record.tasks and "A2 fold-in" in record.names()
