"""Ranking a whole catalogue for new users: the lists to rank, the metrics, and tuning.

A new user has a history of a few items, is shown a ranking of all candidates, and is judged by the
items that they interacted with later. Arms are in `ranking_arms`.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse as sp

from metajax.benchmark.ranking_arms import Fit, Prepare, Scorer, Sparse
from metajax.data.split import Split, Tasks
from metajax.data.table import Interactions
from metajax.tuning import search
from metajax.types import UserError


def interactions_of(table: Interactions, rows: np.ndarray, threshold: float = 0.0) -> Sparse:
    """Interactions (U, I) as a sparse matrix of ones: given rows with labels above a threshold."""
    rows = rows[table.label[rows] > threshold]
    ones = np.ones(len(rows), np.float32)
    shape = (table.num_users, table.num_items)
    met = sp.csr_matrix((ones, (table.user[rows], table.item[rows])), shape=shape)
    met.data[:] = 1.0  # people may meet an item again
    return met


class Lists(NamedTuple):
    """T users to rank a catalogue of I items for.

    Attributes:
      history: (T, I) ones, the items that each user has interacted with so far.
      relevant: (T, I) ones, the items that each will interact with: what should rank high.
      candidates: (I,) whether an item may be listed.
    """

    history: Sparse
    relevant: Sparse
    candidates: np.ndarray


def lists_of(
    tasks: Tasks, split: Split, num_items: int, shots: int, candidates: np.ndarray, threshold=0.0
) -> Lists:
    """Tasks as lists: the history is the first ``shots`` liked support rows, relevant is the query.

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


def among(lists: Lists, items: np.ndarray) -> Lists:
    """The lists over the given items alone, (I,) booleans: what arms know that never saw others."""
    of = lambda matrix: sp.csr_matrix(matrix[:, items])
    return Lists(of(lists.history), of(lists.relevant), lists.candidates[items])


def list_metrics(
    scorer: Scorer, lists: Lists, key: jax.Array, block: int = 512
) -> dict[str, np.ndarray]:
    """Per-task ``ndcg@10`` and ``recall@20`` (T,) of ranking all candidates not in the history.

    Ties are broken at random. A task without a relevant candidate is NaN.

    Args:
      scorer: histories (T, I) -> scores (T, I).
      lists: T users, their histories and what is relevant to them.
      key: of the random order of ties.
      block: users scored at a time, which bounds the memory.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    columns = np.flatnonzero(lists.candidates)
    parts = []
    for first in range(0, lists.history.shape[0], block):
        shuffled = rng.permutation(columns)  # so that ties fall to nobody in particular
        history = lists.history[first : first + block]
        score = np.array(scorer(history)[:, shuffled], np.float64)
        seen = np.asarray(history[:, shuffled].todense()) > 0
        wanted = np.asarray(lists.relevant[first : first + block][:, shuffled].todense()) > 0
        parts.append(_metrics(np.where(seen | np.isnan(score), -np.inf, score), wanted & ~seen))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _metrics(score: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """nDCG@10 and recall@20 (T,) of scores (T, C), -inf where an item is not listed."""
    most = min(20, score.shape[1])
    top = np.argpartition(-score, most - 1, axis=1)[:, :most]
    order = np.argsort(-np.take_along_axis(score, top, axis=1), axis=1, kind="stable")
    hit = np.take_along_axis(wanted, np.take_along_axis(top, order, axis=1), axis=1)
    gain = 1.0 / np.log2(np.arange(2, 12))
    count = wanted.sum(axis=1)
    ideal = np.concatenate([[np.nan], np.cumsum(gain)])[np.minimum(count, 10)]
    share = np.where(count > 0, hit.sum(axis=1) / np.maximum(count, 1), np.nan)
    return {"ndcg@10": hit[:, :10] @ gain[: min(10, most)] / ideal, "recall@20": share}


class Ranker(NamedTuple):
    """A fitted arm that ranks.

    Attributes:
      score: histories (T, I) -> scores (T, I).
      settings: what was chosen; ``valid`` is its quality on meta-validation, ``trials`` how many
        settings were tried.
      fit: settings by name -> scorer, to fit it again, as with another seed.
    """

    score: Scorer
    settings: dict[str, Any]
    fit: Fit


def quality(scorer: Scorer, valid: Sequence[Lists]) -> float:
    """What rankers are chosen by: nDCG@10, averaged over users, then over the ``valid`` lists."""
    found = [
        np.nanmean(list_metrics(scorer, lists, jax.random.key(0))["ndcg@10"]) for lists in valid
    ]
    return float(np.mean(found))


def tuned(
    prepare: Prepare,
    space: search.Space,
    met: Sparse,
    valid: Sequence[Lists],
    trials: int,
    *,
    folder: pathlib.Path | None = None,
    report: Callable[[float], None] = lambda quality: None,
) -> Ranker:
    """The arm with the settings of greatest `quality` on meta-validation.

    Args:
      prepare: interactions (U, I) -> settings by name -> scorer, see `ranking_arms`.
      space: the settings to search, beginning in the middle; an arm without any has one trial.
      met: (U, I) interactions of the training users.
      valid: lists of validation users, e.g. at several numbers of shots.
      trials: how many settings are tried.
      folder: where trials are kept; a later call with the same folder continues the search.
      report: called with the quality of each trial.
    """
    fit = prepare(met)
    if not space:
        scorer = fit()
        return Ranker(scorer, {"valid": quality(scorer, valid), "trials": 1}, fit)

    def objective(settings: dict[str, Any], watch: search.Watch) -> float:
        found = quality(fit(**settings), valid)
        report(found)
        return -found

    begin = search.middle(space)
    found = search.tune(objective, space, trials, folder=folder, name="ranker", first=begin)
    settings = found.best | {"valid": -found.score, "trials": found.spent}
    return Ranker(fit(**found.best), settings, fit)


class Ranking(NamedTuple):
    """A log made into lists to rank for new users: lists of known items and lists of new items.

    Attributes:
      met: (U, I) interactions of the training users with known items.
      known: (I,) whether a training user has interacted with the item.
      valid, test: scenario -> shots -> lists. The candidates of ``user_cold`` are the known items,
        those of ``item_cold`` items that no training user has interacted with; histories are of
        known items in both.
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
    """New users and new items, drawn at random; a user's known items are divided in two halves.

    In a random order, the history is the first ``shots`` items of the first half. The second half
    is relevant, the same items at every number of shots.

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
