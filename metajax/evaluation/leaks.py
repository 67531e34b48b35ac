"""Leakage tests: each looks for one way in which a test label can reach a prediction.

`query_labels` tests predictions, `split_is_clean` a split, `laid_out_is_clean` the episodes made
from it, `reads_only` whatever is fitted on a log (factors, popularity, scalers), `blind_to_test` a
whole pipeline: everything estimated, tuned and trained, and `noise_is_noise` the training columns.
They raise `Leak`, whose message names the leak. Selection on test tasks is prevented by
`metajax.benchmark.problem.freeze`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.split import Split, Tasks
from metajax.data.table import Interactions, tied_rows
from metajax.types import Episode


class Leak(Exception):
    """A test label reaches a prediction; the message says what leaks, and where."""


def query_labels(
    predict: Callable[[Episode], jax.Array], episodes: Episode, key: jax.Array
) -> None:
    """Returns if no prediction changes when the query labels are permuted and reversed.

    Args:
      predict: episodes (T, ...) -> scores (T, Q), with everything between task and prediction.
      episodes: tasks with real labels.

    Raises:
      Leak: a prediction changed.
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
    """Returns if no validation or test query occurs in the training rows or in its support.

    Query items must not be in the task's own support, (user, item) pairs of a query not in the
    training rows, and users (items) of user-cold (item-cold) tasks not in them at all.

    Args:
      repeats: allow repeated (user, item) pairs, for logs in which users repeat items.

    Raises:
      Leak: the first one found.
    """
    rows = np.asarray(split.train_rows)
    sides = (table.user[rows], table.item[rows])
    trained, width = _trained(split, table)
    phases = [(f"{p} {k}", k, t) for p in ("valid", "test") for k, t in getattr(split, p).items()]
    _tests_are_apart(split, repeats)
    for place, scenario, tasks in phases:
        owner = np.repeat(tasks.owner, tasks.length).astype(np.int64)
        if not repeats:
            seen, known = _seen(split, tasks, trained, width)
            _require(not seen.any(), f"{place}: {seen.sum()} query items are in the support")
            _require(not known.any(), f"{place}: {known.sum()} query rows are in the training rows")
        cold_users = scenario in ("user_cold", "both_cold") and split.protocol not in TWO_DOMAINS
        cold_items = scenario in ("item_cold", "both_cold")
        users, items = (owner, tasks.other) if split.side == "user" else (tasks.other, owner)
        if cold_users:
            _require(not np.isin(users, sides[0]).any(), f"{place}: a cold user is trained on")
        if cold_items:
            _require(not np.isin(items, sides[1]).any(), f"{place}: a cold item is trained on")


def counted(split: Split, table: Interactions) -> list[str]:
    """Warnings, a line each, of what makes a test easier or less certain than it looks.

    They count query rows whose item is in the support of the task or whose pair is in the training
    rows, as users who repeat items cause; rows with equal times, if the split is by time; and
    scenarios without tasks.
    """
    lines = [
        f"{scenario.replace('_', '-')}: left out, no user has enough rows for it."
        for scenario in split.skipped
    ]
    trained, width = _trained(split, table)
    for scenario, tasks in split.test.items():
        support, known = (int(found.sum()) for found in _seen(split, tasks, trained, width))
        rows, name = int(split.query_size(tasks).sum()), scenario.replace("_", "-")
        if support:
            lines.append(f"{name}: {support} of {rows} query rows repeat a pair of the support.")
        if known:
            lines.append(f"{name}: {known} of {rows} query rows repeat a pair of training.")
    tied = tied_rows(table) if split.protocol.startswith(BY_TIME) else 0
    if tied:
        lines.append(
            f"{tied / len(table):.1%} of the rows share their time with another row of their user, "
            f"so that the order of the file decides between them, and the {split.protocol} split "
            "is by time."
        )
    return lines


BY_TIME = ("first-", "global-time", "prequential", "leave-one-out", "ctr-warmup")


def _trained(split: Split, table: Interactions) -> tuple[np.ndarray, int]:
    """The pairs that are trained on, as sorted numbers ``task * width + row``, and that width."""
    rows, width = np.asarray(split.train_rows), max(table.num_users, table.num_items)
    sides = (table.user[rows], table.item[rows])
    mine, others = sides if split.side == "user" else sides[::-1]
    return np.unique(mine.astype(np.int64) * width + others), width


