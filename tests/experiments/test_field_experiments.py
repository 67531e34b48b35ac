"""Every experiment of the field's learners builds, learns and adapts on a small log of ratings."""

import dataclasses
import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import find, with_config
from metajax.benchmark import problem
from metajax.data import split
from metajax.data.worlds import latent

NEW = ("cavia", "cmml", "tanp", "lwa", "mamo")
"""Experiments with parts of their own."""
ON_MAML = ("boil", "reptile", "imaml", "mamlpp", "l2f", "drop_grad", "mr_maml")
"""Experiments that are MAML's with another learner: slow to try, seldom broken."""
METHODS = [*(pytest.param(name, marks=pytest.mark.slow) for name in ON_MAML), "cnp", *NEW]


FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def small() -> problem.Problem:
    """Four hundred users and two hundred items."""
    table = latent.rating_log(num_users=400, num_items=200)
    return problem.problem_of(table, split.melu(table, 0), num_support=16)


SMALL = {"hidden": (8,), "inner_steps": 2, "embedding": 4, "code": 4, "hyper": 8, "features": 4}
"""Settings that compile fast, where an experiment has them."""


def config_of(module):
    """The experiment's configuration, made small."""
    fields = {f.name for f in dataclasses.fields(module.Config)}
    return module.Config(**{k: v for k, v in SMALL.items() if k in fields})


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_its_support_counts(name):
    """One outer step moves the parameters; adapted predictions are not the unadapted ones."""
    module = importlib.import_module(with_config(f"experiments.{find(name)}"))
    learner, tx = module.build(config_of(module), small())
    episode, key = small().example, jax.random.key(0)
    episode = episode._replace(support=episode.support._replace(mask=jnp.ones(16)))

    def play(key):
        params = before = learner.init(key, episode)
        grads, _ = jax.grad(learner.loss, has_aux=True)(params, episode, key)
        updates, _ = tx.update(grads, tx.init(params), params)
        params = optax.apply_updates(params, updates)
        cold = learner.start(params, episode.profile)
        warm = learner.adapt(params, cold, episode.support, key)
        inputs = episode.query.inputs
        scores = [learner.predict(params, state, inputs) for state in (cold, warm)]
        return before, params, *scores

    before, after, cold, warm = jax.jit(play, compiler_options=FAST_TO_COMPILE)(key)
    chex.assert_tree_all_finite((after, cold, warm))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after, before)
    assert sum(jax.tree.leaves(moved)) >= 2, "the outer step moves hardly anything"
    assert np.abs(warm - cold).mean() > 1e-5, "the support does not count"
    assert np.abs(np.asarray(warm) - small().mean).max() < 3.0, "far off the scale"


@pytest.mark.parametrize("name", METHODS)
def test_the_model_beside_it_takes_plain_profiles(name):
    module = importlib.import_module(with_config(f"experiments.{find(name)}"))
    model = module.model(config_of(module), small())
    episode = small().example
    init = jax.eval_shape(model.init, jax.random.key(0), episode.profile, episode.support.inputs)
    scores = jax.eval_shape(model.apply, init, episode.profile, episode.support.inputs)
    assert scores.shape == episode.support.label.shape
    assert scores.dtype == jnp.float32
