"""A data set that is ready for learning, and the lock on its test tasks."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metajax import losses
from metajax.benchmark import splits
from metajax.data import episodes, split
from metajax.data.features import represent
from metajax.data.table import Interactions
from metajax.evaluation import evaluate
from metajax.evaluation.judge import Predict, together
from metajax.results import groups, ledger, records
from metajax.results.ledger import freeze
from metajax.settings import Data, SplitOptions
from metajax.types import Episode, MetaLearner, Params, UserError

__all__ = [
    "Problem",
    "freeze",
    "groups_of",
    "laid_out",
    "load",
    "problem_of",
    "valid_error",
    "with_columns",
]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set that is ready for learning: split, with item columns, and on the device.

    Attributes:
      table: the interactions, with item columns ``bias`` and ``factor``.
      split: who is seen when.
      mean: the mean training rating.
      train: source of meta-training tasks. The item columns that a task sees were estimated
        without that task's own ratings (cross-fitting over folds of users).
      valid: source and episodes of meta-validation, all its scenarios together; the test uses the
        same source, so its columns are estimated from all training rows.
      example: one episode, for shapes.
      error: the error on meta-validation that choices minimize: the squared error of ratings (on
        whole stars the absolute one favors an arm that predicts the median), or the share of
        misordered pairs where lists are judged.
      shots: the numbers of support rows that choices are made at; empty for all rows there are.
      scale: the standard deviation of the training ratings after item biases are subtracted.
      unit: how many units of the ratings as they were read one unit of this problem's ratings is:
        1, unless they were rescaled to 1..5. Errors are printed in the unit that was read.
      events: whether labels are 1 for what a person did and 0 for items drawn at random.
      predict: how tasks are scored; `evaluate.prequential` in a stream.
      opened: the ledger's lines for each opening of the test tasks, all after the same choice.
    """

    table: Interactions
    split: split.Split
    mean: float
    train: episodes.Source
    valid: tuple[episodes.Source, Episode]
    example: Episode
    error: losses.Loss = losses.squared_error
    shots: tuple[int, ...] = ()
    scale: float = 1.0
    unit: float = 1.0
    events: bool = False
    predict: Predict = evaluate.predictions
    opened: list[records.Opening] = dataclasses.field(default_factory=list)

    def open_test(
        self, ticket: records.Opening, experiment: str
    ) -> tuple[episodes.Source, dict[str, Episode]]:
        """Columns and episodes of each test scenario, once everything is `freeze`-d.

        The opening is written into the ledger.

        Args:
          ticket: of `freeze`.
          experiment: who opens.

        Raises:
          UserError: no ticket, or the tasks were opened before with another choice.
        """
        if not isinstance(ticket, records.Opening):
            raise UserError("test tasks are closed: call benchmark.freeze after the last choice")
        choice = (ticket.config_hash, ticket.settings_hash)
        if self.opened and choice != (self.opened[0].config_hash, self.opened[0].settings_hash):
            raise UserError(
                f"test tasks were opened for configuration {self.opened[0].config_hash} with other "
                "settings; a new choice needs a new split: give another --split-seed"
            )
        tests = self.split.checksum()
        line = ledger.enter(ticket, experiment, tests, published=records.RESULTS)
        self.opened.append(line)
        num_query = self.split.num_query
        ready = {name: laid_out(tasks, num_query) for name, tasks in self.split.test.items()}
        return self.valid[0], ready


def laid_out(tasks: split.Tasks, num_query: int) -> Episode:
    """Stored tasks as episodes (T, ...) of row indices on the device.

    Supports have one row at least, which is padding where there is none.
    """
    widest = max(1, int((tasks.length if tasks.shots is None else tasks.shots).max()))
    if tasks.shots is None:
        widest = max(1, widest - num_query)
    return jax.device_put(episodes.fixed(tasks, num_query, widest))


