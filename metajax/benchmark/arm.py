"""What the judge asks of an arm, whatever it is made of: scores for the tasks it is given."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from metajax.data.episodes import Source
from metajax.results.schema import BASELINE
from metajax.types import Episode

Scores = jax.Array | np.ndarray


class Arm(Protocol):
    """A recommender that is ready for the test, every choice made.

    Attributes:
      settings: what was chosen on meta-validation.
      history: name -> (S, blocks), empty for an arm that was not meta-trained.
      seconds: time taken to train and choose.
      num_gradients: gradients of a task's loss that adapting to one task takes.
    """

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def history(self) -> dict[str, np.ndarray]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def num_gradients(self) -> int: ...

    def predict(self, source: Source, tasks: Episode, key: jax.Array) -> Scores:
        """Scores (S, T, Q) of the query rows of T tasks by S seeds, 1 where there is no chance.

        Args:
          source: the columns that the tasks point to.
          tasks: indices from `episodes.fixed`, leaves (T, ...). The labels of the query are there
            to be judged by, and are not read.
          key: for an arm that draws while it adapts.
        """
        ...


class Fitted(NamedTuple):
    """An arm that is any function of tasks, such as a model of another library.

    Attributes: as `Arm`; ``predict`` is given, and ``role`` is what it is in a table, one of
      `records.ROLES`.
    """

    predict: Callable[[Source, Episode, jax.Array], Scores]
    settings: dict[str, Any]
    seconds: float
    history: dict[str, np.ndarray] = {}  # noqa: RUF012  nothing writes to it
    num_gradients: int = 0
    role: str = BASELINE
