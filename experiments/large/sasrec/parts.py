"""The parts of the table of `sasrec`: each is made by itself and kept until the table is whole."""

import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories import sequences as histories
from metajax.data.histories.sequences import HeldOut, Sequences
from metajax.evaluation import next_item
from metajax.models import sequence
from metajax.results import ledger, records
from metajax.results.partial import Partial
from metajax.settings import PLACES, flat, replace
from metajax.training import progress
from metajax.types import Params

from . import arms as sasrec_arms
from . import blend, recipes, training
from .recipes import Config

TOGETHER = ", seeds together"
"""Ending of the name of an arm that adds up the log-probabilities of all seeds."""
Ranks = dict[str, np.ndarray]
"""Condition -> ranks (S, U) of the held-out items."""


class Judged(NamedTuple):
    """An arm after its test.

    Attributes:
      name: of the arm.
      ranks: by condition.
      popularity: (S, U) mean percentile of popularity of each person's list of ten.
      coverage: share of the catalogue on any list, one per seed.
      seconds: of its training and choices.
      settings: by "NAME" or "NAME, PART".
    """

    name: str
    ranks: Ranks
    popularity: np.ndarray
    coverage: list[float]
    seconds: float
    settings: dict[str, Any]


def made(
    config: Config, data: Sequences, name: str, out: pathlib.Path
) -> tuple[list[Judged], records.Opening]:
    """The arms of a part, read where they stand or made now, and when their test was opened."""
    apart = (*PLACES, "also", "only", "minutes")
    about = {key: value for key, value in flat(config).items() if key not in apart}
    about |= {"part": name, "data": data.digest()}
    path = out / "parts" / f"{name}.jsonl"
    if config.fresh:
        path.unlink(missing_ok=True)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    store = Partial(path, about)
    if "arms" not in store:
        make = _simple if name == recipes.SIMPLE else _trained
        store.add("arms", [as_json(arm) for arm in make(config, data, name, out, store)])
    return [_read(arm) for arm in store["arms"]], _open(config, data, {name: "kept"}, store)


def as_json(arm: Judged) -> dict[str, Any]:
    """An arm as JSON keeps it; percentiles of popularity to four digits."""
    ranks = {condition: rank.astype(int).tolist() for condition, rank in arm.ranks.items()}
    popularity = np.round(arm.popularity.astype(float), 4).tolist()
    return arm._asdict() | {"ranks": ranks, "popularity": popularity}


def _read(kept: dict[str, Any]) -> Judged:
    ranks = {condition: np.array(rank) for condition, rank in kept["ranks"].items()}
    return Judged(**(kept | {"ranks": ranks, "popularity": np.array(kept["popularity"])}))


def _open(
    config: Config, data: Sequences, settings: dict[str, Any], store: Partial
) -> records.Opening:
    """The opening of the test of a part; only the first call enters the ledger."""
    alone = replace(config, also=(), only=(), minutes=0.0)
    tests = ledger.checksum(config.split, data.digest(), config.window)
    return store.opening(alone, lambda: records.open_tests(config, settings, "sasrec", tests))


class Simple(NamedTuple):
    """An arm without a Transformer, before its test.

    Attributes:
      make: (histories, held-out items, *chosen) -> scores, see `arms`.
      chosen: its settings.
      settings: what the record says of them.
      seconds: that choosing took.
    """

    make: Callable[..., np.ndarray]
    chosen: tuple[Any, ...]
    settings: dict[str, Any]
    seconds: float


def simple_arms(
    data: Sequences, width: int, only: Collection[str] = (), devices: int = 1
) -> dict[str, Simple]:
    """The arms without a Transformer, their settings chosen on validation items.

    Args:
      only: these; empty for all.
      devices: that train those which descend.
    """
    valid = histories.held_out(data, width, 2)
    key_valid, _ = jax.random.split(jax.random.key(4))
    decays = (0.6, 0.8, 0.95)
    makers = {
        "popularity": (sasrec_arms.popularity, [()]),
        "transitions": (sasrec_arms.transitions, [(r, d) for r in (1, 5, 20) for d in decays]),
        "item-kNN": (sasrec_arms.item_knn, [(k, d) for k in (20, 100) for d in decays]),
        "BPR-MF": (
            functools.partial(sasrec_arms.bpr, devices=devices),
            [(sasrec_arms.Factors(decay=decay),) for decay in (1e-4, 1e-3, 1e-2)],
        ),
    }
    found = {}
    for name in only or makers:
        make, grid = makers[name]
        began = time.perf_counter()
        best, valid_ndcg = sasrec_arms.chosen(make, grid, data, valid, key_valid)
        settings = {"chosen": str(best), "valid_ndcg": valid_ndcg, "trials": len(grid)}
        found[name] = Simple(make, best, settings, time.perf_counter() - began)
        progress.say(f"{name} {settings}")
    return found


def met(data: Sequences) -> np.ndarray:
    """How often each item (V,) was met in training."""
    return np.bincount(sasrec_arms.trained_part(data)[1], minlength=data.num_items)


def _simple(config: Config, data: Sequences, name: str, out: pathlib.Path, store: Partial):
    del name, out
    simple = simple_arms(data, config.window, devices=config.hardware.devices)
    _open(config, data, {arm: made.settings for arm, made in simple.items()}, store)
    test = histories.held_out(data, config.window, 1)
    found = []
    for arm, of in simple.items():
        score = of.make(data, test, *of.chosen)
        found.append(_of_scores(arm, [score], test, data, of.seconds, {arm: of.settings}))
    return found


