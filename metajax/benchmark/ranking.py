"""Full-catalogue ranking for users and items that were never seen: lists, metrics, tuning."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from metajax.benchmark.ranking_arms import Fit, Grid, Scorer, Sparse
from metajax.data.split import Split, Tasks
from metajax.data.table import Interactions
from metajax.evaluation import metrics
from metajax.types import UserError


def interactions_of(table: Interactions, rows: np.ndarray, threshold: float = 0.0) -> Sparse:
    """Who met what (U, I), as ones, in the given rows with a label above the threshold."""
    rows = rows[table.label[rows] > threshold]
    ones = np.ones(len(rows), np.float32)
    shape = (table.num_users, table.num_items)
    met = sp.csr_matrix((ones, (table.user[rows], table.item[rows])), shape=shape)
    met.data[:] = 1.0  # people may meet an item again
    return met


class Lists(NamedTuple):
    """Users to rank a catalogue for.

    Attributes:
      history: (T, I) ones, what each has met.
      relevant: (T, I) ones, what each will meet.
      candidates: (I,) whether an item may be listed.
    """

    history: Sparse
    relevant: Sparse
    candidates: np.ndarray


def lists_of(
    tasks: Tasks, split: Split, num_items: int, shots: int, candidates: np.ndarray, threshold=0.0
) -> Lists:
    """Tasks as lists: the first ``shots`` liked support rows are the history, the query is to come.

    Args:
      candidates: (C,) the items that may be listed.
      threshold: rows with labels above it count, in the history and as relevant.
    """
    task = np.repeat(np.arange(tasks.num_tasks), tasks.length)
    place = np.arange(len(task)) - np.repeat(tasks.start, tasks.length)
    is_query = place >= (tasks.length - split.query_size(tasks))[task]
    liked = tasks.label > threshold
    given = liked & ~is_query
    before = np.cumsum(given) - given  # given rows of all tasks so far
    nth = before - before[tasks.start][task]
    allowed = np.zeros(num_items, bool)
    allowed[candidates] = True
    shape = (tasks.num_tasks, num_items)

    def ones(rows: np.ndarray) -> Sparse:
        found = sp.csr_matrix(
            (np.ones(rows.sum(), np.float32), (task[rows], tasks.other[rows])), shape=shape
        )
        found.data[:] = 1.0
        return found

    return Lists(ones(given & (nth < shots)), ones(liked & is_query), allowed)


def ranked(scorer: Scorer, lists: Lists, key: jax.Array, block: int = 256) -> dict[str, np.ndarray]:
    """Per-task ``ndcg@10`` and ``recall@20`` (T,) of ranking all candidates but the history's.

    Ties are broken at random. A task without a relevant candidate is NaN.
    """
    num_tasks = lists.history.shape[0]

    @jax.jit
    def judge(score, label, mask, keys):
        ten = jax.vmap(functools.partial(metrics.ndcg, k=10))(score, label, mask, keys)
        twenty = jax.vmap(functools.partial(metrics.recall, k=20))(score, label, mask, keys)
        return {"ndcg@10": ten, "recall@20": twenty}

    parts = []
    for first in range(0, num_tasks, block):
        rows = np.arange(first, first + block) % num_tasks  # the last block wraps around
        history = lists.history[rows]
        seen = np.asarray(history.todense()) > 0
        label = np.asarray(lists.relevant[rows].todense(), np.float32)
        mask = (lists.candidates[None, :] & ~seen).astype(np.float32)
        keys = jax.random.split(jax.random.fold_in(key, first), block)
        parts.append(judge(jnp.asarray(scorer(history), jnp.float32), label, mask, keys))
    joined = {name: np.concatenate([np.asarray(p[name]) for p in parts]) for name in parts[0]}
    return {name: values[:num_tasks] for name, values in joined.items()}


class Ranker(NamedTuple):
    """A fitted arm.

    Attributes:
      score: histories -> scores.
      settings: what was chosen, ``valid`` and ``trials`` among it.
    """

    score: Scorer
    settings: dict[str, Any]


def tuned(
    fit: Fit,
    grids: Sequence[Grid],
    met: Sparse,
    valid: Sequence[Lists],
    wrap: Callable[[Scorer], Scorer] = lambda scorer: scorer,
) -> Ranker:
    """The arm with the settings of greatest nDCG@10 on meta-validation, mean over its lists.

    Args:
      grids: setting -> values; all combinations of a grid are tried, at the best settings of the
        grids before it.
      valid: lists of validation users, e.g. at several numbers of shots.
      wrap: around every scorer, such as `with_content`.
    """
    best, score, trials = Ranker(lambda histories: histories, {}), -np.inf, 0
    for grid in grids:
        start = best.settings
        for values in itertools.product(*grid.values()):
            settings = {**start, **dict(zip(grid, values, strict=True))}
            scorer, trials = wrap(fit(met, **settings)), trials + 1
            found = [np.nanmean(ranked(scorer, x, jax.random.key(0))["ndcg@10"]) for x in valid]
            if np.mean(found) > score:
                best, score = Ranker(scorer, settings), float(np.mean(found))
    return best._replace(settings={**best.settings, "valid": score, "trials": trials})


class Ranking(NamedTuple):
    """A log made into lists for users that were never seen, of known items and of new ones.

    Attributes:
      met: (U, I) what training users have met among known items.
      known: (I,) whether an item has been met in training.
      valid, test: scenario -> shots -> lists: of ``user_cold`` the known items are listed, of
        ``item_cold`` items that no training user has met. The history is of known items.
    """

    met: Sparse
    known: np.ndarray
    valid: dict[str, dict[int, Lists]]
    test: dict[str, dict[int, Lists]]


SHOTS = (1, 3, 5, 10, 20)


def ranking_of(
    table: Interactions,
    seed: int = 0,
    *,
    shots: Sequence[int] = SHOTS,
    threshold: float = 0.0,
    new_items: float = 0.1,
    users: float = 0.1,
    fewest: int = 4,
) -> Ranking:
    """New users and new items, drawn at random; a user's known items are cut in two halves.

    The first half of a random order is what the first ``shots`` are taken from, the second is to be
    found, the same at every number of shots.

    Args:
      threshold: rows with labels above it are interactions.
      new_items: share of items kept from training for validation, and as many for the test.
      users: share of users for validation, and as many for the test.
      fewest: known items of a validation or test user, at least.

    Raises:
      UserError: no validation or test user has so many.
    """
    rng = np.random.default_rng([seed, 21])
    liked = rng.permutation(np.flatnonzero(table.label > threshold))
    part_of = lambda count, share: np.searchsorted(
        [share, 2 * share], rng.permutation(count) / max(count, 1), side="right"
    )  # 0 validation, 1 test, 2 training
    owner, item = part_of(table.num_users, users), part_of(table.num_items, new_items)
    trained = liked[(owner[table.user[liked]] == 2) & (item[table.item[liked]] == 2)]
    met = interactions_of(table, trained, -np.inf)
    known = np.asarray(met.sum(axis=0)).ravel() > 0
    found = []
    for phase in (0, 1):
        mine = liked[owner[table.user[liked]] == phase]
        old, new = mine[known[table.item[mine]]], mine[item[table.item[mine]] == phase]
        found.append(_lists(table, old, new, known, item == phase, shots, fewest))
    return Ranking(met, known, *found)


def _lists(
    table: Interactions,
    old: np.ndarray,
    new: np.ndarray,
    known: np.ndarray,
    is_new: np.ndarray,
    shots: Sequence[int],
    fewest: int,
) -> dict[str, dict[int, Lists]]:
    """Scenario -> shots -> lists of the users of some rows.

    Args:
      old, new: rows with known items, and with new ones.
      known, is_new: (I,) the candidates of each scenario.
    """
    old = old[
        np.unique(
            table.user[old].astype(np.int64) * table.num_items + table.item[old], return_index=True
        )[1]
    ]
    old = np.random.default_rng(0).permutation(old)
    old = old[np.argsort(table.user[old], kind="stable")]
    user, start, count = np.unique(table.user[old], return_index=True, return_counts=True)
    place = np.arange(len(old)) - np.repeat(start, count)
    half = np.repeat(count // 2, count)
    enough = user[count >= fewest]
    if not len(enough):
        raise UserError(f"{table.name}: no user has {fewest} known items; give a larger log")
    lists = lambda rows: interactions_of(table, rows, -np.inf)[enough]
    later, unmet = lists(old[place >= half]), lists(new)
    given = {k: lists(old[(place < half) & (place < k)]) for k in shots}
    return {
        "user_cold": {k: Lists(history, later, known) for k, history in given.items()},
        "item_cold": {k: Lists(history, unmet, is_new) for k, history in given.items()},
    }
