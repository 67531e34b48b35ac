"""Splits by time: one cut for everyone, a stream, the last interaction, and items warming up."""

import numpy as np

from metajax.data.split.tasks import Split, Tasks, grouped, require_tasks
from metajax.data.split.users import in_time, place_in_group
from metajax.data.table import Interactions
from metajax.types import UserError


def _cut(table: Interactions, share: float) -> int:
    """The time before which at most the given share of all interactions lies."""
    assert table.time is not None
    return int(np.sort(table.time)[min(int(share * len(table)), len(table) - 1)])


def _window(
    table: Interactions, rows: np.ndarray, since: int, most: tuple[int, int], cold_shots: int
) -> dict[str, Tasks]:
    """Warm and user-cold tasks of a window of time that starts at ``since``.

    A warm user's support are the last rows before the window, a cold user's the first rows in it.

    Args:
      rows: in time order, up to the end of the window.
      most: (support, query) rows of a task, at most.
    """
    assert table.time is not None
    tasks, rows = grouped(table, rows, 2)
    late = table.time[rows] >= since
    user = table.user[rows]
    before = np.bincount(user[~late], minlength=table.num_users)[user]
    inside = np.bincount(user[late], minlength=table.num_users)[user]
    place = place_in_group(user)
    found = {}
    is_warm = (before > 0) & (inside > 0) & (place >= before - most[0])
    is_cold = (before == 0) & (inside > cold_shots)
    for name, keep in {"warm": is_warm, "user_cold": is_cold}.items():
        shots = np.minimum(before, most[0]) if name == "warm" else np.full(len(rows), cold_shots)
        first = before - shots if name == "warm" else np.zeros(len(rows), int)
        keep = keep & (place - first < shots + most[1])
        if keep.any():
            tasks, kept = grouped(table, rows[keep], 2)
            of_user = np.zeros(table.num_users, np.int32)
            of_user[user] = shots
            found[name] = tasks._replace(shots=of_user[table.user[kept[tasks.start]]])
    return found


def global_time(
    table: Interactions,
    seed: int = 0,
    *,
    share_train: float = 0.8,
    share_valid: float = 0.1,
    max_support: int = 20,
    max_query: int = 50,
    cold_shots: int = 5,
) -> Split:
    """One cut in time for all users: training before it, a window of validation, one of test after.

    Warm users adapt on their last rows before a window, users who are new in it (user-cold) on
    their first ``cold_shots`` rows; the query is the next rows, in time order. Nothing is random.

    Args:
      share_train, share_valid: shares of all rows before the first cut and between the two.
      max_support, max_query: rows of a task, at most.

    Raises:
      UserError: the table has no times, or no user has rows on both sides of the cuts.

    References: Meng et al., "Exploring data splitting strategies", RecSys 2020.
    """
    rows = in_time(table, np.arange(len(table)))
    assert table.time is not None
    first, second = _cut(table, share_train), _cut(table, share_train + share_valid)
    train_rows = rows[table.time[rows] < first]
    until = rows[table.time[rows] < second]
    most = (max_support, max_query)
    valid = _window(table, until, first, most, cold_shots)
    test = _window(table, rows, second, most, cold_shots)
    _require_windows(table, {"validation": valid, "test": test})
    train, _ = grouped(table, train_rows, 3)
    return require_tasks(table, Split("global-time", seed, np.sort(train_rows), train, valid, test))


def prequential(
    table: Interactions,
    seed: int = 0,
    *,
    share_train: float = 0.5,
    share_valid: float = 0.1,
    max_support: int = 20,
    max_query: int = 200,
) -> Split:
    """Streams after a cut in time, for test-then-train evaluation by `evaluate.prequential`.

    The query of a task is the user's stream in time order. Warm users have their last rows before
    the cut as support, new users have none. The arguments are those of `global_time`.

    Raises:
      UserError: the table has no times, or no user has rows in a window.

    References: Gama et al., "On evaluating stream learning algorithms", 2013.
    """
    split = global_time(
        table,
        seed,
        share_train=share_train,
        share_valid=share_valid,
        max_support=max_support,
        max_query=max_query,
        cold_shots=0,
    )
    return Split("prequential", seed, split.train_rows, split.train, split.valid, split.test)