def _of_scores(
    arm: str,
    of_seeds: list[np.ndarray],
    test: HeldOut,
    data: Sequences,
    seconds: float,
    settings: dict[str, Any],
) -> Judged:
    """The arm of stored scores (U, V), one table for each seed."""
    _, key_test = jax.random.split(jax.random.key(4))
    ranks, coverage, popularity = [], [], []
    for score in of_seeds:
        ranks.append(sasrec_arms.judged(score, test, data.num_items, key_test))
        table = jnp.asarray(score)
        lists = next_item.lists(lambda person, h, n, t=table: t[person], test, data.num_items)
        share, mean = next_item.spread(np.asarray(lists), met(data))
        coverage.append(share)
        popularity.append(mean)
    by_condition = {c: np.stack([rank[c] for rank in ranks]) for c in ranks[0]}
    return Judged(arm, by_condition, np.stack(popularity), coverage, seconds, settings)


class Blended(NamedTuple):
    """The tables beside the sequence model, before their test.

    Attributes:
      simple: the tables; blends: arm -> its weights.
      seconds: of their choice.
    """

    simple: dict[str, Simple]
    blends: dict[str, blend.Blend]
    seconds: float


def _tables(simple: Mapping[str, Simple], data: Sequences, held: HeldOut) -> dict[str, np.ndarray]:
    return {name: of.make(data, held, *of.chosen) for name, of in simple.items()}


def _blends(config: Config, data: Sequences, settings: sequence.Settings, of_seeds: list[Params]):
    """The weights of the tables, chosen on validation items."""
    began = time.perf_counter()
    simple = simple_arms(data, config.window, tuple(blend.FLOORS))
    valid = histories.held_out(data, config.window, 2)
    key_valid, _ = jax.random.split(jax.random.key(4))
    model = [blend.log_probabilities(settings, params, valid) for params in of_seeds]
    found = blend.chosen(model, _tables(simple, data, valid), valid, key_valid)
    progress.say(str({arm: one._asdict() for arm, one in found.items()}))
    return Blended(simple, found, time.perf_counter() - began)


def _of_blends(
    made: Blended, data: Sequences, settings: sequence.Settings, of_seeds: list[Params], width: int
) -> list[Judged]:
    """The arms of the tables beside the sequence model, and of the tables alone."""
    test = histories.held_out(data, width, 1)
    tables = _tables(made.simple, data, test)
    model = [blend.log_probabilities(settings, params, test) for params in of_seeds]
    found = []
    for arm, one in made.blends.items():
        scores = [one(m, tables) for m in (model if one.base else model[:1])]
        found.append(_of_scores(arm, scores, test, data, made.seconds, {arm: one._asdict()}))
    return found


def _trained(config: Config, data: Sequences, name: str, out: pathlib.Path, store: Partial):
    settings = recipes.recipe_of(name, config, data.num_items)
    label = recipes.SASREC if name == recipes.OWN else recipes.RECIPES[name]
    at_once = config.seeds_at_once or config.seeds
    of_seeds: list[training.Trained] = []
    for first in range(0, config.seeds, at_once):
        seeds = list(range(config.seeds))[first : first + at_once]
        called = "" if name == recipes.OWN else name
        of_seeds += training.fit(config, data, seeds, out, settings, called)
    told = {
        f"{label}, seed {seed}": {"best_step": one.best_step, "valid": one.valid}
        for seed, one in enumerate(of_seeds)
    }
    best = {seed: max(one.valid) for seed, one in enumerate(of_seeds)}
    progress.say(f"{label} {best}")
    each = [one.params for one in of_seeds]
    mixed = _blends(config, data, settings, each) if name == recipes.OWN else None
    weights = {} if mixed is None else {a: b._asdict() for a, b in mixed.blends.items()}
    _open(config, data, told | weights, store)
    params = jax.tree.map(lambda *x: jnp.stack(x), *each)
    seconds = sum(one.seconds for one in of_seeds)
    held = histories.held_out(data, config.window, 1)
    found = _judged(settings, params, held, met(data), label, seconds, told)
    if mixed is not None:
        found += _of_blends(mixed, data, settings, each, config.window)
    return found


def _judged(
    settings: sequence.Settings,
    params: Params,
    test: HeldOut,
    met: np.ndarray,
    label: str,
    seconds: float,
    told: dict[str, Any],
) -> list[Judged]:
    """The arm of the seeds of ``params`` (S, ...), and that of all of them together."""

    def together(params: Params) -> next_item.Scorer:
        def score(person: jax.Array, history: jax.Array, length: jax.Array) -> jax.Array:
            of_seed = lambda p: training.scorer(settings, p)(person, history, length)
            return jnp.mean(jax.nn.log_softmax(jax.vmap(of_seed)(params), axis=-1), axis=0)

        return score

    @jax.jit
    def judge(params: Params, test: HeldOut):
        score = together(params)
        ranks = next_item.ranks(score, test, settings.num_items, jax.random.key(5))
        return ranks, next_item.lists(score, test, settings.num_items)

    test = HeldOut(*(jnp.asarray(x) for x in test))
    num_seeds, found = len(jax.tree.leaves(params)[0]), []
    one_by_one = [jax.tree.map(lambda x, at=at: x[at : at + 1], params) for at in range(num_seeds)]
    for name, group, own in (
        (label, one_by_one, told),
        (label + TOGETHER, [params] if num_seeds > 1 else [], {}),
    ):
        results = [jax.device_get(judge(each, test)) for each in group]
        if not results:
            continue
        ranks = {c: np.stack([ranks[c] for ranks, _ in results]) for c in results[0][0]}
        spreads = [next_item.spread(lists, met) for _, lists in results]
        popularity = np.stack([mean for _, mean in spreads])
        found.append(Judged(name, ranks, popularity, [c for c, _ in spreads], seconds, own))
    return found
