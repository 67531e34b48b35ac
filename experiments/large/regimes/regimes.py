"""Where does adapting help beyond reading the history? Long histories, drift, new domains.

In each regime these arms are compared: the history read in context, a meta-learned adapter, LoRA
without meta-learning, a closed-form head, and no adaptation. The headroom is measured first: how
much a next-item recommender gains from a longer context, which bounds what an adapter can gain.

References: Hu et al., ICLR 2022 (LoRA); Bertinetto et al., ICLR 2019 (ridge head); Raghu et al.,
ICLR 2020; Brown et al., NeurIPS 2020; Hu, Koren, Volinsky, ICDM 2008; Kalman, 1960.
Run: python -m experiments regimes
     python -m experiments regimes --from-records prints the stored tables.
Published: none under these protocols.
Deviates: small backbones (two blocks of 64, trunks of 32); the data name no categories, so that a
task is a shelf of 48 items drawn from one domain instead.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from metajax.results import ledger, plots
from metajax.results import records as report
from metajax.settings import Data, Hardware, Output, Positive, Presets, replace
from metajax.types import UserError

from .. import report as large_report
from ..sasrec import sasrec
from . import domains as regimes_domains
from . import drift as regimes_drift
from . import history, shelves
from . import window as regimes_window
from . import world as regimes_world

LONG, DRIFT, ROOM = "history longer than the window", "people who drift", "headroom of context"
SHELF = "a shelf of another domain"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    output: Output = Output()
    hardware: Hardware = Hardware()
    data: Data = Data()
    window: bool = True
    """Run the long histories, which exceed the recommender's window, and their headroom."""
    domains: bool = True
    """Run the new domains (shelves: small sets of items of another domain)."""
    drift: bool = True
    """Run the people whose taste drifts."""
    seeds: Positive = 3
    """Training seeds of shelves and drift."""
    window_seeds: Positive = 1
    """Training seeds of the long window: each trains a recommender."""
    window_steps: Positive = 800
    """Training steps of each of these recommenders."""
    meta_steps: int = 40
    """Outer steps of the adapters of the long window."""
    people: Positive = 150
    """Test people of the long window, at most."""
    shelf_steps: Positive = 200
    """Outer steps of the arms that are trained on shelves."""
    shelves: Positive = 40
    """Shelves of the test."""
    drift_steps: Positive = 400
    """Outer steps of the arms that are trained on people who drift."""
    drifters: Positive = 300
    """Test people who drift."""
    drift_world: int = 2
    """Seed of the world with drift; settings were chosen in a world with another seed."""

    PRESETS: ClassVar[Presets] = {
        "quick": {
            "dataset": "ml-100k",
            "seeds": 1,
            "window_steps": 50,
            "meta_steps": 5,
            "people": 40,
        },
        "gpu": {
            "seeds": 10,
            "window_seeds": 5,
            "window_steps": 20_000,
            "meta_steps": 1_000,
            "people": 2_000,
        },
    }


class Book:
    """Scores of one record as they come: by regime, arm and condition.

    Args:
      name: of the record.
    """

    def __init__(self, name: str) -> None:
        self.name = f"regimes-{name}"
        self.scores: dict[report.Key, np.ndarray] = {}
        self.bytes: dict[str, int] = {}
        self.arms: dict[str, list[str]] = {}
        self.conditions: dict[str, list[tuple[str, str]]] = {}

    def keep(self, regime: str, arm: str, condition: str, metric: str, values: np.ndarray) -> None:
        """Stores scores (S, T)."""
        self.scores[report.Key(regime, arm, condition, metric)] = values
        arms = self.arms.setdefault(regime, [])
        if arm not in arms:
            arms.append(arm)
        columns = self.conditions.setdefault(regime, [])
        if (condition, metric) not in columns:
            columns.append((condition, metric))

    def written(
        self,
        config: Config,
        seconds: dict[str, float],
        settings: dict[str, Any],
        data: report.Data,
        opened: report.Opening,
        **extra: Any,
    ) -> report.Record:
        """The record, written."""
        arms = {arm: None for names in self.arms.values() for arm in names}
        return large_report.written(
            self.name, "regimes", "several", list(arms), config, self.scores, seconds,
            opened=[opened], data=data, settings=settings,
            extra={"arms_of": self.arms, "conditions_of": self.conditions, "bytes_of": self.bytes}
            | extra,
        )  # fmt: skip


def opened_for(config: Config, book: Book, choices: dict[str, Any], *tests: Any) -> report.Opening:
    """The line of the ledger for the test tasks of a regime.

    Args:
      choices: what was chosen on validation, by arm.
      tests: what the test tasks are drawn from.
    """
    return report.open_tests(config, choices, book.name, ledger.checksum(book.name, *tests))


def drifting(config: Config) -> report.Record:
    """Runs the people who drift."""
    book = Book("drift")
    world = regimes_world.World(seed=config.drift_world)
    ready, seconds, settings = regimes_drift.trained(
        config.seeds, config.drift_steps, world, config.hardware.devices
    )
    opened = opened_for(config, book, settings, world.seed, config.drifters)
    for (arm, drift), values in regimes_drift.judged(ready, world, config.drifters).items():
        book.keep(DRIFT, arm, drift, "mse", values)
    return book.written(
        config, seconds, settings, report.Data("synthetic"), opened, world=world.seed
    )


