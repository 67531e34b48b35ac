"""Evaluation protocols: split, candidates, metrics and aggregation, which belong to any number.

Each function returns a `Protocol` without known errors. With ``legacy=True`` it has the errors of
the published code, so that its tables can be reproduced; each docstring lists them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data import episodes
from metajax.data import split as splits
from metajax.data.split import Split
from metajax.data.table import Interactions
from metajax.evaluation import evaluate, metrics
from metajax.evaluation.catalogue import as_ranks, matched_values, top_k_list
from metajax.types import Examples, MetaLearner, Params

Judge = Callable[[jax.Array, Examples, jax.Array], dict[str, jax.Array]]


class Protocol(NamedTuple):
    """An evaluation protocol.

    Attributes:
      name: in tables and records, including "-legacy".
      prepare: table -> table, e.g. ratings turned into clicks.
      split: (table, seed) -> split.
      candidates: the items that are ranked, in words.
      judge: (scores (T, Q), query (T, Q), key) -> metrics (T,) per task, or (1,) if the aggregation
        is over rows. NaN is a task without a defined value, which is left out and counted.
      aggregation: in words.
      shots: numbers of support rows to evaluate at; () for the whole support.
      legacy: whether it has the errors of the published code.
    """

    name: str
    prepare: Callable[[Interactions], Interactions]
    split: Callable[[Interactions, int], Split]
    candidates: str
    judge: Judge
    aggregation: str = "mean over users"
    shots: tuple[int, ...] = ()
    legacy: bool = False


def run(
    protocol: Protocol,
    learner: MetaLearner,
    params: Params,
    table: Interactions,
    split: Split,
    key: jax.Array,
) -> dict[str, dict[str, jax.Array]]:
    """Scenario -> metric -> values (K, T) on a learner's test tasks, at K numbers of shots.

    K is 1, with the whole support, unless the protocol has ``shots``.

    Args:
      table: prepared by the protocol, with the columns that the learner reads.
      split: the protocol's, of that table. Use its test tasks once, after the last choice.
    """
    source_of = episodes.source_of_users if split.side == "user" else episodes.source_of_items
    judge = lambda scores, tasks, key: protocol.judge(scores, tasks.query, key)
    found = {}
    for scenario, tasks in split.test.items():
        fixed = jax.tree.map(jnp.asarray, episodes.fixed(tasks, split.num_query))
        shots = protocol.shots or (fixed.support.mask.shape[1],)
        of_shots = jax.jit(
            lambda params, source, tasks, shots=shots: evaluate.k_shot(
                learner, params, tasks, key, shots, judge, fetch=episodes.fetch_from(source)
            )
        )
        found[scenario] = of_shots(params, source_of(tasks, table), fixed)
    return found


def unprepared(table: Interactions) -> Interactions:
    """The table unchanged: the ``prepare`` of protocols on ratings."""
    return table


def middle(table: Interactions) -> float:
    """The middle of the scale, above which a label is relevant: 3 of 1..5, 5 of 0..10, 0.5 of 0..1.

    Ratings of 4 and 5 stars are relevant, and so is every implicit event.
    """
    return (table.scale[0] + table.scale[1]) / 2


def clicks(table: Interactions) -> Interactions:
    """The table with its labels made binary: 1 above the `middle` of the scale, else 0."""
    label = (table.label > middle(table)).astype(np.float32)
    return dataclasses.replace(table, label=label, scale=(0.0, 1.0))


def clicks_by_first_row(table: Interactions) -> Interactions:
    """`clicks` with an error of RecBole-MetaRec: the label of the first row becomes 0.

    Its labels are numbered in the order of their appearance. On a log whose first row is a click,
    as of MovieLens 1M, clicks and non-clicks are exchanged.
    """
    table = clicks(table)
    label = (table.label != table.label[0]).astype(np.float32)
    return dataclasses.replace(table, label=label)


def _per_task(one: Callable[..., dict[str, jax.Array]]) -> Judge:
    """A judge of a batch from one of a task: (score, label, mask, key) -> metrics."""

    def judge(scores: jax.Array, query: Examples, key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, scores.shape[0])
        return jax.vmap(one)(scores, query.label, query.mask, keys)

    return judge


def metarec_rating(legacy: bool = False, k: int = 5) -> Protocol:
    """RecBole-MetaRec with ratings: the relevant items are the 5 highest-rated of 10 query items.

    Users 8:1:1 with 13 to 100 interactions. Equally rated items compete for the last of the five
    places at random, and ties of scores are random: a constant scorer has precision 1/2.

    Legacy: both kinds of ties keep the order of the rows, so that a constant scorer seems better
    than chance (precision .61 on MovieLens).
    """

    def one(score, label, mask, key):
        key_label, key_score = jax.random.split(key)
        ideal = as_ranks(label, mask, None if legacy else key_label)
        relevant = (ideal > -k) & (mask > 0)
        return top_k_list(score, relevant * 1.0, mask, None if legacy else key_score, k)

    return Protocol(
        "metarec-rating" + "-legacy" * legacy,
        unprepared,
        lambda table, seed: splits.user_disjoint(table, seed),
        "10 query items",
        _per_task(one),
        legacy=legacy,
    )


def metarec_click(legacy: bool = False, k: int = 5) -> Protocol:
    """RecBole-MetaRec with clicks: ratings above the middle of the scale are clicks.

    Users 8:1:1 with 13 to 100 interactions, 10 query items; ties of scores at random; a user
    without a click among them has no value.

    Legacy: labels are `clicks_by_first_row`, the smallest label of a query is subtracted (a query
    of clicks alone has none then), users without a click count 0, ties keep the order of the rows.
    """

    def one(score, label, mask, key):
        if legacy:
            label = label - jnp.min(jnp.where(mask > 0, label, jnp.inf))
        found = top_k_list(score, label, mask, None if legacy else key, k)
        clicked = jnp.sum(label * mask) > 0
        return {m: jnp.where(clicked, v, 0.0) if legacy else v for m, v in found.items()}

    return Protocol(
        "metarec-click" + "-legacy" * legacy,
        clicks_by_first_row if legacy else clicks,
        lambda table, seed: splits.user_disjoint(table, seed),
        "10 query items",
        _per_task(one),
        legacy=legacy,
    )


def melu(legacy: bool = False) -> Protocol:
    """MeLU: MAE and nDCG of 10 query items of warm, user-cold, item-cold and both-cold tasks.

    The published states where the table has them. nDCG has the gain 2^rating - 1, over the query
    items. A tenth of the warm users is meta-validation; warm query rows are held out.

    Legacy: no validation; warm test tasks are redrawn from training tasks (test on train).

    References: Lee et al., KDD 2019.
    """

    def one(score, label, mask, key):
        return {
            "mae": metrics.mae(score, label, mask),
            "mse": metrics.rmse(score, label, mask) ** 2,
            "ndcg@1": metrics.ndcg(score, label, mask, key, k=1),
            "ndcg@3": metrics.ndcg(score, label, mask, key, k=3),
        }

    options = {"valid_users": 0.0, "hold_out": False} if legacy else {}
    return Protocol(
        "melu" + "-legacy" * legacy,
        unprepared,
        lambda table, seed: splits.melu(table, seed, **options),
        "10 query items",
        _per_task(one),
        legacy=legacy,
    )


def tanp(threshold: float, legacy: bool = False, ks: tuple[int, ...] = (5, 7, 10)) -> Protocol:
    """TaNP: P, nDCG and MAP at 5, 7, 10 over all rows of a user beyond 20 random support rows.

    Users 7:1:2 with 40 to 200 interactions; nDCG has the gain 2^label - 1. Every user has the same
    weight, however long the query.

    Args:
      threshold: labels above it are relevant, see `middle`.

    Legacy: users with 30 to 200 interactions; P and MAP match label values instead of items: a hit
    is a label among the best k that also occurs (as often) in the ideal list; ties by row.
    """

    def one(score, label, mask, key):
        ranks = as_ranks(score, mask, None if legacy else key)
        found = {}
        for k in ks:
            found[f"ndcg@{k}"] = metrics.ndcg(ranks, label, mask, key, k=k)
            if legacy:
                p, ap = matched_values(ranks, label, mask, k)
            else:
                p = metrics.precision(ranks, label, mask, key, k=k, threshold=threshold)
                ap = metrics.average_precision(ranks, label, mask, key, k=k, threshold=threshold)
            found |= {f"precision@{k}": p, f"map@{k}": ap}
        return found

    bounds = {"min_rows": 30} if legacy else {}
    return Protocol(
        "tanp" + "-legacy" * legacy,
        unprepared,
        lambda table, seed: splits.tanp(table, seed, **bounds),
        "all query rows of the user",
        _per_task(one),
        legacy=legacy,
    )


def ctr_warmup(legacy: bool = False, hot: int = 200, per_phase: int = 20) -> Protocol:
    """Warm-up of new items: AUC and F1 over all test rows, cold and after 20, 40 and 60 rows.

    Labels are `clicks`; items with more than ``hot`` rows are training items. Scores are
    probabilities; F1 decides at 1/2. A tenth of the hot items is meta-validation.

    Legacy: F1 decides at the mean score of the test rows; no validation.

    References: Pan et al., SIGIR 2019; Zhu et al., SIGIR 2021.
    """

    def judge(scores: jax.Array, query: Examples, key: jax.Array) -> dict[str, jax.Array]:
        del key  # AUC counts ties one half
        flat = [x.ravel() for x in (scores, query.label, query.mask)]
        mean = jnp.sum(flat[0] * flat[2]) / jnp.sum(flat[2])
        cutoff = mean if legacy else 0.5
        f1 = functools.partial(metrics.f1, cutoff=cutoff)  # pyright: ignore[reportArgumentType]
        return {"auc": metrics.auc(*flat)[None], "f1": f1(*flat)[None]}

    valid_items = 0.0 if legacy else 0.1
    return Protocol(
        "ctr-warmup" + "-legacy" * legacy,
        clicks,
        lambda table, seed: splits.ctr_warmup(
            table, seed, hot=hot, per_phase=per_phase, valid_items=valid_items
        ),
        "each test row",
        judge,
        "over all rows",
        tuple(per_phase * phase for phase in range(4)),
        legacy,
    )
