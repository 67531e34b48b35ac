"""A summary of a data set, and of the tasks that each split would make from it."""

import textwrap
from collections.abc import Callable

import numpy as np

from metajax.data import split
from metajax.data.split import Split
from metajax.data.table import Features, Interactions, repeated_pairs, tied_rows
from metajax.types import UserError

RULES: dict[str, Callable[[Interactions], Split]] = {
    "melu": split.melu,
    "melu, drawn anew": lambda table: split.melu(table, redraw=True),
    "melu, cold by time": lambda table: split.melu(table, state=_newest(table)),
    "user-disjoint (metarec)": split.user_disjoint,
    "first-5": split.first_k,
    "tanp": split.tanp,
    "global-time": split.global_time,
    "prequential": split.prequential,
    "leave-one-out": split.leave_one_out,
    "ctr-warmup": split.ctr_warmup,
}
QUANTILES = (0, 25, 50, 75, 90, 100)


def _newest(table: Interactions) -> np.ndarray:
    return split.quadrants(table, split.newest_users(table, 0.2), split.newest_items(table, 0.2))


def summary(table: Interactions) -> list[tuple[str, str]]:
    """The facts of a table (counts, density, labels, times, features) as (name, text) pairs."""
    n, cells = len(table), table.num_users * table.num_items
    repeated = repeated_pairs(table)
    values, counts = np.unique(table.label, return_counts=True)
    middle = (table.scale[0] + table.scale[1]) / 2
    parts = table.notes.split("; ") if table.notes else []
    read = [part for part in parts if not part.startswith("note: ")]
    odd = [part.removeprefix("note: ") for part in parts if part.startswith("note: ")]
    facts = [
        ("data set", f"{table.name}, checksum {table.checksum()}"),
        *(("read" if not place else "", text) for place, text in enumerate(read)),
        *(("WARNING", one) for one in odd),
        ("interactions", f"{n:,}, {repeated:,} of a pair that occurred before"),
        ("users, items", f"{table.num_users:,}, {table.num_items:,}"),
        ("density", f"{(n - repeated) / cells:.3%} of all pairs"),
        ("rows of a user", _quantiles(np.bincount(table.user, minlength=table.num_users))),
        ("rows of an item", _quantiles(np.bincount(table.item, minlength=table.num_items))),
        ("labels", f"{table.scale[0]:g} to {table.scale[1]:g}, mean {table.label.mean():.4f}"),
        ("positive rate", f"{np.mean(table.label > middle):.4f} above {middle:g}"),
    ]
    if len(values) <= 12:
        shares = ", ".join(f"{v:g}: {c / n:.1%}" for v, c in zip(values, counts, strict=True))
        facts.append(("shares of labels", shares))
    if table.count is not None:
        facts.append(("counts", f"{table.count.min():g} to {table.count.max():g}"))
    facts.append(("times", _period(table)))
    facts.append(("user features", _features(table.user_features)))
    facts.append(("item features", _features(table.item_features)))
    if table.state is not None:
        states, counts = np.unique(table.state, return_counts=True)
        shown = ", ".join(f"{s}: {c:,}" for s, c in zip(states, counts, strict=True))
        facts.append(("published split", shown))
    return facts


def _quantiles(counts: np.ndarray) -> str:
    """The counts that a share of the owners does not exceed."""
    found = np.percentile(counts, QUANTILES, method="lower")
    named = [f"{v:,} ({q} %)" for q, v in zip(QUANTILES, found, strict=True)]
    return ", ".join(named)


def _period(table: Interactions) -> str:
    """First and last day, how many distinct times, and how many rows of a user share one."""
    if table.time is None:
        return "unknown"
    ends = [str(np.datetime64(int(t), "s"))[:10] for t in (table.time.min(), table.time.max())]
    tied = tied_rows(table) / len(table)
    distinct = len(np.unique(table.time))
    return (
        f"{ends[0]} to {ends[1]}, {distinct:,} distinct, {tied:.1%} of rows tied within their user"
    )


def _features(features: Features) -> str:
    """The columns, each with its number of values."""
    kinds = {k: f"{features.sizes[k] - 1:,} values" for k in features.sizes}
    named = [f"{k} ({kinds.get(k, 'number')})" for k in features.columns]
    return ", ".join(named) or "none"


def tasks(table: Interactions) -> list[tuple[str, str]]:
    """The number of tasks in each split of the table, or why there are none: (name, text) pairs."""
    return [(name, _tasks_of(table, rule)) for name, rule in RULES.items()]


def _tasks_of(table: Interactions, rule: Callable[[Interactions], Split]) -> str:
    """The tasks of each part of a split, or why there are none."""
    try:
        made = rule(table)
    except UserError as error:
        return f"none: {str(error).removeprefix(f'{table.name}: ')}"
    parts = {"train": made.train}
    parts |= {f"valid {k}": v for k, v in made.valid.items()}
    parts |= {f"test {k}": v for k, v in made.test.items()}
    shown = [f"{k.replace('_', '-')} {v.num_tasks:,}" for k, v in parts.items()]
    num_query = sum(int(made.query_size(t).sum()) for t in made.test.values())
    return f"{', '.join(shown)}; {num_query:,} test rows; checksum {made.checksum()}"


def show(table: Interactions, width: int = 0) -> str:
    """`summary` and `tasks` as text, a fact per line; wrapped at ``width`` characters if not 0."""
    facts = summary(table)
    lines = [_folded(name, text, width) for name, text in facts]
    lines += ["", "tasks of each split (seed 0; tanp: 2020)"]
    lines += [_folded(name, text, width) for name, text in tasks(table)]
    return "\n".join(lines)


def _folded(name: str, text: str, width: int) -> str:
    """One fact, on several lines if it is too long for one."""
    line = f"{name:<23} {text}"
    if not 0 < width < (len(line) if name else 72):
        return line
    indent = " " * (24 if width >= 72 else 4)
    lines = textwrap.wrap(
        line if width >= 72 else text,
        width,
        initial_indent="" if width >= 72 else indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return "\n".join(lines if width >= 72 or not name else [name, *lines])
