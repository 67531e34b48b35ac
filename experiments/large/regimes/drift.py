"""People who drift: which way to adapt keeps what is new, and forgets what is old?

Arms that treat a support as a set cannot know what is new in it; the best that can be expected is
the filter of Kalman, told all numbers of the world.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import optim, tree
from metajax.adapters.lora import lora
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import fine_tuned, pooled
from metajax.models import transformer
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.training import loop, progress
from metajax.training.devices import on_devices
from metajax.types import Episode, MetaLearner, Model, Params

from .world import World, forgetting, one_by_one, reader

NONE, FULL, LORA = "no adaptation", "full fine-tuning", "LoRA fine-tuned"
META_LORA, SET, STREAM = "LoRA, meta-learned", "last layer, all at once", "last layer, one by one"
HEAD, FORGETS, CONTEXT, BEST = (
    "ridge head",
    "ridge head that forgets",
    "in context",
    "Kalman filter",
)
MOST_STEPS = 20
KEEPS = {"still": 1.0, "slow drift": 0.98, "fast drift": 0.9}


def learners(world: World, steps: int) -> dict[str, tuple[MetaLearner, int, float]]:
    """The trained arms, their outer steps and rates; those of a few parameters take long steps."""
    line, net, rates = vector_linear(), vector_mlp((32, 32)), optim.learned_rates(0.05)
    low = lora(net, 2, formed=True, frozen=False)
    shape = transformer.Shape(2, 32, 2, 2, 64)
    return {
        NONE: (pooled(net), steps, 3e-3),
        HEAD: (ridge(identity(), line, world.dim), steps, 2e-2),
        FORGETS: (forgetting(world.dim), steps, 2e-2),
        SET: (gradient(line, optim.learned_rates(0.3), 5), steps, 2e-2),
        STREAM: (one_by_one(gradient(line, optim.learned_rates(0.2), 1)), steps, 2e-2),
        META_LORA: (gradient(low, rates, 3, adapts=tree.under("adapter")), steps, 3e-3),
        CONTEXT: (reader(world, shape), 2 * steps, 3e-3),
    }


def fit(
    learner: MetaLearner,
    world: World,
    keep: float,
    steps: int,
    rate: float,
    seeds: int,
    devices: int,
) -> Params:
    """Parameters (S, ...) after meta-training on users that drift so."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    sample = loop.sampler(lambda key, keep: world.sample(keep, key), 16)
    keys = jax.random.split(world.group(1), seeds)
    recipe = on_devices(devices, loop.recipe(learner, tx))
    return loop.fit(recipe, sample, jnp.asarray(keep), keys, steps).params


def predicted(learner: MetaLearner, params: Params, tasks: Episode) -> jax.Array:
    """Scores (S, T, Q) after adapting to each support."""
    of_seed = lambda p: evaluate.predictions(learner, p, tasks, jax.random.key(0), batch_size=50)
    return jax.jit(lambda p: jax.lax.map(of_seed, p))(params)


def tuned(
    model: Model,
    params: Params,
    valid: Episode,
    rates: tuple[float, ...],
    adapts: tree.Filter,
    descent: Callable[[Any], optax.GradientTransformation] = optax.sgd,
) -> tuple[MetaLearner, dict[str, Any]]:
    """Fine-tuning at the rate and the number of steps, up to MOST_STEPS, best on validation."""

    def errors(params: Params, rate: jax.Array) -> jax.Array:
        learner = fine_tuned(model, descent(rate), 1, adapts=adapts)

        def error(state: Any, episode: Episode) -> jax.Array:
            score = learner.predict(params, state, episode.query.inputs)
            return jnp.mean((score - episode.query.label) ** 2)

        key = jax.random.key(0)
        found = evaluate.while_adapting(
            learner, params, valid, key, error, MOST_STEPS, batch_size=50
        )
        return found[:, 1:].mean(axis=0)

    over = jax.jit(lambda p: jax.lax.map(lambda x: jax.lax.map(lambda r: errors(x, r), grid), p))
    grid = jnp.asarray(rates)
    found = np.nan_to_num(np.asarray(over(params)).mean(axis=0), nan=np.inf)
    row, column = np.unravel_index(found.argmin(), found.shape)
    chosen = fine_tuned(model, descent(rates[row]), int(column) + 1, adapts=adapts)
    return chosen, {"rate": rates[row], "steps": int(column) + 1, "trials": found.size}


