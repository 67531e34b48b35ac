"""A data set that is ready to be learned, and the lock on its test tasks."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.data import episodes, split
from metajax.data.features import represent
from metajax.data.sources import named
from metajax.data.table import Interactions, in_stars
from metajax.evaluation import evaluate
from metajax.results import records
from metajax.settings import Data, SplitOptions
from metajax.types import Episode, MetaLearner, Params, UserError


class Frozen(NamedTuple):
    """What was fixed before the test tasks were opened: the ticket that `Problem.open_test` wants.

    Attributes:
      config_hash: of the resolved configuration.
      settings_hash: of every choice made on meta-validation.
      frozen: when, in UTC.
    """

    config_hash: str
    settings_hash: str
    frozen: str


def freeze(config: Any, settings: Mapping[str, Any]) -> Frozen:
    """The ticket for the test tasks: nothing may be chosen after it.

    Args:
      config: the resolved configuration, a dataclass.
      settings: what was chosen on meta-validation, by arm.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Frozen(records.config_hash(config), digest, records.now())


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set that is ready to be learned: represented, split, on the device.

    Attributes:
      table: the interactions, with item columns ``bias`` and ``factor``.
      split: who is seen when.
      mean: the mean training rating.
      train: source of meta-training tasks, whose item columns do not know the task's ratings.
      valid: source and episodes of meta-validation; its columns are those of the test, too.
      example: one episode, for shapes.
      error: what choices minimize: the absolute error; where lists are judged by their order, the
        share of misordered pairs.
      shots: the numbers of support rows that choices are made at; empty for all rows there are.
      scale: the standard deviation of what item biases leave of the training ratings.
      unit: how many units of the ratings as they were read a rating of this problem's is: 1, unless
        they were brought to 1..5. Errors are told in the former.
      opened: the tickets that the test tasks were opened with, at most one.
    """

    table: Interactions
    split: split.Split
    mean: float
    train: episodes.Source
    valid: tuple[episodes.Source, Episode]
    example: Episode
    error: losses.Loss = losses.absolute_error
    shots: tuple[int, ...] = ()
    scale: float = 1.0
    unit: float = 1.0
    opened: list[Frozen] = dataclasses.field(default_factory=list)

    def open_test(self, ticket: Frozen) -> tuple[episodes.Source, dict[str, Episode]]:
        """Columns and episodes of each test scenario, once everything is `freeze`-d.

        Raises:
          UserError: no ticket, or the tasks were opened before with another choice.
        """
        if not isinstance(ticket, Frozen):
            raise UserError("test tasks are closed: call benchmark.freeze after the last choice")
        if self.opened and self.opened[0][:2] != ticket[:2]:
            raise UserError(
                f"test tasks were opened for configuration {self.opened[0].config_hash} with other "
                "settings; a new choice needs a new split: give another --split-seed"
            )
        self.opened.append(ticket)
        tests = self.split.test
        widest = max(int((t.length - self.split.query_size(t)).max()) for t in tests.values())
        ready = {
            name: jax.tree.map(jnp.asarray, episodes.fixed(tasks, self.split.num_query, widest))
            for name, tasks in tests.items()
        }
        return self.valid[0], ready


def load(data: Data, options: SplitOptions | None = None, num_support: int = 64) -> Problem:
    """Reads, splits and represents a data set, its ratings brought to the scale 1..5.

    Args:
      options: of the split; else the defaults.
      num_support: support rows of the example that parameters are made for.

    Raises:
      UserError: the data set is missing or damaged, or too small for the protocol.
    """
    options = options or SplitOptions()
    table, unit = in_stars(named.load(data.dataset, data.data_dir))
    parts = split.melu(table, options.split_seed, redraw=options.redraw)
    return dataclasses.replace(problem_of(table, parts, num_support), unit=unit)


def problem_of(
    table: Interactions,
    parts: split.Split,
    num_support: int = 64,
    error: losses.Loss = losses.absolute_error,
    shots: tuple[int, ...] = (),
) -> Problem:
    """The problem of a table under a split with one validation scenario.

    Where tasks are items, the table is `swapped`: its users are the tasks.
    """
    known = represent.represent(table, parts.train_rows)
    source = episodes.source_of_folds(parts.train, known.table, known.fold, known.held_out)
    example = episodes.draw(jax.random.key(0), source, num_support, parts.num_query)
    (valid,) = parts.valid.values()
    fixed = jax.tree.map(jnp.asarray, episodes.fixed(valid, parts.num_query))
    ready = (episodes.source_of_users(valid, known.table), fixed)
    return Problem(
        known.table, parts, known.mean, source, ready, example, error, shots, known.scale
    )


def with_columns(problem: Problem, change: Callable[[episodes.Source], episodes.Source]) -> Problem:
    """The problem with the columns changed of what it trains on and of what it is judged on."""
    train, (others, tasks) = change(problem.train), problem.valid
    num_support = problem.example.support.mask.shape[0]
    example = episodes.draw(jax.random.key(0), train, num_support, problem.split.num_query)
    return dataclasses.replace(problem, train=train, valid=(change(others), tasks), example=example)


def valid_error(learner: MetaLearner, params: Params, problem: Problem) -> jax.Array:
    """The problem's error on meta-validation, mean over its shots: what choices are made by."""
    source, tasks = problem.valid

    def error(alter: evaluate.Alteration) -> jax.Array:
        scores = evaluate.predictions(learner, params, source, tasks, jax.random.key(0), alter)
        return problem.error(scores, tasks.query.label, tasks.query.mask)

    if not problem.shots:
        return error(evaluate.unaltered)
    of_shots = lambda shots: error(evaluate.first_shots(shots))
    return jnp.mean(jax.lax.map(of_shots, jnp.asarray(problem.shots)))