def shelved(config: Config, pair: str) -> report.Record:
    """Runs the shelves of a pair of domains."""
    book = Book(f"domains-{pair.replace(' ', '-')}")
    domains = regimes_domains.read(pair, config.data.data_dir)
    made = regimes_domains.arms(domains, config.shelf_steps, config.seeds, config.hardware.devices)
    settings = {arm: one.settings for arm, one in made.items()}
    seconds = {arm: one.seconds for arm, one in made.items()}
    opened = opened_for(config, book, settings, config.shelves)
    test = shelves.shelves(domains, 2)
    for (arm, shots), values in regimes_domains.judged(pair, test, made, config.shelves).items():
        book.keep(f"{SHELF}, {pair}", arm, f"{shots} people", "ndcg@10", values)
    return book.written(config, seconds, settings, report.Data(pair), opened)


def long_window(config: Config) -> report.Record:
    """Runs the headroom and the histories longer than the window."""
    book = Book("window")
    data = sasrec.load(sasrec.Config(data=config.data))
    plan = history.Plan(
        64, config.window_steps, config.meta_steps, config.people, config.hardware.devices
    )
    ready = regimes_window.trained(plan, data, config.window_seeds)
    settings = regimes_window.settings_of(ready)
    opened = opened_for(config, book, settings, data.digest(), config.people)
    scores, room = regimes_window.judged(plan, ready)
    seconds, size = ready[-1][0].seconds, ready[-1][0].bytes
    for context, values in room.items():
        book.keep(ROOM, "recommender as it is", f"{context} items", "ndcg@10", values)
    for arm, values in scores.items():
        book.keep(LONG, arm, "10 to 19 in the window", "ndcg@10", values)
    book.bytes = size
    people = len(scores["no adaptation"][0])
    about = report.Data(data.name, data.digest())
    return book.written(config, seconds, settings, about, opened, people=people)


def run(config: Config) -> list[report.Record]:
    """Runs the regimes asked for, each of which has a record of its own."""
    config = replace(config, out=config.output.folder("regimes"))
    pairs = [functools.partial(shelved, pair=pair) for pair in regimes_domains.PAIRS]
    wanted = [(config.drift, drifting), *((config.domains, pair) for pair in pairs)]
    wanted.append((config.window, long_window))
    return [make(config) for on, make in wanted if on]


def stored(config: Config) -> list[report.Record]:
    """The published records of the regimes asked for.

    Raises:
      UserError: there is none.
    """
    pairs = {f"domains-{p.replace(' ', '-')}": config.domains for p in regimes_domains.PAIRS}
    named = {"drift": config.drift, **pairs, "window": config.window}
    wanted = [f"regimes-{name}" for name, on in named.items() if on]
    there = [name for name in wanted if report.path_of(name).is_file()]
    if not there:
        raise UserError(f"no record {', '.join(wanted)}; run the experiment first (see --help)")
    return [report.stored(name) for name in there]


def of_regime(record: report.Record, regime: str) -> report.Record:
    """The record as if it held one regime alone."""
    size = record.extra["bytes_of"]
    arms = (record.arm(name) for name in record.extra["arms_of"][regime])
    sized = (
        dataclasses.replace(arm, bytes_per_task=size.get(arm.name, 0) if size else None)
        for arm in arms
    )
    return dataclasses.replace(record, scenario=regime, arms=tuple(sized))


def show(record: report.Record) -> None:
    """Prints a table per regime, and each arm's distance from no adaptation."""
    for regime, columns in record.extra["conditions_of"].items():
        own = of_regime(record, regime)
        large_report.show(own, [tuple(column) for column in columns], regime.capitalize())
        condition, metric = columns[-1]
        pairs = [(arm, "no adaptation") for arm in own.names() if arm != "no adaptation"]
        large_report.differences(own, f"{metric}, {condition}", (condition, metric), pairs)


def pictures(record: report.Record, folder: pathlib.Path) -> None:
    """Saves a picture of each regime: its arms in the last column of its table, or the headroom."""
    for regime, columns in record.extra["conditions_of"].items():
        path = folder / f"{regime.replace(', ', '-').replace(' ', '-')}.png"
        if regime == ROOM:
            headroom(record, columns, path)
        else:
            condition, metric = columns[-1]
            large_report.plotted(of_regime(record, regime), condition, metric, path)
        print(f"plot   {path}")


def headroom(record: report.Record, columns: Sequence[tuple[str, str]], path: pathlib.Path) -> None:
    """Saves what more context is worth to the recommender as it is."""
    found = [report.interval(record.of(ROOM, "recommender as it is", c, m), m) for c, m in columns]
    sizes = [int(condition.split()[0]) for condition, _ in columns]
    with plots.page(path) as axes:
        bars = [[r.mean - r.low for r in found], [r.high - r.mean for r in found]]
        axes.errorbar(sizes, [r.mean for r in found], yerr=bars, **plots.look(0))
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.set_xlabel(f"items of context ({record.dataset}, new people)")
        axes.set_ylabel("nDCG@10, all items")
        axes.grid(alpha=0.25, linewidth=0.4)


def main(config: Config) -> list[report.Record]:
    """The records of the experiment, run or read, their tables and pictures."""
    records = stored(config) if config.output.from_records else run(config)
    for record in records:
        show(record)
        pictures(record, config.output.folder("regimes"))
    return records