def _require_windows(table: Interactions, windows: dict[str, dict[str, Tasks]]) -> None:
    """Refuses windows without any task."""
    for name, found in windows.items():
        if not found:
            raise UserError(
                f"{table.name}: no user has enough interactions in the {name} window of time; "
                "give a larger log or other shares"
            )


def leave_one_out(
    table: Interactions, seed: int = 0, *, min_rows: int = 5, max_support: int | None = None
) -> Split:
    """Each user's last interaction is the test, the one before it the validation, by time.

    Args:
      min_rows: users with fewer rows are left out.
      max_support: at most that many of the last rows before the held-out one; None for all.

    Raises:
      UserError: the table has no times, or no user has ``min_rows`` interactions.
    """
    tasks, rows = grouped(table, in_time(table, np.arange(len(table))), min_rows)
    if tasks.num_tasks == 0:
        raise UserError(f"{table.name}: no user has {min_rows} interactions; give a larger log")
    from_end = np.repeat(tasks.length, tasks.length) - place_in_group(table.user[rows])
    most = max_support or len(table)
    until = lambda last, first: grouped(table, rows[(from_end > last) & (from_end <= first)], 1)[0]
    judged = lambda t: {"warm": t._replace(shots=t.length - 1)}
    return Split(
        "leave-one-out",
        seed,
        np.sort(rows[from_end > 2]),
        until(2, len(table)),
        judged(until(1, most + 2)),
        judged(until(0, most + 1)),
        num_query=1,
    )


def ctr_warmup(
    table: Interactions,
    seed: int = 0,
    *,
    hot: int = 200,
    per_phase: int = 20,
    valid_items: float = 0.1,
    num_valid_rows: int = 200,
) -> Split:
    """Warm-up of new items: training on hot items; cold items have three phases, then the test.

    Tasks are items, their rows are in time order. Items with more than ``hot`` interactions are
    hot; cold ones have at least ``3 * per_phase`` of them: rows 0-19 are cold-a, 20-39 cold-b,
    40-59 cold-c, all later rows the test. The support is all three phases: judge after 0, 20, 40
    and 60 shots. A share of the hot items, cut to their first 200 rows, is meta-validation.

    Args:
      valid_items: the share of hot items for meta-validation; 0 for none, as published.

    Raises:
      UserError: the table has no times, or no item is hot or cold.

    References: Pan et al., "Warm up cold-start advertisements", SIGIR 2019; Zhu et al., "MWUF",
    SIGIR 2021.
    """
    rows = in_time(table, np.arange(len(table)))
    count = np.bincount(table.item, minlength=table.num_items)
    is_hot = count > hot
    rng = np.random.default_rng([seed, 6])
    is_valid = np.zeros(table.num_items, bool)
    chosen = rng.permutation(np.flatnonzero(is_hot))
    is_valid[chosen[: round(valid_items * len(chosen))]] = True
    by_item = lambda rows, least: grouped(table, rows, least, side="item")

    train_rows = rows[(is_hot & ~is_valid)[table.item[rows]]]
    test, _ = by_item(rows[~is_hot[table.item[rows]]], 3 * per_phase + 1)
    _, kept = by_item(rows[is_valid[table.item[rows]]], 1)
    kept = kept[place_in_group(table.item[kept]) < num_valid_rows]
    valid, _ = by_item(kept, 3 * per_phase + 1)
    split = Split(
        "ctr-warmup",
        seed,
        np.sort(train_rows),
        by_item(train_rows, 1)[0],
        {"item_cold": valid.with_shots(3 * per_phase)} if valid_items else {},
        {"item_cold": test.with_shots(3 * per_phase)},
        per_phase,
        side="item",
    )
    least = 3 * per_phase + 1
    return require_tasks(
        table,
        split,
        f"with {hot} as the most interactions of a new item, no item has enough of them for",
        f"test items need {least} to {hot}, training and validation items more than {hot}: give "
        f"another bound, from {least} on (--hot, or --min-rows of --protocol items), or a larger "
        "log",
    )
