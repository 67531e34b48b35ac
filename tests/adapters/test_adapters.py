"""Adapters: equal to the base at the start, small per task, and the backbone never per task."""

from collections.abc import Callable

import chex
import jax
import numpy as np
import optax
import pytest

from metajax import losses, tree
from metajax.adapters.conditions import film, film_context, last_layer, soft_prompt
from metajax.adapters.lora import LowRank, lora
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.models.features import vector_features
from metajax.models.towers import vector_mlp
from metajax.models.transformer import Shape
from metajax.types import Episode, Examples, Model

SHAPE = Shape(1, 8, 2, 2, 16)
SETTINGS = sequence.Settings(5, SHAPE, dropout=0.0)
MODEL = sequence.next_item(SETTINGS)
DEEP = sequence.next_item(sequence.Settings(5, Shape(2, 8, 2, 2, 16), dropout=0.0))
"""A model of two blocks, each with an adapter of its own."""
ROWS = (np.array([[0, 1, 2], [3, 4, 0]]), np.array([3, 2]))
WRAPPED = {
    "lora": lora(MODEL, 2),
    "film": film(MODEL, SHAPE),
    "context": film_context(MODEL, SHAPE, 4),
    "prompt": soft_prompt(MODEL, SHAPE, 3),
}
EQUAL_AT_FIRST = ("lora", "film", "context")


def quick(function: Callable) -> Callable:
    """The function compiled in little time, for it runs but once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def examples(rows, label) -> Examples:
    return Examples(rows, label, np.ones(len(label)))


EPISODE = Episode((), examples(ROWS, np.array([1.0, 2.0])), examples(ROWS, np.array([2.0, 3.0])))


def learner_of(model: Model, num_steps: int = 2, rate: float = 0.5):
    adapts = tree.under("adapter")
    entropy = losses.class_cross_entropy
    return gradient(model, optax.sgd(rate), num_steps, adapts=adapts, loss=entropy)


def test_a_low_rank_matrix_multiplies_as_its_sum():
    rng = np.random.default_rng(0)
    base, a, b, x = (rng.normal(size=s) for s in [(4, 3), (4, 2), (2, 3), (5, 4)])
    found = quick(lambda rows, *parts: rows @ LowRank(*parts))(x, base, a, b)
    np.testing.assert_allclose(found, x @ (base + a @ b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EQUAL_AT_FIRST)
def test_at_the_start_the_adapted_model_is_the_base(name):
    params = quick(WRAPPED[name].init)(jax.random.key(0), (), ROWS)
    expected = quick(MODEL.apply)(params["base"], (), ROWS)
    chex.assert_trees_all_close(quick(WRAPPED[name].apply)(params, (), ROWS), expected, atol=1e-6)


def test_both_forms_of_lora_agree_away_from_the_start():
    formed = lora(DEEP, 2, scale=0.5, formed=True)
    params = jax.device_get(quick(formed.init)(jax.random.key(0), (), ROWS))
    nudged = {**params, "adapter": jax.tree.map(lambda x: x + 0.3, params["adapter"])}
    apart = quick(lora(DEEP, 2, scale=0.5).apply)(nudged, (), ROWS)
    together = quick(formed.apply)(nudged, (), ROWS)
    chex.assert_trees_all_close(together, apart, rtol=2e-4, atol=1e-5)
    base = np.asarray(quick(DEEP.apply)(params["base"], (), ROWS))
    assert np.abs(np.asarray(apart) - base).max() > 1e-4


def test_lora_wraps_flax_layers_once_it_is_formed():
    model = vector_mlp((6,))
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    wrapped = lora(model, 1, formed=True)
    params = quick(wrapped.init)(jax.random.key(0), (), x)
    assert len(params["adapter"]) == 2
    expected = quick(model.apply)(params["base"], (), x)
    chex.assert_trees_all_close(quick(wrapped.apply)(params, (), x), expected, atol=1e-6)


def test_a_filter_says_which_kernels_get_an_adapter():
    some = lora(DEEP, 2, tree.matching("attention/(query|value)/kernel"))
    adapter = jax.eval_shape(some.init, jax.random.key(0), (), ROWS)["adapter"]
    assert sorted(adapter) == ["blocks/attention/query/kernel", "blocks/attention/value/kernel"]
    assert adapter["blocks/attention/query/kernel"]["a"].shape == (2, 8, 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(adapter)) == 2 * 2 * (8 * 2 + 2 * 8)


RATES = {"lora": 0.02, "prompt": 0.02, "film": 0.1, "context": 0.1}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_task_moves_its_adapter_alone_and_for_the_better(name):
    learner = learner_of(WRAPPED[name], rate=RATES[name])
    params = jax.device_get(quick(learner.init)(jax.random.key(0), EPISODE))
    strong = jax.tree.map(lambda x: 8 * x, params["model"]["base"])
    params = {**params, "model": {**params["model"], "base": strong}}
    cold = quick(learner.start)(params, ())
    warm = quick(learner.adapt)(params, cold, EPISODE.support, jax.random.key(0))
    moved = jax.tree_util.tree_leaves_with_path(warm.fast)
    assert {tree.path_name(path).split("/")[0] for path, _ in moved} == {"adapter"}
    support = EPISODE.support
    loss = quick(
        lambda s: losses.class_cross_entropy(
            learner.predict(params, s, support.inputs), support.label, support.mask
        )
    )
    assert loss(warm) < loss(cold)


@pytest.mark.parametrize("name", ["lora", "context"])
def test_no_outer_gradient_reaches_a_frozen_backbone(name):
    learner = learner_of(WRAPPED[name])
    params = quick(learner.init)(jax.random.key(0), EPISODE)
    grads = quick(jax.grad(lambda p: learner.loss(p, EPISODE, jax.random.key(0))[0]))(params)
    grads = jax.device_get(grads)
    assert all(not np.any(g) for g in jax.tree.leaves(grads["model"]["base"]))
    assert all(np.any(g != 0) for g in jax.tree.leaves(grads["model"]["adapter"]))


def test_the_state_of_a_person_is_a_few_kilobytes():
    """At the published size of SASRec; a soft prompt of 4 and 32 numbers of context too."""
    settings = sequence.Settings(3416, sequence.small())
    model, shape = sequence.next_item(settings), settings.shape
    queries = tree.matching("attention/(query|value)/kernel")
    wrapped = {
        "lora": lora(model, 2, queries),
        "film": film(model, shape),
        "context": film_context(model, shape, 32),
        "prompt": soft_prompt(model, shape, 4),
    }
    for name, made in wrapped.items():
        shapes = jax.eval_shape(lambda m=made: m.init(jax.random.key(0), (), ROWS))
        state = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes["adapter"]))
        assert state < 10_000, name


def test_a_last_layer_over_features():
    x = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    model = last_layer(vector_features((4,)))
    params, apply = quick(model.init)(jax.random.key(0), (), x), quick(model.apply)
    np.testing.assert_array_equal(apply(params, (), x), np.zeros(6))
    adapter = {"kernel": np.array([1.0, 0, 0, 0]), "bias": np.array(2.0)}
    features = np.asarray(quick(vector_features((4,)).apply)(params["base"], (), x))
    moved = apply({**params, "adapter": adapter}, (), x)
    np.testing.assert_allclose(moved, features[:, 0] + 2.0, rtol=1e-6)
