"""Who is seen when: splits of a table into meta-training, meta-validation and test tasks.

A split is data. It holds, per phase and scenario, the tasks with their rows in a fixed order, the
last ``num_query`` rows of a test task being its query, and it has a checksum that stands in every
record made from it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metajax.data.table import Interactions
from metajax.types import UserError

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")
NUM_QUERY = 10


class Tasks(NamedTuple):
    """T tasks with their rows, of unequal number, stored one after the other.

    Attributes:
      owner: (T,) the user (or item) that each task is.
      start: (T,) the first row of each task.
      length: (T,) its number of rows.
      other: (R,) the item (or user) of each row.
      label: (R,) its label.
    """

    owner: np.ndarray
    start: np.ndarray
    length: np.ndarray
    other: np.ndarray
    label: np.ndarray

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.owner)


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of one table.

    Attributes:
      protocol: the name of the rule that made it.
      seed: what was drawn from.
      train_rows: rows of the table that anything may be fitted on.
      train: tasks for meta-training; their support and query are drawn while training.
      valid: tasks for every choice, by scenario.
      test: tasks to be opened once, by scenario.
      num_query: the number of query rows at the end of each valid and test task.
    """

    protocol: str
    seed: int
    train_rows: np.ndarray
    train: Tasks
    valid: Mapping[str, Tasks]
    test: Mapping[str, Tasks]
    num_query: int = NUM_QUERY

    def checksum(self) -> str:
        """A digest of every task and row, as 16 hexadecimal digits."""
        digest = hashlib.blake2b(f"{self.protocol}:{self.num_query}".encode(), digest_size=8)
        digest.update(np.asarray(self.train_rows, np.int64).tobytes())
        for part in (self.train, *self.valid.values(), *self.test.values()):
            for values in part:
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def tasks_of_users(
    table: Interactions,
    rows: np.ndarray,
    rng: np.random.Generator,
    min_rows: int,
    max_rows: int | None = None,
) -> tuple[Tasks, np.ndarray]:
    """The tasks of all users with ``min_rows`` to ``max_rows`` of the given rows, in random order.

    Returns:
      The tasks, and the table row behind each of their rows.
    """
    rows = rng.permutation(rows)
    rows = rows[np.argsort(table.user[rows], kind="stable")]
    owner, start, length = np.unique(table.user[rows], return_index=True, return_counts=True)
    keep = length >= min_rows
    if max_rows is not None:
        keep &= length <= max_rows
    rows = rows[np.repeat(keep, length)]
    owner, length = owner[keep].astype(np.int32), length[keep].astype(np.int32)
    start = (np.cumsum(length) - length).astype(np.int32)
    tasks = Tasks(owner, start, length, table.item[rows], table.label[rows])
    return tasks, rows


def melu_states(
    table: Interactions, seed: int, cold_users: float = 0.2, cold_items: float = 0.2
) -> np.ndarray:
    """MeLU's code of every row, drawn from a seed: 0 warm, 1 user-cold, 2 item-cold, 3 both-cold.

    Cold users are a random share. Cold items are those released last, whole years at a time, up
    to the share that comes nearest to ``cold_items``; where years are unknown, a random share.
    """
    rng = np.random.default_rng([seed, 0])
    user_cold = np.zeros(table.num_users, bool)
    chosen = rng.permutation(table.num_users)[: round(cold_users * table.num_users)]
    user_cold[chosen] = True
    item_cold = np.zeros(table.num_items, bool)
    if table.item_year is not None:
        years = np.unique(table.item_year)
        shares = np.array([np.mean(table.item_year > y) for y in years])
        item_cold = table.item_year > years[np.argmin(np.abs(shares - cold_items))]
    else:
        item_cold[rng.permutation(table.num_items)[: round(cold_items * table.num_items)]] = True
    return (user_cold[table.user] + 2 * item_cold[table.item]).astype(np.int8)


def melu(
    table: Interactions,
    seed: int = 0,
    *,
    redraw: bool = False,
    valid_users: float = 0.1,
    min_rows: int = 13,
    max_rows: int = 100,
) -> Split:
    """MeLU's four scenarios: warm, user-cold, item-cold and both-cold tasks of users.

    A test task is a user with 13 to 100 ratings inside a scenario; of a random permutation of them
    the last 10 are the query. Warm tasks belong to users seen in meta-training, their query rows
    are held out of everything that is fitted. A share of the warm users is meta-validation.

    Args:
      redraw: draw the states from the seed even where the table brings the published ones.

    Raises:
      UserError: no user has enough interactions for a scenario.

    References: Lee et al., KDD 2019, section 4.
    """
    published = table.state is not None and not redraw
    state = table.state if published else melu_states(table, seed)
    assert state is not None
    rng = np.random.default_rng([seed, 1])
    warm = np.flatnonzero(state == 0)
    users = rng.permutation(np.unique(table.user[warm]))
    is_valid = np.zeros(table.num_users, bool)
    is_valid[users[: round(valid_users * len(users))]] = True

    bounds = (min_rows, max_rows)
    warm_train = warm[~is_valid[table.user[warm]]]
    valid, _ = tasks_of_users(table, warm[is_valid[table.user[warm]]], rng, *bounds)
    test_warm, warm_rows = tasks_of_users(table, warm_train, rng, *bounds)
    ends = test_warm.start + test_warm.length
    held_out = warm_rows[(ends[:, None] - 1 - np.arange(NUM_QUERY)).ravel()]
    train_rows = np.setdiff1d(warm_train, held_out)
    train, _ = tasks_of_users(table, train_rows, rng, min_rows=3)

    test = {"warm": test_warm}
    for code, name in enumerate(SCENARIOS[1:], start=1):
        test[name], _ = tasks_of_users(table, np.flatnonzero(state == code), rng, *bounds)
    for name, part in {"training": train, "validation": valid, **test}.items():
        if part.num_tasks == 0:
            raise UserError(
                f"{table.name}: no user has {min_rows} to {max_rows} interactions in the {name} "
                f"part of the melu split; give a larger log"
            )
    name = "melu" if published else "melu-redrawn"
    return Split(name, seed, train_rows, train, {"user_cold": valid}, test)
