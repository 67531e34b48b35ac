"""Tests for leaks: each looks for one way in which the answer can reach a prediction.

`query_labels` watches predictions, `split_is_clean` a split, `reads_only` whatever is fitted before
the tasks are met (factors, popularity, scalers). They raise `Leak`, whose message names the way.
Selection on test tasks is locked out by `metajax.benchmark.problem.freeze`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.split import Split, Tasks
from metajax.data.table import Interactions
from metajax.types import Episode


class Leak(Exception):
    """The answer reaches the prediction: what leaks, and where."""


def query_labels(
    predict: Callable[[Episode], jax.Array], episodes: Episode, key: jax.Array
) -> None:
    """Returns if no prediction moves when the query labels are permuted and turned around.

    Args:
      predict: episodes (T, ...) -> scores (T, Q), the whole way from task to prediction.
      episodes: tasks with real labels.

    Raises:
      Leak: a prediction moved.
    """
    before = predict(episodes)
    query = episodes.query
    order = jax.random.permutation(key, query.label.shape[1])
    low, high = jnp.min(query.label), jnp.max(query.label)
    label = (low + high - query.label[:, order]) * query.mask
    after = predict(episodes._replace(query=query._replace(label=label)))
    moved = jnp.any((before != after) & (query.mask > 0), axis=1)
    if bool(jnp.any(moved)):
        raise Leak(
            f"query labels move the predictions of {int(jnp.sum(moved))} of {len(moved)} tasks"
        )


def split_is_clean(split: Split, table: Interactions, repeats: bool = False) -> None:
    """Returns if no valid or test query can be looked up in the training rows or the supports.

    Query items must not be in the task's own support, (user, item) pairs of a query not in the
    training rows, and users (items) of user-cold (item-cold) tasks not in them at all.

    Args:
      repeats: people come back to items in this log: pairs may recur, cold sides still not.

    Raises:
      Leak: the first way found.
    """
    rows = np.asarray(split.train_rows)
    sides = (table.user[rows], table.item[rows])
    mine, others = sides if split.side == "user" else sides[::-1]
    width = max(table.num_users, table.num_items)
    trained = np.unique(mine.astype(np.int64) * width + others)
    phases = [(f"{p} {k}", k, t) for p in ("valid", "test") for k, t in getattr(split, p).items()]
    for place, scenario, tasks in phases:
        task, is_query = _owners(split, tasks)
        owner = tasks.owner[task].astype(np.int64)
        if not repeats:
            support = np.unique(task[~is_query].astype(np.int64) * width + tasks.other[~is_query])
            seen = np.isin(task[is_query].astype(np.int64) * width + tasks.other[is_query], support)
            _require(not seen.any(), f"{place}: {seen.sum()} query items are in the support")
            known = np.isin(owner[is_query] * width + tasks.other[is_query], trained)
            _require(not known.any(), f"{place}: {known.sum()} query rows are in the training rows")
        cold_users = scenario in ("user_cold", "both_cold") and split.protocol not in TWO_DOMAINS
        cold_items = scenario in ("item_cold", "both_cold")
        users, items = (owner, tasks.other) if split.side == "user" else (tasks.other, owner)
        if cold_users:
            _require(not np.isin(users, sides[0]).any(), f"{place}: a cold user is trained on")
        if cold_items:
            _require(not np.isin(items, sides[1]).any(), f"{place}: a cold item is trained on")


TWO_DOMAINS = ("domain-transfer",)  # its users are cold in one domain and known in the other


def _owners(split: Split, tasks: Tasks) -> tuple[np.ndarray, np.ndarray]:
    """The task (R,) of each row of the tasks, and whether (R,) it is a query row."""
    task = np.repeat(np.arange(tasks.num_tasks), tasks.length)
    place = np.arange(len(task)) - np.repeat(tasks.start, tasks.length)
    shots = tasks.length - split.query_size(tasks)
    return task, place >= shots[task]


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise Leak(problem)


def reads_only(
    fit: Callable[[Interactions, np.ndarray], Any],
    table: Interactions,
    rows: np.ndarray,
    seed: int = 0,
) -> None:
    """Returns if ``fit(table, rows)`` is the same when all other rows of the table are scrambled.

    Labels, users and items of the other rows are permuted, each on its own. What counts all rows
    (the popularity an item will have), or factorizes test users, changes.

    Args:
      fit: (table, rows) -> any pytree of arrays, e.g. the features that `represent` adds.
      rows: the rows that may be read.

    Raises:
      Leak: something fitted depends on another row.
    """
    rng = np.random.default_rng(seed)
    other = np.setdiff1d(np.arange(len(table)), rows)
    scrambled = {}
    for name in ("user", "item", "label"):
        values = getattr(table, name).copy()
        values[other] = rng.choice(values, len(other))
        scrambled[name] = values
    before = jax.tree.leaves(fit(table, rows))
    after = jax.tree.leaves(fit(dataclasses.replace(table, **scrambled), rows))
    moved = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not _same(a, b)]
    if moved:
        raise Leak(f"{len(moved)} of {len(before)} fitted arrays depend on rows that are held out")


def _same(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b))
