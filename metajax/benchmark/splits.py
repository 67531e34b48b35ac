"""The protocols that ``--protocol`` names: each is a rule of `metajax.data.split` with options."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax import settings
from metajax.data import negatives, split
from metajax.data.sources import named
from metajax.data.table import Interactions, in_stars, stars_of, swapped
from metajax.evaluation import evaluate
from metajax.evaluation.judge import Predict
from metajax.settings import Data, Protocol, SplitOptions
from metajax.types import UserError

Cut = tuple[Interactions, split.Split]


class Made(NamedTuple):
    """A data set under a protocol.

    Attributes:
      table: ratings on the scale 1..5; where tasks are items, `swapped`.
      split: which tasks are for training, validation and the test, with labels on that scale.
      predict: how tasks are scored.
      unit: how many units of the ratings as they were read one unit of the table's ratings is.
      events: whether labels are 1 for what a person did and 0 for items drawn at random.
    """

    table: Interactions
    split: split.Split
    predict: Predict
    unit: float
    events: bool


class Rule(NamedTuple):
    """A protocol.

    Attributes:
      make: (table, data, options, **keywords) -> the table that tasks are made of, and the split.
      options: setting of `SplitOptions` -> the keyword of ``make`` that it sets, "" where ``make``
        reads the setting itself. Any other setting is refused for this protocol.
      predict: how tasks are scored.
    """

    make: Callable[..., Cut]
    options: Mapping[str, str]
    predict: Predict = evaluate.predictions


def by(make: Callable[..., split.Split]) -> Callable[..., Cut]:
    """The `Rule.make` of a function (table, seed, **keywords) -> split."""

    @functools.wraps(make)
    def made(table: Interactions, data: Data, options: SplitOptions, **given: Any) -> Cut:
        del data
        return table, make(table, options.split_seed, **given)

    return made


def from_file(table: Interactions, data: Data, options: SplitOptions) -> Cut:
    """The split that a task file (``--tasks``) describes.

    Raises:
      UserError: no file was given, or it does not fit the table.
    """
    del data
    return table, split.load(_needed(options, "tasks"), table)


def of_domains(table: Interactions, data: Data, options: SplitOptions, **given: Any) -> Cut:
    """Users of two domains, who are new in the table's and known in that of ``--source-domain``.

    Raises:
      UserError: no source domain was given, or it shares too few users.
    """
    source = named.load(_needed(options, "source_domain"), data.data_dir)
    return split.domain_transfer(source, table, options.split_seed, **given)


ROWS = {"min_rows": "min_rows", "max_rows": "max_rows"}
MOST = {"support_rows": "max_support", "query_rows": "max_query"}
RULES: dict[Protocol, Rule] = {
    "melu": Rule(by(split.melu), {**ROWS, "query_rows": "num_query", "redraw": "redraw"}),
    "users": Rule(by(split.user_disjoint), {**ROWS, "query_rows": "num_query", "fold": "fold"}),
    "first-k": Rule(by(split.first_k), {**ROWS, "support_rows": "num_support"}),
    "tanp": Rule(by(split.tanp), {**ROWS, "support_rows": "num_support"}),
    "time": Rule(by(split.global_time), MOST),
    "stream": Rule(by(split.prequential), MOST, evaluate.prequential),
    "leave-one-out": Rule(
        by(functools.partial(split.leave_one_out, max_support=100)),
        {"min_rows": "min_rows", "support_rows": "max_support"},
    ),
    "items": Rule(by(split.ctr_warmup), {"min_rows": "hot", "support_rows": "per_phase"}),
    "domains": Rule(of_domains, {**MOST, "source_domain": ""}),
    "file": Rule(from_file, {"tasks": ""}),
}


def make(data: Data, options: SplitOptions) -> Made:
    """The data set under the protocol that was asked for, its ratings brought to the scale 1..5.

    Events become ratings, see `negatives.ratings_from_events`; the most rows of a task are then
    doubled, unless given.

    Raises:
      UserError: the data set is missing or damaged, or does not have what the protocol needs; an
        option is not one of the protocol's.
    """
    rule = RULES[options.protocol]
    given = _given(rule, options)
    read = named.chosen(data)
    events = negatives.is_implicit(read)
    if events:
        if "max_rows" in rule.options:
            most = inspect.signature(rule.make).parameters["max_rows"].default
            given.setdefault("max_rows", 2 * most)
        read = negatives.ratings_from_events(read, options.split_seed)
        print(
            f"{read.name}: {len(read):,} rows after each event was set beside an item that its "
            "person did not meet; lists are judged by their order",
            file=sys.stderr,
        )
    read, parts = rule.make(read, data, options, **given)
    table, unit = in_stars(read)
    if unit != 1.0:
        parts = _relabeled(parts, lambda label: stars_of(label, read.scale))
    table = table if parts.side == "user" else swapped(table)
    return Made(table, parts, rule.predict, unit, events)


def _relabeled(parts: split.Split, change: Callable[[np.ndarray], np.ndarray]) -> split.Split:
    """The split with every label changed."""
    of = lambda tasks: tasks._replace(label=change(tasks.label))
    all_of = lambda scenarios: {name: of(tasks) for name, tasks in scenarios.items()}
    return dataclasses.replace(
        parts, train=of(parts.train), valid=all_of(parts.valid), test=all_of(parts.test)
    )


def _given(rule: Rule, options: SplitOptions) -> dict[str, Any]:
    """The keywords of the rule that options were given for.

    Raises:
      UserError: an option is not one of the protocol's.
    """
    always, declared, given = ("protocol", "split_seed"), SplitOptions(), {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in always or value == getattr(declared, field.name):
            continue
        if field.name not in rule.options:
            known = " ".join(map(settings.option, rule.options))
            raise UserError(
                f"{settings.option(field.name)} says nothing to --protocol {options.protocol}; "
                f"its own options are {known}"
            )
        if rule.options[field.name]:
            given[rule.options[field.name]] = value
    return given


def _needed(options: SplitOptions, name: str) -> Any:
    """The value of an option that the protocol cannot do without."""
    value = getattr(options, name)
    if not value:
        raise UserError(f"--protocol {options.protocol} needs {settings.option(name)}")
    return value
