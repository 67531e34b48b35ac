"""The two worlds of task_diversity: ratings of a log, and simulated kinds of users."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import tree
from metajax.benchmark.baselines import trained_arm
from metajax.benchmark.problem import Problem
from metajax.data import diversity, episodes
from metajax.data.worlds.modes import UserModes
from metajax.evaluation import evaluate, judge
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import factor_mlp, vector_mlp
from metajax.results import records
from metajax.settings import Training
from metajax.training import loop
from metajax.training.devices import on_devices
from metajax.types import Episode, MetaLearner, Params

from . import diversity_report as report
from .rates import best_of, rated

SHOTS = evaluate.SHOTS
INNER = optax.chain(optax.clip(10.0), optax.sgd(0.1))
STEPS = 5
POOL = 1000
"""Simulated training users; as many are judged of each kind as `JUDGED`."""
JUDGED = 300


def anil(model: Any) -> MetaLearner:
    """ANIL: the last layer adapts by a few gradient steps."""
    return gradient(model, INNER, STEPS, adapts=tree.under("head"))


def with_random_codes(pool: diversity.Pool) -> diversity.Pool:
    """The pool with codes that say nothing: the control of the DPP."""
    return pool._replace(code=jax.random.normal(jax.random.key(7), pool.code.shape))


class Ratings:
    """New users of a log."""

    name = report.REAL

    def __init__(self, problem: Problem, training: Training):
        self.problem, self.training = problem, training
        self.learner = anil(factor_mlp(problem.mean, (64,)))
        code, left = diversity.fold_in(problem.train, problem.mean)
        self.pool = diversity.Pool(problem.train, jnp.asarray(code), jnp.asarray(left))
        num_query = problem.split.num_query
        self.draw = lambda source, key, task: episodes.draw(
            key, source, training.num_support, num_query, task=task
        )

    def tuned(
        self, pick: diversity.Pick, rates: tuple[float, ...], random: bool
    ) -> tuple[dict[str, Any], Params]:
        """What was chosen on validation, and the parameters (S, ...)."""
        pool = with_random_codes(self.pool) if random else self.pool
        drawn = (diversity.batches(pick, self.draw), pool)

        def fit(rate: float) -> tuple[float, dict[str, Any], Params]:
            given = (self.learner, optax.adam(rate), self.problem, self.training)
            found = trained_arm(self.name, *given, drawn=drawn)
            return found.settings["valid"], found.settings, found.params

        return best_of(rates, fit)

    def judged(
        self, arms: Mapping[str, Any], source: Any, tests: dict[str, Episode]
    ) -> dict[records.Key, np.ndarray]:
        """The scores of all arms on the test users, which are open."""
        return rated(arms, self.problem, tests, report.REAL, source, main="")


class Kinds:
    """Simulated users, one kind of them frequent."""

    name = report.KINDS

    def __init__(self, training: Training):
        self.training, self.world = training, UserModes()
        self.learner = anil(vector_mlp((40,)))
        keys = jax.random.split(jax.random.key(1), POOL)
        kinds = jax.vmap(self.world.kind)(keys)
        wide = dataclasses.replace(self.world, num_support=20)
        seen = jax.jit(jax.vmap(wide.of_kind))(keys, kinds).support
        solve = lambda x, y: jnp.linalg.solve(x.T @ x + 0.5 * jnp.eye(x.shape[1]), x.T @ y)
        code = jax.vmap(solve)(seen.inputs, seen.label)
        left = jnp.einsum("tnd,d->tn", seen.inputs, code.mean(axis=0)) - seen.label
        self.pool = diversity.Pool(kinds, code, jnp.mean(left**2, axis=1))
        self.draw = lambda kinds, key, task: self.world.of_kind(key, kinds[task])

    def tasks(self, seed: int, rare: bool) -> Episode:
        """Tasks (T, ...) of the frequent kind, or of all rare ones."""
        count = len(self.world.shares)
        kinds = jnp.arange(JUDGED) % (count - 1) + 1 if rare else jnp.zeros(JUDGED, int)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), int(rare)), JUDGED)
        return jax.jit(jax.vmap(self.world.of_kind))(keys, kinds)

    def tuned(
        self, pick: diversity.Pick, rates: tuple[float, ...], random: bool
    ) -> tuple[dict[str, Any], Params]:
        """What was chosen on validation, all kinds alike in weight, and the parameters (S, ...)."""
        pool = with_random_codes(self.pool) if random else self.pool
        parts = [(self.tasks(2, rare), share) for rare, share in ((False, 0.25), (True, 0.75))]

        def error(params: Params) -> jax.Array:
            total = jnp.zeros(())
            for tasks, share in parts:
                scores = evaluate.predictions(self.learner, params, tasks, jax.random.key(4))
                total += share * jnp.mean((scores - tasks.query.label) ** 2)
            return total

        def fit(rate: float) -> tuple[float, dict[str, Any], Params]:
            keys = jax.random.split(jax.random.key(1), self.training.seeds)
            found = loop.fit(
                on_devices(self.training.devices, loop.recipe(self.learner, optax.adam(rate))),
                diversity.batches(pick, self.draw), pool, keys, self.training.num_steps,
                block=100, validate=error,
            )  # fmt: skip
            valid = float(found.history["valid"].min(axis=1).mean())
            return valid, {"best_step": found.best_step.tolist()}, found.params

        return best_of(rates, fit)

    def judged(
        self, arms: Mapping[str, Any], source: Any, tests: dict[str, Episode]
    ) -> dict[records.Key, np.ndarray]:
        """The scores of all arms on new users of frequent and of rare kinds."""
        del source, tests
        scenarios = {report.FREQUENT: self.tasks(3, False), report.RARE: self.tasks(3, True)}
        bayes = jax.jit(jax.vmap(self.world.bayes))
        everyone = {**arms, report.BAYES: lambda source, tasks, key: bayes(tasks)[None]}
        found = judge.judge(everyone, scenarios, curves=list(scenarios), main="mse")
        return {k: v for k, v in found.items() if k.metric == "mse"}
