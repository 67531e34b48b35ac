"""What the judge needs of an arm (a row of a table), whatever it is made of: scores for tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from metajax.data.episodes import Source
from metajax.results.schema import BASELINE
from metajax.types import Episode

Scores = jax.Array | np.ndarray


class Arm(Protocol):
    """A recommender that is ready for the test: it is trained, and all its settings are chosen.

    Attributes:
      settings: name -> value of what was chosen on meta-validation.
      history: name, such as "loss" -> (S, blocks) values during training, for S seeds; empty for
        an arm that was not meta-trained.
      seconds: wall time taken to train it and to choose its settings.
      num_gradients: gradients of the task's loss that one adaptation takes; 0 for a closed form.
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
        """Scores (S, T, Q) of the Q query rows of T tasks by S seeds; S is 1 without randomness.

        Args:
          source: the feature columns that the indices in the tasks point to.
          tasks: T tasks as row indices, from `episodes.fixed`, leaves (T, ...). They contain the
            labels of the query, which the judge needs; an arm must not read them.
          key: for an arm that draws random numbers while it adapts.
        """
        ...


class Fitted(NamedTuple):
    """An arm made of any function of tasks, such as a model of another library.

    Attributes:
      predict, settings, seconds, history, num_gradients: as in `Arm`.
      role: its role in a table, one of `schema.ROLES`.
    """

    predict: Callable[[Source, Episode, jax.Array], Scores]
    settings: dict[str, Any]
    seconds: float
    history: dict[str, np.ndarray] = {}  # noqa: RUF012  nothing writes to it
    num_gradients: int = 0
    role: str = BASELINE
