"""For whom a result holds: test tasks by activity and by what is known of them, and their table.

A record stores the groups in ``extra[GROUPS]``: scenario -> kind -> ``{"names", "of"}``, the names
of the groups and the number (T,) of each test task's group, -1 for none. A record without them, as
older ones are, has no such table. An AUC over rows of many people is not a mean over rows, so that
that of a group is measured of its rows alone (`apart`) and stored under the condition `APART`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metajax.data.table import Features
from metajax.results import grid, intervals, records
from metajax.types import UserError

GROUPS = "task_groups"
APART = "by group"
"""The condition of scores of each group by itself, one group after the other."""
OLDER = (
    "This record is older than the groups of its test rows; run the experiment again to see for "
    "whom the result holds."
)
FEWEST = 10
"""A group of fewer tasks has no row."""
MOST = 8
"""A column with more values makes no groups."""
VALUES = {
    "gender": ("women", "men"),
    "age": ("below 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 and older"),
}
"""Of a column of MovieLens: the names of its values."""
Kinds = dict[str, dict[str, Any]]
"""Kind -> the names of its groups, and the group (T,) of each task."""


def numbered(values: Sequence[str]) -> dict[str, Any]:
    """One kind of group from the name of each task's group (T,).

    >>> numbered(["b", "a", "b"])
    {'names': ['a', 'b'], 'of': [1, 0, 1]}
    """
    names, of = np.unique(np.asarray(values, str), return_inverse=True)
    return {"names": names.tolist(), "of": of.tolist()}


def terciles(count: np.ndarray) -> dict[str, Any] | None:
    """Tasks with few, middling and many, by a count (T,) of each; None where these are all alike.

    Equal counts are in one group, so that the three need not be of one size.

    >>> terciles(np.arange(1, 7))
    {'names': ['few (1-2)', 'middling (3-4)', 'many (5-6)'], 'of': [0, 0, 1, 1, 2, 2]}
    """
    count = np.asarray(count)
    if not len(count) or count.min() == count.max():
        return None
    cuts = np.quantile(count, [1 / 3, 2 / 3], method="inverted_cdf")
    of, names = np.searchsorted(cuts, count, side="left"), []
    for i, word in enumerate(("few", "middling", "many")):
        ends = dict.fromkeys(f(count[of == i]) for f in (np.min, np.max) if (of == i).any())
        names.append(f"{word} ({'-'.join(map(str, ends))})" if ends else word)
    return {"names": names, "of": of.tolist()}


def of_tasks(
    owner: np.ndarray, counts: Mapping[str, np.ndarray], features: Features | None = None
) -> Kinds:
    """The groups of tasks, to be stored under the name of their scenario.

    Args:
      owner: (T,) the user (or item) that each task is.
      counts: kind, such as "training ratings" -> (T,) how many each task has; cut in `terciles`.
      features: of all users; each column of at most `MOST` values, one for a user, is a kind.
    """
    found = {kind: terciles(count) for kind, count in counts.items()}
    kinds = {kind: made for kind, made in found.items() if made}
    for name, size in (features.sizes if features else {}).items():
        values = features.columns[name] if features else np.zeros((0, 0))
        if values.shape[1:] == (1,) and 3 <= size <= MOST + 1:
            names = VALUES.get(name, ())
            names = names if len(names) == size - 1 else [f"value {i + 1}" for i in range(size - 1)]
            kinds[name] = {"names": list(names), "of": (values[owner, 0] - 1).tolist()}
    return kinds


def apart(
    kinds: Kinds, score: Callable[[np.ndarray], np.ndarray | None]
) -> tuple[np.ndarray, Kinds]:
    """Scores (1, M) of each group by itself, one after the other, and the groups of these scores.

    Args:
      kinds: the groups of N rows.
      score: which rows (N,) are of a group -> values (m,) whose mean is the group's score; None if
        its rows are too few or too much alike for one.

    >>> values, told = apart({"sex": numbered(["men", "women", "men"])}, lambda mine: mine[mine])
    >>> told
    {'sex': {'names': ['men, 2 rows', 'women, 1 rows'], 'of': [0, 0, 1]}}
    """
    found = []
    for kind, told in kinds.items():
        for i in range(len(told["names"])):
            mine = np.asarray(told["of"]) == i
            values = score(mine) if mine.any() else None
            found.append((kind, i, mine.sum(), np.zeros(0) if values is None else values))
    made: Kinds = {}
    for kind, told in kinds.items():
        of = [np.full(len(values), i if k == kind else -1) for k, i, _, values in found]
        rows = [count for k, _, count, _ in found if k == kind]
        names = [f"{n}, {count:,} rows" for n, count in zip(told["names"], rows, strict=True)]
        made[kind] = {"names": names, "of": np.concatenate(of).tolist()}
    return np.concatenate([np.zeros(0), *(values for *_, values in found)])[None], made


def stored(record: records.Record, scenario: str) -> Kinds:
    """The groups of a scenario's tasks; empty for a record without them.

    Raises:
      UserError: they are not of this record's tasks.
    """
    kinds = record.extra.get(GROUPS, {}).get(scenario, {})
    sizes = {v.shape[1] for k, v in record.scores.items() if k.scenario == scenario}
    for kind, told in kinds.items():
        if not sizes.issuperset({len(told["of"])}):
            raise UserError(
                f"the record of {record.experiment} has {kind} of {len(told['of'])} tasks, but "
                f"scores of {', '.join(map(str, sizes))} in {scenario}; run the experiment again"
            )
    return kinds


def parts(kinds: Kinds, fewest: int = FEWEST) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, group, which tasks (T,)) of each group with enough tasks that is not all of them."""
    for kind, told in kinds.items():
        of = np.asarray(told["of"])
        for i, name in enumerate(told["names"]):
            mine = of == i
            if mine.sum() >= fewest and not mine.all():
                yield kind, name, mine