def clipped(rate: Any) -> optax.GradientTransformation:
    """Descent on gradients of norm 1 at most: as LoRA's factors grow, so does the slope."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate))


class Ready(NamedTuple):
    """An arm before its test: a learner and its parameters, leaves (S, ...)."""

    learner: MetaLearner
    params: Params


def people_of(world: World, group: int, keep: float, number: int) -> Episode:
    """Users of a group who drift so; leaves (number, ...)."""
    sample = functools.partial(world.sample, keep)
    return jax.vmap(sample)(jax.random.split(world.group(group), number))


def fine_tuned_arms(
    joint: Params, valid: Episode, seeds: int
) -> dict[str, tuple[Ready, dict[str, Any]]]:
    """The arms that begin from joint training, with what was chosen on validation users."""
    net = vector_mlp((32, 32))
    low = lora(net, 2, formed=True)
    adapter = low.init(jax.random.key(5), (), valid.support.inputs[0])["adapter"]
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), adapter)
    wrapped = {**joint, "model": {"base": joint["model"], "adapter": many}}
    found = {}
    for arm, model, start, adapts, descent in (
        (FULL, net, joint, tree.everything, optax.sgd),
        (LORA, low, wrapped, tree.under("adapter"), clipped),
    ):
        chosen, told = tuned(model, start, valid, (0.01, 0.03, 0.1, 0.3), adapts, descent)
        found[arm] = Ready(chosen, start), told
    return found


def trained(
    seeds: int, steps: int, world: World, devices: int = 1
) -> tuple[dict[tuple[str, str], Ready], dict[str, float], dict[str, Any]]:
    """Arms by (arm, drift), seconds of each arm, and what was chosen on validation users."""
    ready: dict[tuple[str, str], Ready] = {}
    seconds: dict[str, float] = {}
    settings: dict[str, Any] = {}
    for name, keep in KEEPS.items():
        for arm, (learner, own_steps, rate) in learners(world, steps).items():
            began = time.perf_counter()
            params = fit(learner, world, keep, own_steps, rate, seeds, devices)
            ready[arm, name] = Ready(learner, params)
            took = time.perf_counter() - began
            seconds[arm] = seconds.get(arm, 0.0) + took
            progress.say(f"{name}: {arm} trained, {took:.0f} s")
        began, joint = time.perf_counter(), ready[NONE, name].params
        tuned_arms = fine_tuned_arms(joint, people_of(world, 2, keep, 200), seeds)
        took = (time.perf_counter() - began) / len(tuned_arms)
        for arm, (made, told) in tuned_arms.items():
            ready[arm, name], settings[f"{arm}, {name}"] = made, told
            seconds[arm] = seconds.get(arm, 0.0) + took
    return ready, seconds, settings


def judged(
    ready: dict[tuple[str, str], Ready], world: World, people: int
) -> dict[tuple[str, str], np.ndarray]:
    """Squared errors (S, people) by (arm, drift) on the test users; among the arms the filter."""
    errors = {}
    for name, keep in KEEPS.items():
        test = people_of(world, 3, keep, people)
        each = lambda scores, test=test: jnp.mean((scores - test.query.label[None]) ** 2, axis=-1)
        scores = {arm: predicted(*ready[arm, drift], test) for arm, drift in ready if drift == name}
        scores[BEST] = jax.vmap(functools.partial(world.kalman, keep))(test)[None]
        for arm, found in scores.items():
            errors[arm, name] = np.asarray(each(found))
            progress.say(f"{name}: {arm} {errors[arm, name].mean():.4f}")
    return errors
