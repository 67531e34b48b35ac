"""The arrays that serve answer as the learner they come from, and tell what each event did."""

import functools

import jax
import numpy as np
import pytest
from compiled import compiled

from metajax.learners import item_ridge
from metajax.serving import linear
from metajax.types import Episode, Examples, UserError

N, D, Q = 12, 3, 4
KEY = jax.random.key(0)


def columns(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"bias": (N,), "factor": (N, D), "bayes": (N, Q), "bayes_bias": (N,)}
    shapes |= {f"content_{k}": v for k, v in shapes.items()} | {"count": (N,)}
    return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


RECIPES = {
    "item mean": item_ridge.Recipe(3.5),
    "fold-in": item_ridge.Recipe(3.5, ("factor",), (2.0, *[5.0] * D)),
    "hierarchical Bayes": item_ridge.Recipe(
        3.5, ("bayes",), (1.0,) * Q, constant=False, bias="bayes_bias"
    ),
    "ridge head": item_ridge.Recipe(
        3.5,
        ("factor", "bayes"),
        (4.0, *[3.0] * (D + Q + 2)),
        learned=True,
        scale=0.8,
        user_sizes={"age": 4},
        extra=2,
        hidden=5,
        offset_hidden=6,
        blend=True,
    ),
}


@functools.cache
def trained(name: str):
    """The learner of a recipe, and parameters that no network starts with."""
    recipe = RECIPES[name]
    learner = compiled(item_ridge.in_units(item_ridge.learner(recipe), recipe.scale))
    inputs = {k: v[:2] for k, v in columns().items()} | {"item": np.arange(2)}
    examples = Examples(inputs, np.ones(2), np.ones(2))
    params = learner.init(KEY, Episode({"age": np.ones(1, np.int32)}, examples, examples))
    rng = np.random.default_rng(0)
    moved = lambda x: np.asarray(x + 0.2 * rng.normal(size=x.shape), np.float32)
    return learner, jax.device_put(jax.tree.map(moved, jax.device_get(params)))


@pytest.mark.parametrize("age", [0, 2])
@pytest.mark.parametrize("name", RECIPES)
def test_arrays_answer_as_the_learner(name, age):
    """After two calls of adapt, for a person with and without a profile."""
    recipe = RECIPES[name]
    learner, params = trained(name)
    profile = {"age": np.array([age], np.int32)}
    form = linear.form(recipe, params, columns(), profile)
    items, label = np.array([3, 7, 1]), np.array([1.0, 5.0, 2.5], np.float32)
    state = linear.adapt(form, linear.start(form), items[:1], label[:1])
    state = linear.adapt(form, state, items[1:], label[1:])
    inputs = lambda i: {k: v[i] for k, v in columns().items()} | {"item": i}
    own = learner.start(params, profile)
    own = learner.adapt(params, own, Examples(inputs(items), label, np.ones(3)), KEY)
    expected = learner.predict(params, own, inputs(np.arange(N)))
    np.testing.assert_allclose(linear.predict(form, state), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_influences_add_up_to_what_the_labels_did(name):
    """They sum to the score less what it is when every label is the offset."""
    recipe = RECIPES[name]
    form = linear.form(recipe, trained(name)[1], columns(), {"age": np.zeros(1, np.int32)})
    items, label = np.array([3, 7, 1]), np.array([1.0, 5.0, 2.5], np.float32)
    moved = linear.influence(form, items, label, np.arange(N))
    expected = recipe.scale * form.offset[items]
    told = linear.predict(form, linear.adapt(form, linear.start(form), items, label))
    plain = linear.predict(form, linear.adapt(form, linear.start(form), items, expected))
    assert moved.shape == (N, 3)
    np.testing.assert_allclose(moved.sum(axis=1), told - plain, atol=1e-4)


def test_one_event_by_hand():
    """One feature x = 2, precision 1, label 5 over an offset of 3: w = 2 * 2 / (1 + 4) = 0.8."""
    zero = np.zeros(2, np.float32)
    form = linear.Form(
        np.array([[2.0], [1.0]], np.float32),
        zero + 3,
        zero,
        np.zeros(1),
        np.ones(1),
        None,
        None,
        1.0,
    )
    state = linear.adapt(form, linear.start(form), np.array([0]), np.array([5.0]))
    np.testing.assert_allclose(linear.predict(form, state), [3 + 1.6, 3 + 0.8], rtol=1e-6)
    np.testing.assert_allclose(
        linear.influence(form, np.array([0]), np.array([5.0]), np.array([1])), [[0.8]], rtol=1e-6
    )


def test_a_label_that_is_no_number_is_refused_and_a_model_that_diverged_is_not_made():
    recipe = RECIPES["fold-in"]
    _, params = trained("fold-in")
    form = linear.form(recipe, params, columns(), {})
    with pytest.raises(UserError, match="not a finite number; nothing was learned"):
        linear.adapt(form, linear.start(form), np.array([1]), np.array([np.nan]))
    broken = {**params, "mean": np.full_like(params["mean"], np.nan)}
    with pytest.raises(UserError, match="the mean of the trained model is not finite"):
        linear.form(recipe, broken, columns(), {})
    damaged = form._replace(mean=form.mean * np.nan)
    with pytest.raises(UserError, match="a score is not finite"):
        linear.predict(damaged, linear.start(damaged))
