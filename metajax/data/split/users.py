"""Splits by user: disjoint users (MetaRec), TaNP's, and users who are hidden in one domain."""

import numpy as np

from metajax.data.sources.crossdomain import shared_users
from metajax.data.split.tasks import (
    NUM_QUERY,
    Split,
    Tasks,
    grouped,
    require_support,
    require_tasks,
)
from metajax.data.table import Features, Interactions
from metajax.types import UserError


def user_parts(
    users: np.ndarray, shares: tuple[float, float], rng: np.random.Generator, fold: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``users`` (n,) in random order, in three parts: (training, validation, test).

    Args:
      shares: of validation and test, each rounded down.
      fold: number of a cross-validation fold, from 0: which share of the random order is the test.

    Raises:
      UserError: there are fewer folds than that.
    """
    num_valid, num_test = (int(share * len(users) + 1e-9) for share in shares)
    if fold and fold * num_test >= len(users):
        raise UserError(
            f"--fold {fold}: {len(users)} users make {len(users) // max(num_test, 1)} folds of "
            f"{num_test}, counted from 0"
        )
    users = np.roll(rng.permutation(users), fold * num_test)
    first = len(users) - num_valid - num_test
    return users[:first], users[first : first + num_valid], users[first + num_valid :]


def eligible_users(table: Interactions, min_rows: int, max_rows: int | None) -> np.ndarray:
    """The indices (n,) of the users with ``min_rows`` to ``max_rows`` interactions.

    Raises:
      UserError: there are fewer than ten.
    """
    count = np.bincount(table.user, minlength=table.num_users)
    users = np.flatnonzero((count >= min_rows) & (count <= (max_rows or len(table))))
    if len(users) < 10:
        most = f"{min_rows} to {max_rows}" if max_rows else f"{min_rows} or more"
        raise UserError(
            f"{table.name}: {len(users)} users have {most} interactions and 10 are needed; give "
            "a larger log or other bounds"
        )
    return users


def rows_of(table: Interactions, users: np.ndarray) -> np.ndarray:
    """The rows (n,) of the users with the given indices, in the order of the table."""
    chosen = np.zeros(table.num_users, bool)
    chosen[users] = True
    return np.flatnonzero(chosen[table.user])


def in_time(table: Interactions, rows: np.ndarray) -> np.ndarray:
    """The ``rows`` (n,) from the oldest to the newest; equal times keep their order.

    Raises:
      UserError: the table has no times.
    """
    if table.time is None:
        raise UserError(f"{table.name}: this split is by time, and the log has none; give a time")
    return rows[np.argsort(table.time[rows], kind="stable")]


def user_disjoint(
    table: Interactions,
    seed: int = 0,
    *,
    shares: tuple[float, float] = (0.1, 0.1),
    min_rows: int = 13,
    max_rows: int | None = 100,
    num_query: int = NUM_QUERY,
    fold: int = 0,
) -> Split:
    """Users 8:1:1, without overlap; of each valid and test user 10 random rows are the query.

    Users with fewer than 13 or more than 100 interactions are left out altogether.

    Args:
      shares: of validation and test.
      fold: which share of the users is tested; see `user_parts`.

    Raises:
      UserError: fewer than ten users are eligible.

    References: RecBole-MetaRec, ``split_by_ratio_meta`` and ``MetaDataLoader``.
    """
    require_support(min_rows, num_query)
    rng = np.random.default_rng([seed, 2])
    parts = user_parts(eligible_users(table, min_rows, max_rows), shares, rng, fold)
    rows = [rng.permutation(rows_of(table, users)) for users in parts]
    train, valid, test = (grouped(table, r, 1)[0] for r in rows)
    split = Split(
        "user-disjoint",
        seed,
        np.sort(rows[0]),
        train,
        {"user_cold": valid},
        {"user_cold": test},
        num_query,
    )
    return require_tasks(table, split)


def first_k(
    table: Interactions,
    seed: int = 0,
    *,
    num_support: int = 5,
    shares: tuple[float, float] = (0.1, 0.1),
    min_rows: int = 13,
    max_rows: int | None = 100,
) -> Split:
    """Users 8:1:1; of each valid and test user the first ``num_support`` rows by time are support.

    All that the user does later is the query: adaptation never sees the future.

    Raises:
      UserError: no times, or fewer than ten users are eligible.
    """
    rng = np.random.default_rng([seed, 3])
    parts = user_parts(eligible_users(table, min_rows, max_rows), shares, rng)
    rows = [in_time(table, rows_of(table, users)) for users in parts]
    train, valid, test = (grouped(table, r, num_support + 1)[0] for r in rows)
    judged = lambda tasks: {"user_cold": tasks.with_shots(num_support)}
    name = f"first-{num_support}"
    split = Split(name, seed, np.sort(rows[0]), train, judged(valid), judged(test))
    return require_tasks(table, split)


def tanp(
    table: Interactions,
    seed: int = 2020,
    *,
    num_support: int = 20,
    min_rows: int = 40,
    max_rows: int = 200,
) -> Split:
    """TaNP's split: users 7:1:2, of each valid and test user 20 random rows are the support.

    The query is all the rest; its length differs between users. Items that no training user has
    are removed from valid and test users. The paper takes users with 40 to 200 interactions, the
    code those with 30 to 200.

    Raises:
      UserError: fewer than ten users are eligible, or none has a query.

    References: Lin et al., "Task-adaptive neural process for user cold-start recommendation", 2021.
    """
    rng = np.random.default_rng([seed, 4])
    parts = user_parts(eligible_users(table, min_rows, max_rows), (0.1, 0.2), rng)
    rows = [rng.permutation(rows_of(table, users)) for users in parts]
    known = np.zeros(table.num_items, bool)
    known[table.item[rows[0]]] = True

    def judged(rows: np.ndarray) -> dict[str, Tasks]:
        tasks, _ = grouped(table, rows[known[table.item[rows]]], num_support + 1)
        return {"user_cold": tasks.with_shots(num_support)}

    train, _ = grouped(table, rows[0], 1)
    split = Split("tanp", seed, np.sort(rows[0]), train, judged(rows[1]), judged(rows[2]))
    return require_tasks(table, split, f"no user is left with more than {num_support} rows in")


def newcomers(
    table: Interactions,
    seed: int = 0,
    *,
    valid_users: float = 0.1,
    num_query: int = NUM_QUERY,
    max_support: int = 100,
    most_valid: int = 2000,
) -> Split:
    """Users 9:1 for meta-training and validation, without a test: enough to choose a learner.

    It is for a log of any size. A validation user has 2 rows or more; the query is half of them, at
    most ``num_query``: the last by time where the log has times, else random ones. The support is
    the rows before it.

    Args:
      valid_users: the share of validation users.
      max_support: at most that many rows of support, the last ones.
      most_valid: at most that many validation users.

    Raises:
      UserError: fewer than ten users have two rows.
    """
    rng = np.random.default_rng([seed, 6])
    users = rng.permutation(eligible_users(table, 2, None))
    chosen = users[: min(max(3, round(valid_users * len(users))), most_valid)]
    held = rows_of(table, chosen)
    rows = rng.permutation(held) if table.time is None else in_time(table, held)
    rows = rows[np.argsort(table.user[rows], kind="stable")]
    length = np.bincount(table.user, minlength=table.num_users)
    queries = np.minimum(num_query, length // 2)
    first = (length - queries - max_support)[table.user[rows]]
    valid, _ = grouped(table, rows[place_in_group(table.user[rows]) >= first], 2)
    valid = valid._replace(shots=(valid.length - queries[valid.owner]).astype(np.int32))
    train_rows = np.setdiff1d(np.arange(len(table)), held)
    train, _ = grouped(table, rng.permutation(train_rows), 2)
    judged = {"user_cold": valid}
    return require_tasks(table, Split("newcomers", seed, train_rows, train, judged, {}, num_query))


def merge_domains(source: Interactions, target: Interactions) -> Interactions:
    """One table of two domains: the users of both, the items of ``target``, then of ``source``.

    ``state`` is 0 in a row of the target domain and 1 in one of the source domain. Features are
    left out, for a column of one domain says nothing about the other.

    Raises:
      UserError: no user is shared, or the scales differ.
    """
    shared = shared_users(source, target)
    if shared == 0:
        raise UserError(f"{source.name} and {target.name} share no users; give two domains that do")
    if source.scale != target.scale:
        raise UserError(
            f"{source.name} has the scale {source.scale} and {target.name} {target.scale}; bring "
            "them to one scale first"
        )
    far = np.where(source.user < shared, source.user, source.user + target.num_users - shared)
    both = source.time is not None and target.time is not None
    text = lambda name, ids: np.char.add(f"{name}:", ids.astype(str))
    return Interactions(
        name=f"{source.name}+{target.name}",
        user=np.concatenate([target.user, far]).astype(np.int32),
        item=np.concatenate([target.item, source.item + target.num_items]).astype(np.int32),
        label=np.concatenate([target.label, source.label]),
        time=np.concatenate([target.time, source.time]) if both else None,  # pyright: ignore
        user_ids=np.concatenate([target.user_ids, source.user_ids[shared:]]).astype(str),
        item_ids=np.concatenate(
            [text(target.name, target.item_ids), text(source.name, source.item_ids)]
        ),
        user_features=Features(),
        item_features=Features(),
        scale=target.scale,
        state=np.repeat(np.array([0, 1], np.int8), [len(target), len(source)]),
    )


def domain_transfer(
    source: Interactions,
    target: Interactions,
    seed: int = 0,
    *,
    hidden: float = 0.2,
    valid: float = 0.1,
    max_support: int = 100,
    max_query: int = 50,
) -> tuple[Interactions, Split]:
    """The table of both domains, and a split whose tasks are users hidden in the target domain.

    A hidden user's rows in the source domain are the support, those in the target domain the query
    (at random at most ``max_support`` and ``max_query`` of them). All other rows are training rows:
    the whole source domain, and the target domain without the hidden users.

    Args:
      hidden, valid: shares of the shared users for test and for validation.

    Raises:
      UserError: the domains share no users or differ in scale; no hidden user is left.

    References: Man et al., "EMCDR", IJCAI 2017; Zhu et al., "PTUPCDR", WSDM 2022.
    """
    table = merge_domains(source, target)
    assert table.state is not None
    rng = np.random.default_rng([seed, 5])
    counts = [np.bincount(t.user, minlength=table.num_users) for t in (source, target)]
    both = np.arange(shared_users(source, target))
    both = both[(counts[0][both] > 0) & (counts[1][both] > 0)]
    _, for_valid, for_test = user_parts(both, (valid, hidden), rng)
    is_hidden = np.isin(table.user, np.concatenate([for_valid, for_test])) & (table.state == 0)
    train_rows = np.flatnonzero(~is_hidden)
    train, _ = grouped(table, rng.permutation(train_rows), 3)

    def judged(users: np.ndarray) -> dict[str, Tasks]:
        return {"user_cold": _source_then_target(table, users, rng, (max_query, max_support))}

    split = Split("domain-transfer", seed, train_rows, train, judged(for_valid), judged(for_test))
    return table, require_tasks(table, split)


def _source_then_target(
    table: Interactions, users: np.ndarray, rng: np.random.Generator, most: tuple[int, int]
) -> Tasks:
    """Tasks whose support is of domain 1 and whose query is of domain 0, at most ``most`` rows."""
    assert table.state is not None
    kept = []
    for domain in (1, 0):
        rows = rows_of(table, users)
        rows = rng.permutation(rows[table.state[rows] == domain])
        rows = rows[np.argsort(table.user[rows], kind="stable")]
        kept.append(rows[place_in_group(table.user[rows]) < most[domain]])
    tasks, rows = grouped(table, np.concatenate(kept), 2)
    shots = np.add.reduceat(table.state[rows].astype(np.int32), tasks.start)
    return tasks._replace(shots=shots)


def place_in_group(owner: np.ndarray) -> np.ndarray:
    """The position (n,), from 0, of each row among the rows of its owner (n,), which are adjacent.

    >>> place_in_group(np.array([4, 4, 7, 7, 7]))
    array([0, 1, 0, 1, 2])
    """
    _, start, length = np.unique(owner, return_index=True, return_counts=True)
    return np.arange(len(owner)) - np.repeat(start, length)
