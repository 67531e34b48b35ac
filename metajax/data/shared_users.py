"""Two logs of the same people: users of both are numbered alike; domains cut out of one log."""

import dataclasses
from typing import NamedTuple

import numpy as np

from metajax.data.table import Features, Interactions, index_encode
from metajax.types import UserError


class Pair(NamedTuple):
    """Two domains. User u < ``shared`` is the same person in both, others are in one only.

    Attributes:
      source, target: the logs, with users and items that have at least one row.
      shared: the number of people in both.
    """

    source: Interactions
    target: Interactions
    shared: int


def paired(source: Interactions, target: Interactions) -> Pair:
    """The two logs with the people of both first, matched by their ids as text.

    Raises:
      UserError: nobody is in both.
    """
    names = [t.user_ids[np.unique(t.user)].astype(str) for t in (source, target)]
    both = np.intersect1d(names[0], names[1])
    if not both.size:
        there, here = (str(ids[0]) for ids in names)
        raise UserError(
            f"no user is in both {source.name} and {target.name}: users are matched by their ids "
            f"(such as {there!r} there and {here!r} here); give two logs that name the same people "
            "alike"
        )
    return Pair(_users_first(source, both), _users_first(target, both), len(both))


def _users_first(table: Interactions, first: np.ndarray) -> Interactions:
    """The table with these users (ids as text) numbered first, then its other users."""
    used = np.unique(table.user)
    ids = table.user_ids[used].astype(str)
    place = np.searchsorted(first, ids)
    known = first[np.minimum(place, len(first) - 1)] == ids
    order = np.concatenate([used[known][np.argsort(place[known])], used[~known]])
    index = np.zeros(table.num_users, np.int32)
    index[order] = np.arange(len(order), dtype=np.int32)
    features = dataclasses.replace(
        table.user_features, columns={k: v[order] for k, v in table.user_features.columns.items()}
    )
    changes = {"user": index[table.user], "user_ids": table.user_ids[order]}
    return dataclasses.replace(table, user_features=features, **changes)


def of_category(
    table: Interactions, column: str, code: int, without: int, name: str
) -> Interactions:
    """The rows whose items have one category and not another: a domain cut out of a log.

    Args:
      table: the log.
      column: a categorical column of its items.
      code: of the category, ``without``: of the other one.
      name: of the result.
    """
    codes = table.item_features.columns[column]
    kept = (codes == code).any(axis=1) & ~(codes == without).any(axis=1)
    rows = kept[table.item]
    if not rows.any():
        raise UserError(f"{name}: no item has this {column} without the other; choose two others")
    item, items = index_encode(table.item[rows])
    optional = {k: getattr(table, k) for k in ("time", "state", "count")}
    return dataclasses.replace(
        table,
        name=name,
        user=table.user[rows],
        item=item,
        label=table.label[rows],
        item_ids=table.item_ids[items],
        item_features=Features(),
        item_year=None,
        item_titles=None,
        **{k: None if v is None else v[rows] for k, v in optional.items()},
    )
