"""The four quadrants of cold start: warm, user-cold, item-cold and both-cold tasks of users."""

import numpy as np

from metajax.data.split.tasks import (
    NUM_QUERY,
    Split,
    Tasks,
    query_rows,
    require_tasks,
    tasks_of_users,
)
from metajax.data.table import Interactions

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")


def melu_states(
    table: Interactions, seed: int, cold_users: float = 0.2, cold_items: float = 0.2
) -> np.ndarray:
    """MeLU's code of every row, drawn from a seed: 0 warm, 1 user-cold, 2 item-cold, 3 both-cold.

    Cold users are a random share. Cold items are those released last, whole years at a time, up
    to the share that comes nearest to ``cold_items``; where years are unknown, a random share.
    """
    rng = np.random.default_rng([seed, 0])
    user_cold = np.zeros(table.num_users, bool)
    chosen = rng.permutation(table.num_users)[: round(cold_users * table.num_users)]
    user_cold[chosen] = True
    item_cold = np.zeros(table.num_items, bool)
    if table.item_year is not None:
        years = np.unique(table.item_year)
        shares = np.array([np.mean(table.item_year > y) for y in years])
        item_cold = table.item_year > years[np.argmin(np.abs(shares - cold_items))]
    else:
        item_cold[rng.permutation(table.num_items)[: round(cold_items * table.num_items)]] = True
    return (user_cold[table.user] + 2 * item_cold[table.item]).astype(np.int8)


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
    the last 10 are the query. Warm tasks belong to users seen in meta-training, their query rows
    are held out of everything that is fitted. A share of the warm users is meta-validation.

    Args:
      redraw: draw the states from the seed even where the table brings the published ones.
      state: (n,) the code of every row, e.g. from `splits.quadrants`; else published or drawn.
      valid_users: the share; 0 for none, as published.
      hold_out: False leaves the warm query rows in meta-training, as a widespread port does
        (PROTOCOLS: "test on train"); only to reproduce it.

    Raises:
      UserError: no user has enough interactions for a scenario.

    References: Lee et al., KDD 2019, section 4.
    """
    name = "melu" if table.state is not None and not redraw else "melu-redrawn"
    if state is not None:
        name = "melu-given"
    else:
        state = table.state if name == "melu" else melu_states(table, seed)
    assert state is not None
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
    return require_tasks(table, split, f"no user has {most} interactions in")
