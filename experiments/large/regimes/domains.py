"""Tasks are domains: which way to adapt serves a new shelf of another domain from a few users?"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import optim, tree
from metajax.adapters.lora import lora
from metajax.data.sources import named
from metajax.evaluation import evaluate, metrics
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import pooled
from metajax.training import loop, progress
from metajax.training.devices import on_devices, split_second_axis
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree

from . import shelves as shop
from .shelves import SHELF, Domain, Shelves

CHANCE, POPULAR, SOURCE = "no adaptation", "popularity", "ridge head, source vectors"
JOINT, LORA = "ridge head, joint trunk", "LoRA + head fine-tuned"
RIDGE, META_LORA, CONTEXT = "through ridge head", "LoRA + head, meta-learned", "in context"
SHOTS = (10, 50, 200)
PAIRS = {
    "book to music": ("douban-book", "douban-music", 15),
    "cloth to sport": ("amazon-cloth", "amazon-sport", 12),
}
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0)
ADAPTS = tree.under("adapter", "base/head")


def read(name: str, data_dir: pathlib.Path | None) -> Domain:
    """A pair of domains."""
    source, target, least = PAIRS[name]
    return shop.domain(named.load(source, data_dir), named.load(target, data_dir), least)


def fit(learner: MetaLearner, data: Shelves, steps: int, seeds: int, devices: int = 1) -> Params:
    """Parameters (S, ...) after meta-training on shelves of training items."""
    schedule = optax.cosine_decay_schedule(3e-3, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    sample = loop.sampler(lambda key, data: shop.draw(data, key, SHOTS[-1], shop.NUM_QUERY)[0], 8)
    keys = jax.random.split(jax.random.key(1), seeds)
    recipe = on_devices(devices, loop.recipe(learner, tx))
    return loop.fit(recipe, sample, data, keys, steps).params


def joint(data: Shelves, steps: int, seeds: int, devices: int = 1) -> Params:
    """The trunk (S, ...) trained with a fixed head for all training items: no tasks."""
    learner = pooled(shop.with_head(data.taken.shape[1], shop.trunk()), loss=shop.entropy)
    schedule = optax.cosine_decay_schedule(3e-3, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))
    some = jnp.any(data.taken > 0, axis=1) * 1.0

    def sample(data: Shelves, key: jax.Array) -> Episode:
        who = jax.random.randint(key, (2, 128), 0, data.taken.shape[0])
        part = lambda w: Examples(data.vectors[w], data.taken[w], some[w])
        return jax.tree.map(lambda x: x[None], Episode((), part(who[0]), part(who[1])))

    keys = jax.random.split(jax.random.key(1), seeds)
    recipe = on_devices(devices, loop.recipe(learner, tx), split_second_axis)
    found = loop.fit(recipe, sample, data, keys, steps)
    return found.params["model"]["trunk"]


Judge = Callable[[Params], np.ndarray]
"""Parameters (S, ...) -> nDCG@10 (S, people), each person's mean over their tasks."""