def _seen(
    split: Split, tasks: Tasks, trained: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each query row (R,) stands in the support of its task, and in the training rows."""
    task, is_query = _owners(split, tasks)
    pair = task.astype(np.int64) * width + tasks.other
    known = tasks.owner[task].astype(np.int64) * width + tasks.other
    support = np.unique(pair[~is_query])
    return np.isin(pair[is_query], support), np.isin(known[is_query], trained)


def _tests_are_apart(split: Split, repeats: bool) -> None:
    """Raises if a test query row is among the rows of validation tasks."""
    if repeats:
        return
    pairs = lambda owner, other: owner.astype(np.int64) * 2**31 + other
    chosen_on = [
        pairs(np.repeat(t.owner, t.length), np.asarray(t.other)) for t in split.valid.values()
    ]
    for scenario, tasks in split.test.items():
        task, is_query = _owners(split, tasks)
        query = pairs(tasks.owner[task[is_query]], tasks.other[is_query])
        seen = np.isin(query, np.concatenate([*chosen_on, np.zeros(0, np.int64)]))
        _require(
            not seen.any(), f"test {scenario}: {seen.sum()} query rows are in validation tasks"
        )


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


def laid_out_is_clean(episodes: Episode) -> None:
    """Returns if no task of laid-out episodes (T, ...) has a query item in its own support.

    Raises:
      Leak: a task has.
    """
    support, query = episodes.support, episodes.query
    same = np.asarray(query.inputs)[:, :, None] == np.asarray(support.inputs)[:, None, :]
    both = (np.asarray(query.mask)[:, :, None] > 0) & (np.asarray(support.mask)[:, None, :] > 0)
    leaky = np.any(same & both, axis=(1, 2))
    _require(
        not leaky.any(), f"{leaky.sum()} of {len(leaky)} tasks have query items in the support"
    )


def noise_is_noise(scores: np.ndarray, labels: np.ndarray) -> None:
    """Returns if scores of training rows do not correlate with labels that are pure noise.

    Columns estimated from a row's own label contain some of it. With labels drawn at random,
    nothing else can correlate with them.

    Args:
      scores, labels: (R,) of the same rows.

    Raises:
      Leak: the correlation is more than 5 standard errors above 0.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    found = np.corrcoef(scores, labels)[0, 1] if np.ptp(scores) > 0 else 0.0
    least = 5 / np.sqrt(len(labels))
    _require(found < least, f"scores foretell labels that are noise: correlation {found:.3f}")


def held_back(split: Split, table: Interactions) -> np.ndarray:
    """The rows (n,) of the table that are neither training rows nor rows of a validation task."""
    mine, others = (table.user, table.item) if split.side == "user" else (table.item, table.user)
    pairs = lambda owner, other: (
        owner.astype(np.int64) * max(table.num_users, table.num_items) + other
    )
    valid = [pairs(np.repeat(t.owner, t.length), t.other) for t in split.valid.values()]
    free = ~np.isin(pairs(mine, others), np.concatenate([*valid, np.zeros(0, np.int64)]))
    free[split.train_rows] = False
    return np.flatnonzero(free)


def blind_to_test(
    pipeline: Callable[[Interactions, Split], Any],
    table: Interactions,
    split: Split,
    seed: int = 0,
) -> None:
    """Returns if the results of a pipeline are the same, bit for bit, whatever the test rows are.

    It runs twice more: with the labels of test rows permuted, in the table and in the tasks, and
    with test rows removed from both.

    Args:
      pipeline: (table, split) -> a pytree of arrays, numbers and texts: columns estimated, settings
        chosen, parameters kept, errors on validation.
      table, split: the input of the pipeline.
      seed: of the permutation.

    Raises:
      Leak: a result differs; the message names it.
    """
    before = pipeline(table, split)
    rng, rows = np.random.default_rng(seed), held_back(split, table)
    label = table.label.copy()
    label[rows] = rng.permutation(label[rows])
    tests = {k: t._replace(label=rng.permutation(t.label)) for k, t in split.test.items()}
    permuted = pipeline(
        dataclasses.replace(table, label=label), dataclasses.replace(split, test=tests)
    )
    _same_leaves(before, permuted, "the labels of test rows are permuted")
    _same_leaves(before, pipeline(*_without(table, split, rows)), "test rows are removed")


def _without(table: Interactions, split: Split, rows: np.ndarray) -> tuple[Interactions, Split]:
    """Table and split without some rows that no training or validation task has."""
    kept = np.setdiff1d(np.arange(len(table)), rows)
    columns = ("user", "item", "label", "time", "state")
    held = {k: getattr(table, k)[kept] for k in columns if getattr(table, k) is not None}
    train = np.searchsorted(kept, split.train_rows)
    return dataclasses.replace(table, **held), dataclasses.replace(split, train_rows=train, test={})


def _same_leaves(before: Any, after: Any, what: str) -> None:
    leaves, tree = jax.tree_util.tree_flatten_with_path(before)
    others, other_tree = jax.tree_util.tree_flatten(after)
    _require(tree == other_tree, f"when {what}, the pipeline makes other things")
    moved = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(leaves, others, strict=True)
        if not _same(a, b)
    ]
    more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
    _require(not moved, f"when {what}, {(moved or [''])[0]}{more} of {len(leaves)} differ")


def reads_only(
    fit: Callable[[Interactions, np.ndarray], Any],
    table: Interactions,
    rows: np.ndarray,
    seed: int = 0,
) -> None:
    """Returns if ``fit(table, rows)`` is the same when all other rows of the table are scrambled.

    Labels, users and items of the other rows are permuted, each independently. A fit that counts
    all rows, such as popularity, or factorizes test users, changes.

    Args:
      fit: (table, rows) -> any pytree of arrays, e.g. the features that `represent` adds.
      rows: (n,) the rows that may be read.
      seed: of the permutations.

    Raises:
      Leak: a fitted value depends on another row.
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
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