def load(
    data: Data,
    options: SplitOptions | None = None,
    num_support: int = 64,
    error: losses.Loss = losses.squared_error,
) -> Problem:
    """Reads, splits and represents a data set, its ratings brought to the scale 1..5.

    Args:
      options: of the split; else the defaults.
      num_support: support rows of the example that parameters are made for.
      error: of ratings, see `Problem`; choices from events minimize the share of misordered pairs.

    Raises:
      UserError: the data set is missing or damaged, or too small for the protocol.
    """
    made = splits.make(data, options or SplitOptions())
    error = losses.misordered if made.events else error
    ready = problem_of(made.table, made.split, num_support, error)
    return dataclasses.replace(ready, predict=made.predict, unit=made.unit, events=made.events)


def problem_of(
    table: Interactions,
    parts: split.Split,
    num_support: int = 64,
    error: losses.Loss = losses.squared_error,
    shots: tuple[int, ...] = (),
) -> Problem:
    """The problem of a table under a split, whose validation scenarios are judged as one.

    Where tasks are items, the table is `swapped`: its users are the tasks.

    Raises:
      UserError: the split has no meta-validation tasks.
    """
    if not parts.valid:
        raise UserError(
            f"{table.name}: the {parts.protocol} split has no meta-validation tasks, which "
            "settings are chosen on; give one that has"
        )
    known = represent.represent(table, parts.train_rows)
    source = episodes.source_of_folds(parts.train, known.table, known.fold, known.held_out)
    example = _example(source, num_support, parts.num_query)
    valid = together([laid_out(tasks, parts.num_query) for tasks in parts.valid.values()])
    first = next(iter(parts.valid.values()))
    ready = (episodes.source_of_users(first, known.table), valid)
    return Problem(
        known.table, parts, known.mean, source, ready, example, error, shots, known.scale
    )


@partial(jax.jit, static_argnums=(1, 2))
def _example(source: episodes.Source, num_support: int, num_query: int) -> Episode:
    """A training episode, which parameters are made for."""
    return episodes.draw(jax.random.key(0), source, num_support, num_query)


def with_columns(problem: Problem, change: Callable[[episodes.Source], episodes.Source]) -> Problem:
    """The problem with the columns changed of what it trains on and of what it is judged on."""
    train, (others, tasks) = change(problem.train), problem.valid
    num_support = problem.example.support.mask.shape[0]
    example = _example(train, num_support, problem.split.num_query)
    return dataclasses.replace(problem, train=train, valid=(change(others), tasks), example=example)


def valid_error(learner: MetaLearner, params: Params, problem: Problem) -> jax.Array:
    """The problem's error on meta-validation, mean over its shots: what choices are made by."""
    source, tasks = problem.valid

    def error(alter: evaluate.Alteration) -> jax.Array:
        key, fetch = jax.random.key(0), episodes.fetch_from(source)
        scores = problem.predict(learner, params, tasks, key, fetch=fetch, alter=alter)
        return problem.error(scores, tasks.query.label, tasks.query.mask)

    if not problem.shots:
        return error(evaluate.unaltered)
    of_shots = lambda shots: error(evaluate.first_shots(shots))
    return jnp.mean(jax.lax.map(of_shots, jnp.asarray(problem.shots)))


def groups_of(problem: Problem, people: bool = True) -> dict[str, groups.Kinds]:
    """Test scenario -> the groups of its tasks, for a record: by activity, and by what is known.

    Activity is the number of training rows, or of a task's own rows where none was trained on.

    Args:
      people: whether tasks are people, whose features make groups, too.
    """
    table, parts = problem.table, problem.split
    seen = np.bincount(table.user[parts.train_rows], minlength=table.num_users)
    what, found = "rows" if problem.events else "ratings", {}
    for scenario, tasks in parts.test.items():
        own = seen[tasks.owner]
        counts = {f"training {what}": own} if own.any() else {what: tasks.length}
        features = table.user_features if people else None
        found[scenario] = groups.of_tasks(tasks.owner, counts, features)
    return found
