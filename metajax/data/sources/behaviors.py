"""What was shown to whom, and what became of it: view, cart, purchase, click, rating, market.

A log holds only what happened. A row here is a person, an item and a time: either an event of the
log, or one of a few other items at the same time, drawn by how often they occur (`shown`). Inputs
are what was known before that time: counts, waits, and vectors of items from the oldest part.

References: W. Wei et al., WSDM 2022, for the retail log; Harper and Konstan, 2015, for MovieLens.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from metajax.data.features import running
from metajax.data.sources import crossdomain, movielens
from metajax.data.sources.files import arrays, dataset_folder, required
from metajax.data.sources.labeled import Labeled, checked, standardized
from metajax.types import UserError

DIM = 8
"""Of the vectors of items."""
AGES = ("0-17", "18-24", "25-34", "35-44", "45-49", "50-55", "56 and older")
"""Of people of MovieLens."""
WINDOWS = (0.4, 0.7, 0.8)
"""Shares of the log by time: before the first nobody is a row; then training, validation, test."""


class Log(NamedTuple):
    """Events in order of time.

    Attributes:
      user, item: (M,) numbers from 0; time: (M,) whole seconds.
      value: (M, C) what is counted of an event, such as one column per behaviour.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    value: np.ndarray


class Shown(NamedTuple):
    """Rows (N,): a person, an item, a time, and which event of the log it is, -1 if none."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    event: np.ndarray


def shown(log: Log, most: int, others: int, seed: int) -> Shown:
    """Events of the later windows, and beside each some other items that the person never met.

    Args:
      log: one event per person and item.
      most: events of one person at most, their first ones, so that few people do not fill all.
      others: items per event that the person never met, drawn as often as they occur in training.
      seed: of the draw.
    """
    begin, end = np.quantile(log.time, [WINDOWS[0], WINDOWS[1]])
    place = np.flatnonzero(log.time > begin)
    order = place[np.lexsort([log.time[place], log.user[place]])]
    ones = np.ones((len(order), 1))
    rank = np.cumsum(ones[:, 0]) - 1
    first = np.maximum.accumulate(np.where(np.r_[True, np.diff(log.user[order]) != 0], rank, 0))
    event = order[rank - first < most]
    met = np.unique(log.user.astype(np.int64) * (log.item.max() + 1) + log.item)
    common = log.item[log.time <= end]
    user, time = np.repeat(log.user[event], others), np.repeat(log.time[event], others)
    item = np.random.default_rng(seed).choice(common, len(user))
    new = ~np.isin(user.astype(np.int64) * (log.item.max() + 1) + item, met)
    return Shown(
        np.concatenate([log.user[event], user[new]]),
        np.concatenate([log.item[event], item[new]]),
        np.concatenate([log.time[event], time[new]]),
        np.concatenate([event, np.full(int(new.sum()), -1)]),
    )


def known_before(log: Log, rows: Shown) -> np.ndarray:
    """Inputs (N, ...) of rows from strictly earlier events; item vectors from the oldest window."""
    of_item = running.before(log.item, log.time, log.value, rows.item, rows.time)
    of_user = running.before(log.user, log.time, log.value, rows.user, rows.time)
    wait = np.column_stack([
        running.since(log.item, log.time, rows.item, rows.time),
        running.since(log.user, log.time, rows.user, rows.time),
    ])  # fmt: skip
    wait = np.log1p(np.minimum(wait, 1e7))
    vector = item_vectors(log)
    mine = running.before(log.user, log.time, vector[log.item], rows.user, rows.time)
    mine /= np.maximum(np.linalg.norm(mine, axis=1, keepdims=True), 1e-6)
    its = vector[rows.item]
    alike = (mine * its).sum(axis=1, keepdims=True)
    shares = [x[:, 1:] / (x[:, :1] + 3.0) for x in (of_item, of_user)]
    counts = [np.log1p(np.maximum(x, 0.0)) for x in (of_item, of_user)]
    return np.hstack([*counts, *shares, wait, mine, its, alike])


def item_vectors(log: Log) -> np.ndarray:
    """Unit vectors (I, `DIM`) of items from who met them in the oldest window; 0 where nobody."""
    old = log.time <= np.quantile(log.time, WINDOWS[0])
    shape = (int(log.user.max()) + 1, int(log.item.max()) + 1)
    ones = np.ones(int(old.sum()))
    met = sparse.csr_matrix((ones, (log.user[old], log.item[old])), shape)
    scale = 1 / np.sqrt(np.maximum(np.asarray(met.sum(axis=1)).ravel(), 1.0))
    dim = min(DIM, min(shape) - 1)
    start = np.full(min(shape), 1.0)
    found = linalg.svds(sparse.diags(scale) @ met, k=dim, v0=start)
    value, right = np.asarray(found[1]), np.asarray(found[2])
    largest = np.abs(right).argmax(axis=1)  # the sign of a singular vector is free: choose one
    vector = right.T * value * np.sign(right[np.arange(dim), largest])
    return vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)


def parts(log: Log, rows: Shown) -> np.ndarray:
    """Training, validation or test (N,), by time."""
    edges = np.quantile(log.time, WINDOWS[1:])
    return np.searchsorted(edges, rows.time).astype(np.int8)


def retailrocket(folder: Path | str, *, most: int = 20, others: int = 4, seed: int = 0) -> Labeled:
    """RetailRocket, people who bought something: will an item be viewed, carted, bought?

    One row per person and item at its first event. "View" is any event, "cart" a cart or a
    purchase, so that the three form a chain. The held-out purchases of the file, which have no
    time, are not used. Only buyers are in the file: conversion is far above that of the shop.

    Args:
      folder: of the data sets; most, others, seed: as `shown`.
    """
    name = "retailrocket-multibehavior"
    path = required(dataset_folder(folder, name), "retailrocket.npz", name)
    kinds = ("view", "cart", "buy")
    needed = [f"{kind}_{column}" for kind in kinds for column in ("user", "item", "time")]
    found = {k: np.asarray(v, np.int64) for k, v in arrays(path, needed).items()}
    join = lambda column: np.concatenate([found[f"{kind}_{column}"] for kind in kinds])
    user, item, time = join("user"), join("item"), join("time")
    kind = np.repeat(np.arange(3), [len(found[f"{k}_user"]) for k in kinds])
    pair, place = np.unique(user * (item.max() + 1) + item, return_inverse=True)
    deepest, began = np.zeros(len(pair), int), np.full(len(pair), time.max())
    np.maximum.at(deepest, place, kind)
    np.minimum.at(began, place, time)
    order = np.argsort(time, kind="stable")
    log = Log(user[order], item[order], time[order], np.eye(3)[kind[order]])
    pairs = Log(*np.divmod(pair, item.max() + 1), began, np.zeros((len(pair), 1)))
    rows = shown(pairs, most, others, seed)
    step = np.where(rows.event >= 0, deepest[rows.event], -1)
    label = np.column_stack([step >= k for k in range(3)]).astype(np.float32)
    return _made(name, log, rows, label, np.ones_like(label), kinds, (False,) * 3, chain=True)


def clicks_and_ratings(
    folder: Path | str, *, most: int = 20, others: int = 2, seed: int = 0
) -> Labeled:
    """MovieLens 1M: will a film be rated (a click), and how (from 0, one star, to 1, five)?

    The rating is known only where there is one. Arguments are those of `retailrocket`.
    """
    table = movielens.ml_1m(folder)
    if table.time is None:
        raise UserError("ml-1m: the file has no times; get ratings.dat or ratings.npz with them")
    stars = (table.label - 1) / 4
    value = np.column_stack([np.ones(len(stars)), stars, stars >= 0.75])
    order = np.argsort(table.time, kind="stable")
    user, item = table.user.astype(np.int64), table.item.astype(np.int64)
    log = Log(user[order], item[order], table.time[order], value[order])
    rows = shown(log, most, others, seed)
    clicked = rows.event >= 0
    label = np.column_stack([clicked, np.where(clicked, stars[order][rows.event], 0.0)])
    known = np.column_stack([np.ones(len(clicked)), clicked])
    of_item = _one_hot(table.item_features.columns["genre"], table.item_features.sizes["genre"])
    profile = [_one_hot(table.user_features.columns[k], table.user_features.sizes[k])
               for k in ("gender", "age", "occupation")]  # fmt: skip
    extra = np.hstack([of_item[rows.item], *(p[rows.user] for p in profile)])
    told = ("click", "rating"), (False, True)
    names = {"gender": ("unknown", "women", "men"), "age": ("unknown", *AGES)}
    about = {
        kind: np.asarray(words)[table.user_features.columns[kind][rows.user, 0]]
        for kind, words in names.items()
    }
    return _made("ml-1m", log, rows, label, known, *told, extra=extra, about=about)


def markets(folder: Path | str, *, most: int = 20, others: int = 2, seed: int = 0) -> Labeled:
    """Four Amazon domains as markets: will a person of all four choose an item of the market?

    Each market is a task, and each row has a label in one of them, that of its item; "beauty" is
    the last. Inputs say nothing of the market, so that a network of some markets can be met with
    another. Arguments are those of `retailrocket`.
    """
    names = ("electronics", "grocery4", "home", "beauty")
    tables = [crossdomain.four_domains(folder, f"amazon-{name}") for name in names]
    people = functools.reduce(np.intersect1d, [t.user_ids[t.user] for t in tables])
    first = np.cumsum([0, *(t.num_items for t in tables)])
    whose, item, time = (
        np.concatenate(x)
        for x in (
            [t.user_ids[t.user] for t in tables],
            [t.item.astype(np.int64) + i for t, i in zip(tables, first[:-1], strict=True)],
            [np.zeros(len(t), np.int64) if t.time is None else t.time for t in tables],
        )
    )
    kept = np.flatnonzero(np.isin(whose, people))
    order = kept[np.argsort(time[kept], kind="stable")]
    user = np.searchsorted(people, whose[order])
    log = Log(user, item[order], time[order], np.ones((len(order), 1)))
    rows = shown(log, most, others, seed)
    market = np.searchsorted(first, rows.item, side="right") - 1
    label = np.repeat(rows.event[:, None] >= 0, len(names), axis=1)
    known = np.eye(len(names))[market]
    return _made("amazon-four-domains", log, rows, label, known, names, (False,) * len(names))


def _one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    """1 where a category is among the codes (n, width), 0 being none: (n, size - 1)."""
    return np.eye(size, dtype=np.float32)[codes].max(axis=1)[:, 1:]


def _made(
    name: str,
    log: Log,
    rows: Shown,
    label: np.ndarray,
    known: np.ndarray,
    tasks: tuple[str, ...],
    numbers: tuple[bool, ...],
    *,
    chain: bool = False,
    extra: np.ndarray | None = None,
    about: Mapping[str, np.ndarray] | None = None,
) -> Labeled:
    part = parts(log, rows)
    early = log.user[log.time <= np.quantile(log.time, WINDOWS[2])]
    active = np.bincount(early, minlength=int(log.user.max()) + 1)[rows.user]
    about = {"events before the test": active, **(about or {})}
    x = standardized(known_before(log, rows), part)
    x = x if extra is None else np.hstack([x, extra.astype(np.float32)])
    unit = np.unique(rows.user, return_inverse=True)[1].astype(np.int32)
    label, known = label.astype(np.float32), known.astype(np.float32)
    return checked(Labeled(name, x, label, known, tasks, unit, part, numbers, chain, about))
