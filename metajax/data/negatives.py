"""Negative sampling for implicit feedback: items without an event, uniform over the catalogue."""

import dataclasses

import numpy as np

from metajax.data.split.tasks import Split, Tasks, grouped
from metajax.data.table import Interactions


def without_repeats(table: Interactions) -> Interactions:
    """The table with the last row of each (user, item) pair, and the sum of the pair's counts."""
    pair = table.user.astype(np.int64) * table.num_items + table.item
    order = np.arange(len(table)) if table.time is None else np.argsort(table.time, kind="stable")
    _, last, inverse = np.unique(pair[order[::-1]], return_index=True, return_inverse=True)
    kept = order[::-1][last]
    rank = np.argsort(kept)
    changes = {name: getattr(table, name)[kept[rank]] for name in ("user", "item", "label")}
    for name in ("time", "state", "count"):
        values = getattr(table, name)
        if values is not None:
            changes[name] = values[kept[rank]]
    if table.count is not None:
        changes["count"] = np.bincount(inverse, table.count[order[::-1]])[rank]
    return dataclasses.replace(table, **changes)


def is_implicit(table: Interactions) -> bool:
    """Whether a table is implicit feedback: it has counts, or all its labels are the same 1."""
    clicks = table.scale == (0.0, 1.0) and bool((table.label == 1).all())
    return table.count is not None or clicks


def ratings_from_events(table: Interactions, seed: int = 0) -> Interactions:
    """Implicit feedback as ratings: each event is followed by a sampled item of label 0.

    Of a repeated (user, item) pair one row is kept, with the sum of its counts. The label of an
    event is 1, or log(1 + count). A sampled item has the time of its event; users with events on
    most of the catalogue get fewer.

    An item is sampled from those without any event of the user in ``table``, so that no pair has
    two labels. Where a user has rows in training and in the test (warm tasks), the events of the
    test are avoided too: how often an item is sampled in training then depends, a little, on the
    test. Users who are new have all their rows in one part, and tell nothing.

    Args:
      table: implicit feedback (`is_implicit`).
      seed: of the sampling.
    """
    table = without_repeats(table)
    rng = np.random.default_rng([seed, 8])
    met = np.sort(table.user.astype(np.int64) * table.num_items + table.item)
    item, new = _unmet(table.user, met, table.num_items, rng)
    beside = np.concatenate([np.arange(len(table)), np.flatnonzero(new)])
    is_event = np.arange(len(beside)) < len(table)
    order = np.lexsort((rng.random(len(beside)), beside))
    beside, is_event = beside[order], is_event[order]
    positive = table.label if table.count is None else np.log1p(table.count)
    return dataclasses.replace(
        table,
        user=table.user[beside],
        item=np.where(is_event, table.item[beside], item[beside]).astype(np.int32),
        label=np.where(is_event, positive[beside], 0.0).astype(np.float32),
        time=None if table.time is None else table.time[beside],
        scale=(0.0, float(positive.max())),
        state=None,
        count=None,
    )


def with_negatives(
    table: Interactions, parts: Split, per_positive: int = 2, seed: int = 0
) -> tuple[Interactions, Split]:
    """The table and the split with sampled negatives: rows of label 0.

    Training users get ``per_positive`` negatives for each of their training events, sampled from
    the items of which they have no *training* event: an item that a user meets in a held-out row
    may be sampled, since what is never sampled would tell what the user is going to be asked. Of a
    validation user only the query gets negatives, since a service knows only events of a user;
    they are items that the user never met. Users with events on half of the catalogue or more get
    fewer.

    Args:
      table: implicit feedback, one row for each (user, item) pair.
      parts: its split; validation tasks have ``shots``.
      per_positive: negatives for each event.
      seed: of the sampling.

    Returns:
      The table, whose new rows come last, and the split of it.
    """
    rng = np.random.default_rng([seed, 7])
    pair = table.user.astype(np.int64) * table.num_items + table.item
    met = np.unique(pair)
    owner = np.repeat(table.user[parts.train_rows], per_positive)
    item, new = _unmet(owner, np.unique(pair[parts.train_rows]), table.num_items, rng)
    owner, size = owner[new], int(new.sum())
    more = {"user": owner, "item": item[new], "label": np.zeros(size, np.float32)}
    for name in ("time", "state", "count"):
        if getattr(table, name) is not None:
            more[name] = np.zeros(size, getattr(table, name).dtype)
    joined = {name: np.concatenate([getattr(table, name), v]) for name, v in more.items()}
    scale = (min(0.0, table.scale[0]), table.scale[1])
    grown = dataclasses.replace(table, **joined, scale=scale)
    rows = np.concatenate([parts.train_rows, len(table) + np.arange(size)])
    train, _ = grouped(grown, rng.permutation(rows), 2)
    valid = {
        name: _query_grown(tasks, met, table.num_items, per_positive, rng)
        for name, tasks in parts.valid.items()
    }
    wide = parts.num_query * (1 + per_positive)
    return grown, dataclasses.replace(
        parts, train_rows=rows, train=train, valid=valid, num_query=wide
    )


def _unmet(
    owner: np.ndarray, met: np.ndarray, num_items: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An item (n,) drawn for each owner, and whether (n,) it is new to them and drawn once.

    Args:
      met: pairs ``owner * num_items + item`` that count as met, sorted.
    """
    item = rng.integers(num_items, size=len(owner)).astype(np.int32)
    pair = owner.astype(np.int64) * num_items + item
    place = np.minimum(np.searchsorted(met, pair), len(met) - 1)
    first = np.zeros(len(owner), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    return item, first & (met[place] != pair)


def _query_grown(
    tasks: Tasks, met: np.ndarray, num_items: int, per_positive: int, rng: np.random.Generator
) -> Tasks:
    """The tasks with drawn items at the end of each query."""
    assert tasks.shots is not None
    owner = np.repeat(tasks.owner, per_positive * (tasks.length - tasks.shots))
    item, new = _unmet(owner, met, num_items, rng)
    owner, item = owner[new], item[new]
    everyone = np.concatenate([np.repeat(tasks.owner, tasks.length), owner])
    order = np.argsort(everyone, kind="stable")
    length = np.bincount(everyone, minlength=int(tasks.owner.max()) + 1)[tasks.owner]
    label = np.concatenate([tasks.label, np.zeros(len(item), np.float32)])
    return Tasks(
        owner=tasks.owner,
        start=(np.cumsum(length) - length).astype(np.int32),
        length=length.astype(np.int32),
        other=np.concatenate([tasks.other, item])[order],
        label=label[order],
        shots=tasks.shots,
    )
