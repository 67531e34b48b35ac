"""`Tasks` with their rows, and `Split`: the tasks of each phase and the rows to be fitted on."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metajax.data.table import Interactions
from metajax.types import UserError

NUM_QUERY = 10


class Tasks(NamedTuple):
    """T tasks with their rows, of unequal number, stored one after the other.

    Attributes:
      owner: (T,) the user (or item) that each task is.
      start: (T,) the first row of each task.
      length: (T,) its number of rows.
      other: (R,) the item (or user) of each row.
      label: (R,) its label.
      shots: (T,) how many of the first rows of each task are its support, the rest being its query;
        None where the last ``num_query`` rows of the split are the query of every task.
    """

    owner: np.ndarray
    start: np.ndarray
    length: np.ndarray
    other: np.ndarray
    label: np.ndarray
    shots: np.ndarray | None = None

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.owner)

    def with_shots(self, num_support: int) -> "Tasks":
        """The tasks with the first ``num_support`` rows of each as its support."""
        return self._replace(shots=np.full(self.num_tasks, num_support, np.int32))


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of one table.

    Attributes:
      protocol: the name of the rule that made it.
      seed: of the random draws.
      train_rows: (n,) the rows of the table that anything may be fitted on.
      train: tasks for meta-training; their support and query are drawn while training.
      valid: scenario -> meta-validation tasks, on which every choice is made.
      test: scenario -> test tasks, to be opened once.
      num_query: the number of query rows at the end of each valid and test task, and of the query
        drawn in meta-training.
      side: what tasks are made of, "user" or "item".
      skipped: test scenarios that the log has no task for.
    """

    protocol: str
    seed: int
    train_rows: np.ndarray
    train: Tasks
    valid: Mapping[str, Tasks]
    test: Mapping[str, Tasks]
    num_query: int = NUM_QUERY
    side: str = "user"
    skipped: tuple[str, ...] = ()

    def checksum(self) -> str:
        """A digest of every task and row, as 16 hexadecimal digits."""
        digest = hashlib.blake2b(f"{self.protocol}:{self.num_query}".encode(), digest_size=8)
        digest.update(np.asarray(self.train_rows, np.int64).tobytes())
        for part in (self.train, *self.valid.values(), *self.test.values()):
            for values in part:
                if values is not None:
                    digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def query_size(self, tasks: Tasks) -> np.ndarray:
        """The number (T,) of query rows of each task."""
        if tasks.shots is None:
            return np.full(tasks.num_tasks, self.num_query, np.int32)
        return tasks.length - tasks.shots


def tasks_of_users(
    table: Interactions,
    rows: np.ndarray,
    rng: np.random.Generator,
    min_rows: int,
    max_rows: int | None = None,
) -> tuple[Tasks, np.ndarray]:
    """The tasks of all users with ``min_rows`` to ``max_rows`` of ``rows`` (n,), in random order.

    Returns:
      The tasks, and the table row behind each of their rows.
    """
    return grouped(table, rng.permutation(rows), min_rows, max_rows)


def grouped(
    table: Interactions,
    rows: np.ndarray,
    min_rows: int,
    max_rows: int | None = None,
    side: str = "user",
) -> tuple[Tasks, np.ndarray]:
    """The tasks of all users (or items) with ``min_rows`` to ``max_rows`` of ``rows`` (n,).

    A task keeps its rows in the order given.

    Returns:
      The tasks, and the table row behind each of their rows.
    """
    mine, others = (table.user, table.item) if side == "user" else (table.item, table.user)
    rows = rows[np.argsort(mine[rows], kind="stable")]
    owner, length = np.unique(mine[rows], return_counts=True)
    keep = length >= min_rows
    if max_rows is not None:
        keep &= length <= max_rows
    rows = rows[np.repeat(keep, length)]
    owner, length = owner[keep].astype(np.int32), length[keep].astype(np.int32)
    start = (np.cumsum(length) - length).astype(np.int32)
    return Tasks(owner, start, length, others[rows], table.label[rows]), rows


def query_rows(tasks: Tasks, rows: np.ndarray, num_query: int) -> np.ndarray:
    """The table rows (T * num_query,) of the last ``num_query`` rows of T tasks.

    Args:
      rows: (R,) the table row behind each row of the tasks, from `grouped`.
    """
    ends = tasks.start + tasks.length
    return rows[(ends[:, None] - 1 - np.arange(num_query)).ravel()]


def require_support(min_rows: int, num_query: int) -> None:
    """Checks that every task has at least one support row beside its query.

    Raises:
      UserError: tasks of ``min_rows`` rows have none.
    """
    if min_rows <= num_query:
        raise UserError(
            f"--query-rows {num_query}: tasks have {min_rows} rows or more, and need one to adapt "
            "on beside the query; ask for fewer, or raise --min-rows"
        )


def require_tasks(
    table: Interactions,
    split: Split,
    problem: str = "no task in",
    cure: str = "give a larger log",
) -> Split:
    """The split if each of its parts has a task, without the test scenarios that have none.

    Raises:
      UserError: training, a validation scenario or every test scenario has none.
    """
    valid = {f"validation ({k})": tasks for k, tasks in split.valid.items()}
    filled = {name: tasks for name, tasks in split.test.items() if tasks.num_tasks}
    for name, part in {"training": split.train, **valid, **(filled or split.test)}.items():
        if part.num_tasks == 0:
            raise UserError(
                f"{table.name}: {problem} the {name} part of the {split.protocol} split; {cure}"
            )
    skipped = tuple(name for name in split.test if name not in filled)
    return dataclasses.replace(split, test=filled, skipped=skipped) if filled else split