def judge(learner: MetaLearner, data: Shelves, shots: int, num_tasks: int) -> Judge:
    """A judgement on shelves of a group, the same ones for every learner; compiled once."""
    keys = jax.random.split(jax.random.key(17), num_tasks)

    draw = lambda key: shop.draw(data, key, shots, shop.NUM_QUERY, random=False)
    tasks, who_TxQ = jax.jit(lambda keys: jax.lax.map(draw, keys))(keys)

    def gains(scores: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        ones = jnp.ones(SHELF)
        gain = jax.vmap(lambda s, y, k: metrics.ndcg(s, y, ones, k, k=10))
        return gain(scores, label, jax.random.split(key, len(scores)))

    @jax.jit
    def many(params: Params, tasks: Episode) -> jax.Array:
        key = jax.random.key(0)
        scores = evaluate.predictions(learner, params, tasks, key, batch_size=None)
        return jax.lax.map(lambda each: gains(*each), (scores, tasks.query.label, keys))

    who, mask = np.asarray(who_TxQ).ravel(), np.asarray(tasks.query.mask, float).ravel()
    size = data.taken.shape[0]
    count = np.bincount(who, mask, minlength=size)

    def found(params: Params) -> np.ndarray:
        rows = []
        for seed in range(len(jax.tree.leaves(params)[0])):
            gain = many(jax.tree.map(lambda x, s=seed: x[s], params), tasks)
            total = np.bincount(who, np.asarray(gain, float).ravel() * mask, minlength=size)
            rows.append(total[count > 0] / count[count > 0])
        return np.stack(rows)

    return found


def rates(head: float, rest: float) -> optim.Inner:
    """Gradient descent with one learned rate per parameter, higher for the head at the start."""
    plain = optim.learned_rates(1.0)

    def init(fast: PyTree) -> PyTree:
        start = lambda path, x: jnp.full_like(x, np.log(head if "head" in path else rest))
        return jax.tree_util.tree_map_with_path(lambda p, x: start(tree.path_name(p), x), fast)

    return plain._replace(init=init)


def tuned_head(trunk: Model, params: Params, data: Shelves) -> tuple[Params, dict[str, Any]]:
    """A frozen trunk's ridge head with the penalty and the scale that are best on validation."""
    score = judge(shop.ridge_head(trunk), data, 50, 20)
    seeds = len(jax.tree.leaves(params)[0]) if jax.tree.leaves(params) else 1
    full = lambda x: jnp.full(seeds, x)
    made = {
        (penalty, scale): {
            "trunk": params, "log_penalty": full(np.log(penalty)), "scale": full(scale),
        }
        for penalty in PENALTIES for scale in (1.0, 3.0, 10.0)
    }  # fmt: skip
    found = {setting: float(score(each).mean()) for setting, each in made.items()}
    best = max(found, key=lambda k: found[k])
    return made[best], {"penalty": best[0], "scale": best[1], "trials": len(found)}


def tuned_lora(low: Model, model: Params, data: Shelves) -> tuple[MetaLearner, Params, dict]:
    """LoRA and a head from zero, fine-tuned at rates and for steps that are best on validation.

    The rates of the adapter are a hundredth of those of the head.
    """
    found, made = {}, {}
    fast = jax.vmap(lambda x: tree.partition(x, ADAPTS)[0])(model)
    for steps in (1, 5, 20):
        learner = gradient(low, rates(1.0, 1.0), steps, adapts=ADAPTS, loss=shop.entropy)
        score = judge(learner, data, 50, 20)
        for rate in (1.0, 3.0, 10.0, 30.0):
            params = {"model": model, "rates": rates(rate, 0.01 * rate).init(fast)}
            found[rate, steps] = float(np.nan_to_num(score(params).mean()))
            made[rate, steps] = (learner, params)
    best = max(found, key=lambda k: found[k])
    return *made[best], {"rate": best[0], "steps": best[1], "trials": len(found)}


class Made(NamedTuple):
    """An arm before its test.

    Attributes:
      learner: how it adapts.
      params: its parameters, leaves (S, ...).
      seconds: of its training and choices.
      settings: what was chosen on validation.
    """

    learner: MetaLearner
    params: Params
    seconds: float
    settings: dict[str, Any]


def arms(pair: Domain, steps: int, seeds: int, devices: int = 1) -> dict[str, Made]:
    """Every arm, trained and chosen on the items and users of training and validation."""
    data, valid = shop.shelves(pair, 0), shop.shelves(pair, 1)
    plain, trunk = Model(lambda k, p, x: {}, lambda params, p, x: x), shop.trunk()
    one = {"none": jnp.zeros(1)}
    popular = lambda params, support, x: jnp.broadcast_to(
        shop.counts(support)[None], (len(x), SHELF)
    )
    init = lambda key, episode: {}
    alike = lambda params, support, x: jnp.zeros((len(x), SHELF))
    made = {
        CHANCE: Made(shop.reading(init, alike), one, 0.0, {}),
        POPULAR: Made(shop.reading(init, popular), one, 0.0, {}),
    }

    def keep(arm: str, build: Any) -> None:
        began = time.perf_counter()
        learner, params, told = build()
        made[arm] = Made(learner, params, time.perf_counter() - began, told)
        progress.say(f"{arm} {told} {made[arm].seconds:.0f} s")

    keep(SOURCE, lambda: (shop.ridge_head(plain), *tuned_head(plain, {}, valid)))
    base = joint(data, steps, seeds, devices)
    keep(JOINT, lambda: (shop.ridge_head(trunk), *tuned_head(trunk, base, valid)))
    low = lora(shop.with_head(SHELF, trunk), 2, tree.matching("trunk/.*kernel"), frozen=False)
    example, _ = shop.draw(data, jax.random.key(0), SHOTS[-1], shop.NUM_QUERY)
    fresh = low.init(jax.random.key(5), (), example.support.inputs)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), fresh)
    model = {**many, "base": {**many["base"], "trunk": base}}
    keep(LORA, lambda: tuned_lora(low, model, valid))
    meta = gradient(low, rates(10.0, 0.1), 5, adapts=ADAPTS, loss=shop.entropy)
    trained = {
        CONTEXT: shop.attention(trunk),
        RIDGE: shop.ridge_head(trunk),
        META_LORA: meta,
    }
    for arm, learner in trained.items():
        keep(arm, lambda learner=learner: (learner, fit(learner, data, steps, seeds, devices), {}))
    return made


def judged(
    name: str, test: Shelves, made: dict[str, Made], num_tasks: int
) -> dict[tuple[str, int], np.ndarray]:
    """nDCG@10 (S, people) by (arm, shots) on shelves of the test."""
    scores = {}
    for arm, (learner, params, _, _) in made.items():
        for shots in SHOTS:
            scores[arm, shots] = judge(learner, test, shots, num_tasks)(params)
        means = [round(float(scores[arm, k].mean()), 4) for k in SHOTS]
        progress.say(f"{name}: {arm} {means}")
    return scores
