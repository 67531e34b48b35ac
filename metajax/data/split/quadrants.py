"""The four quadrants of cold start: warm, user-cold, item-cold and both-cold tasks of users."""

import numpy as np

from metajax.data.split.tasks import (
    NUM_QUERY,
    Split,
    query_rows,
    require_support,
    require_tasks,
    tasks_of_users,
)
from metajax.data.table import Interactions
from metajax.types import UserError

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")


def quadrants(table: Interactions, cold_users: np.ndarray, cold_items: np.ndarray) -> np.ndarray:
    """The code (n,) of every row: 0 warm, 1 user-cold, 2 item-cold, 3 both-cold.

    Args:
      cold_users: (num_users,) mask of the users unseen in meta-training, from `random_share` or
        `newest_users`.
      cold_items: (num_items,) likewise, from `random_share`, `newest_items` or `last_released`.
    """
    return (cold_users[table.user] + 2 * cold_items[table.item]).astype(np.int8)


def random_share(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A mask (``count``,) of a random share of the users or items."""
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    return chosen


def newest_users(table: Interactions, share: float) -> np.ndarray:
    """A mask (num_users,) of the share of users whose first interaction is the latest.

    Raises:
      UserError: the table has no times.
    """
    return _newest(table, table.user, table.num_users, share)


def newest_items(table: Interactions, share: float) -> np.ndarray:
    """A mask (num_items,) of the share of items whose first interaction is the latest.

    Raises:
      UserError: the table has no times.
    """
    return _newest(table, table.item, table.num_items, share)


def _newest(table: Interactions, owner: np.ndarray, count: int, share: float) -> np.ndarray:
    """The share of owners whose first row is the latest, as a mask."""
    if table.time is None:
        raise UserError(f"{table.name}: who is new is told by time, and the log has none")
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, owner, table.time)
    chosen = np.zeros(count, bool)
    chosen[np.argsort(-first, kind="stable")[: round(share * count)]] = True
    return chosen


def last_released(table: Interactions, share: float) -> np.ndarray:
    """A mask (num_items,) of the items of the last years; their share is the nearest to ``share``.

    Raises:
      UserError: the years of release are unknown.
    """
    if table.item_year is None:
        raise UserError(f"{table.name}: the years of release are unknown; choose items otherwise")
    years = np.unique(table.item_year)
    shares = np.array([np.mean(table.item_year > y) for y in years])
    return table.item_year > years[np.argmin(np.abs(shares - share))]


def melu_states(
    table: Interactions, seed: int, cold_users: float = 0.2, cold_items: float = 0.2
) -> np.ndarray:
    """MeLU's code (n,) of every row, see `quadrants`, with cold users and items drawn from a seed.

    Cold users are a random share. Cold items are those released last, whole years at a time, up
    to the share that comes nearest to ``cold_items``; where years are unknown, a random share.
    """
    rng = np.random.default_rng([seed, 0])
    users = random_share(table.num_users, cold_users, rng)
    if table.item_year is not None:
        return quadrants(table, users, last_released(table, cold_items))
    return quadrants(table, users, random_share(table.num_items, cold_items, rng))


def _coded(
    table: Interactions, seed: int, redraw: bool, given: np.ndarray | None
) -> tuple[str, np.ndarray]:
    """The name of the split by where its codes come from, and the code (n,) of every row."""
    if given is not None:
        return "melu-given", given
    if table.state is not None and not redraw and set(table.state.tolist()) == {0, 1, 2, 3}:
        return "melu", table.state
    return "melu-redrawn", melu_states(table, seed)


def melu(
    table: Interactions,
    seed: int = 0,
    *,
    redraw: bool = False,
    state: np.ndarray | None = None,
    valid_users: float = 0.1,
    min_rows: int = 13,
    max_rows: int | None = 100,
    num_query: int = NUM_QUERY,
    hold_out: bool = True,
) -> Split:
    """MeLU's four scenarios: warm, user-cold, item-cold and both-cold tasks of users.

    A test task is a user with 13 to 100 ratings inside a scenario; of a random permutation of them
    the last 10 are the query. Warm tasks are users seen in meta-training, whose query rows are held
    out of everything that is fitted. A share of the warm users is meta-validation. A scenario for
    which no user has enough interactions is left out.

    Args:
      redraw: draw the codes from the seed even where the table has the published ones.
      state: (n,) the code of every row, e.g. from `quadrants`; None for published or drawn ones.
      valid_users: the share of warm users for meta-validation; 0 for none, as published.
      hold_out: False leaves the warm query rows in meta-training, as a widespread port does
        (PROTOCOLS: "test on train"); only to reproduce it.

    Raises:
      UserError: no user has enough interactions for any scenario, or for meta-validation.

    References: Lee et al., KDD 2019, section 4.
    """
    require_support(min_rows, num_query)
    name, state = _coded(table, seed, redraw, state)
    rng = np.random.default_rng([seed, 1])
    warm = np.flatnonzero(state == 0)
    users = rng.permutation(np.unique(table.user[warm]))
    is_valid = np.zeros(table.num_users, bool)
    is_valid[users[: round(valid_users * len(users))]] = True

    bounds = (min_rows, max_rows)
    warm_train = warm[~is_valid[table.user[warm]]]
    valid, _ = tasks_of_users(table, warm[is_valid[table.user[warm]]], rng, *bounds)
    test_warm, warm_rows = tasks_of_users(table, warm_train, rng, *bounds)
    train_rows = warm_train
    if hold_out:
        train_rows = np.setdiff1d(warm_train, query_rows(test_warm, warm_rows, num_query))
    train, _ = tasks_of_users(table, train_rows, rng, min_rows=3)

    test = {"warm": test_warm}
    for code, scenario in enumerate(SCENARIOS[1:], start=1):
        test[scenario], _ = tasks_of_users(table, np.flatnonzero(state == code), rng, *bounds)
    chosen = {"user_cold": valid} if valid_users else {}
    most = f"{min_rows} to {max_rows}" if max_rows else f"{min_rows} or more"
    split = Split(name, seed, train_rows, train, chosen, test, num_query)
    cure = "give a larger log, other bounds (--min-rows, --max-rows) or another --protocol"
    return require_tasks(table, split, f"no user has {most} interactions in", cure)
