"""What a data set holds and which tasks each split would make of it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from metajax.data import split
from metajax.data.split import Split
from metajax.data.table import Features, Interactions
from metajax.types import UserError

RULES: dict[str, Callable[[Interactions], Split]] = {
    "melu (published states)": split.melu,
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
    """What the table holds, as pairs of a name and a text."""
    n, cells = len(table), table.num_users * table.num_items
    pairs = np.unique(table.user.astype(np.int64) * table.num_items + table.item)
    values, counts = np.unique(table.label, return_counts=True)
    middle = (table.scale[0] + table.scale[1]) / 2
    facts = [
        ("data set", f"{table.name}, checksum {table.checksum()}"),
        ("interactions", f"{n:,}, {n - len(pairs):,} of a pair that occurred before"),
        ("users, items", f"{table.num_users:,}, {table.num_items:,}"),
        ("density", f"{len(pairs) / cells:.3%} of all pairs"),
        ("rows of a user", _quantiles(np.bincount(table.user, minlength=table.num_users))),
        ("rows of an item", _quantiles(np.bincount(table.item, minlength=table.num_items))),
        ("labels", f"{table.scale[0]:g} to {table.scale[1]:g}, mean {table.label.mean():.4f}"),
        ("positive rate", f"{np.mean(table.label > middle):.4f} above {middle:g}"),
    ]
    if len(values) <= 12:
        shares = ", ".join(f"{v:g}: {c / n:.1%}" for v, c in zip(values, counts, strict=True))
        facts.append(("shares of labels", shares))
    facts.append(("times", _period(table.time)))
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


def _period(time: np.ndarray | None) -> str:
    """First and last day, and how many distinct times."""
    if time is None:
        return "unknown"
    first, last = (datetime.fromtimestamp(int(t), UTC).date() for t in (time.min(), time.max()))
    return f"{first} to {last}, {len(np.unique(time)):,} distinct"


def _features(features: Features) -> str:
    """The columns, each with its number of values."""
    kinds = {k: f"{features.sizes[k] - 1:,} values" for k in features.sizes}
    named = [f"{k} ({kinds.get(k, 'number')})" for k in features.columns]
    return ", ".join(named) or "none"


def tasks(table: Interactions) -> list[tuple[str, str]]:
    """The tasks that each split makes of the table, or why it makes none: (name, text) pairs."""
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


def show(table: Interactions) -> str:
    """Everything about a table as text, one fact per line."""
    lines = [f"{name:<23} {text}" for name, text in summary(table)]
    lines += ["", "tasks of each split (seed 0; tanp: 2020)"]
    lines += [f"{name:<23} {text}" for name, text in tasks(table)]
    return "\n".join(lines)