def table(
    record: records.Record,
    scenario: str,
    arms: Sequence[str],
    metric: str,
    *,
    title: str,
    pair: tuple[str, str] | None = None,
    condition: str = records.ALL,
    kinds: Kinds | None = None,
    fewest: int = FEWEST,
    unit: str = "tasks",
) -> grid.Grid | None:
    """The mean of each arm in each group, and a paired difference; None without groups.

    Args:
      arms: which have a column.
      metric: its mean as it is stored: "mse" has no root here.
      title: what is measured, of whom.
      pair: the arms whose difference, first minus second, is the last column; else the first two.
      kinds: the groups, if not those that are `stored`.
      fewest: tasks of a group that has a row.
      unit: what is counted and drawn again for intervals.
    """
    rows, sections, before = [], [], ""
    first, second = pair or (arms[0], arms[1])
    for kind, name, mine in parts(stored(record, scenario) if kinds is None else kinds, fewest):
        get = lambda arm, m=mine: record.of(scenario, arm, condition, metric)[:, m]
        means = [np.nanmean(intervals.mean_of_seeds(get(arm))) for arm in arms]
        gap = grid.signed(records.difference(get(first), get(second)))
        if kind != before:
            sections.append(len(rows))
        head = kind if kind != before else ""
        rows.append([head, name, str(mine.sum()), *(f"{m:.3f}" for m in means), gap])
        before = kind
    heads = ["by", "group", unit, *arms, f"{first} - {second}"]
    note = (
        "A star marks an interval that excludes 0; nothing is corrected for the number of groups. "
        "Few, middling and many are the lowest, middle and highest third, with their counts."
    )
    return grid.Grid(title, heads, rows, 2, [note], sections) if rows else None


def show(record: records.Record, scenario: str, arms: Sequence[str], metric: str, **how: Any):
    """Prints the `table`, if the record has groups."""
    made = table(record, scenario, arms, metric, **how)
    if made:
        grid.terminal(made)
