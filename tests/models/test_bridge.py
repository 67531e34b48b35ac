"""Flax modules as models: dropout, batch statistics, seeds, and what is refused."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metajax import tree
from metajax.learners.gradient.maml import gradient
from metajax.models.bridge import from_linen, from_nnx
from metajax.training import loop, steps
from metajax.transforms.dropout import with_dropout
from metajax.types import Episode, Examples, Model, UserError

KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (6, 3))
ROWS = Examples(X, X @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(6))
EPISODE = Episode((), ROWS, ROWS)


class Nnx(nnx.Module):
    """A perceptron with dropout or batch statistics, or both."""

    def __init__(self, rngs: nnx.Rngs, drops: bool = False, norms: bool = False):
        self.body = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs) if norms else None
        self.drop = nnx.Dropout(0.5, rngs=rngs) if drops else None
        self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, profile, inputs):
        x = self.body(inputs)
        x = x if self.norm is None else self.norm(x)
        x = jax.nn.relu(x)
        x = x if self.drop is None else self.drop(x)
        return self.head(x)[:, 0]


class Linen(nn.Module):
    """The same in Linen, with the switches where people have them: at the layer or at the call."""

    drops: bool = False
    norms: bool = False

    @nn.compact
    def __call__(self, profile, inputs, train: bool = False):
        x = nn.Dense(8, name="body")(inputs)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x) if self.norms else x
        x = jax.nn.relu(x)
        x = nn.Dropout(0.5)(x, deterministic=not train) if self.drops else x
        return nn.Dense(1, name="head")(x)[:, 0]


def nnx_model(drops=False, norms=False, **options) -> Model:
    return from_nnx(lambda rngs, profile, inputs: Nnx(rngs, drops, norms), **options)


def linen_model(drops=False, norms=False, **options) -> Model:
    return from_linen(Linen(drops, norms), **options)


MODELS = {"nnx": nnx_model, "linen": linen_model}


def plain(params, x: np.ndarray, norms: bool = False) -> np.ndarray:
    """The network without dropout, in numpy, by the rows' own statistics."""
    p = jax.tree.map(np.asarray, params)
    h = x @ p["body"]["kernel"] + p["body"]["bias"]
    if norms:
        h = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
        h = h * p["norm"]["scale"] + p["norm"]["bias"]
    return (np.maximum(h, 0) @ p["head"]["kernel"] + p["head"]["bias"])[:, 0]


@pytest.mark.parametrize("flax", MODELS)
def test_dropout_is_off_without_a_key_and_drops_half_with_one(flax):
    params = MODELS[flax](drops=True).init(KEY, (), X)
    off = MODELS[flax](drops=True).apply(params, (), X)
    np.testing.assert_allclose(off, plain(params, np.asarray(X)), rtol=1e-5, atol=1e-6)
    noisy = lambda key: MODELS[flax](drops=True, dropout=key).apply(params, (), X)
    one, again, other = noisy(KEY), noisy(KEY), noisy(jax.random.key(5))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - off).max() > 1e-3
    many = jax.jit(jax.vmap(noisy))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(many.mean(axis=0), off, atol=4 * float(many.std()) / 4000**0.5)


@pytest.mark.parametrize("flax", MODELS)
def test_batch_statistics_are_those_of_the_rows(flax):
    model = MODELS[flax](norms=True, batch_statistics=True)
    params = model.init(KEY, (), X)
    for rows in (np.asarray(X), 3.0 + 2.0 * np.asarray(X[:4])):
        expected = plain(params, rows, norms=True)
        np.testing.assert_allclose(
            model.apply(params, (), jnp.asarray(rows)), expected, rtol=1e-3, atol=1e-4
        )
    assert {tree.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)} == {
        *(f"{a}/{b}" for a, b in itertools.product(("body", "head"), ("kernel", "bias"))),
        "norm/scale",
        "norm/bias",
    }


@pytest.mark.parametrize("flax", MODELS)
def test_batch_statistics_have_to_be_allowed(flax):
    with pytest.raises(UserError, match="batch_statistics=True") as error:
        MODELS[flax](norms=True).init(KEY, (), X)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flax", MODELS)
def test_seeds_have_starts_of_their_own(flax):
    starts = jax.jit(jax.vmap(lambda key: MODELS[flax]().init(key, (), X)))(
        jax.random.split(KEY, 2)
    )
    kernel = starts["body"]["kernel"]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


def test_a_module_instance_is_refused():
    module = Nnx(nnx.Rngs(0))
    with pytest.raises(UserError, match="not a module"):
        from_nnx(module)  # pyright: ignore
    with pytest.raises(UserError, match="the same module at each call"):
        from_nnx(lambda rngs, profile, inputs: module).init(KEY, (), X)


def test_what_a_pure_function_cannot_keep_is_refused_in_one_line():
    class Counts(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.calls = nnx.Variable(jnp.zeros(()))

        def __call__(self, profile, inputs):
            return inputs[:, 0]

    class LinenCounts(nn.Module):
        @nn.compact
        def __call__(self, profile, inputs):
            self.variable("counter", "calls", lambda: jnp.zeros(()))
            return inputs[:, 0]

    with pytest.raises(UserError, match="holds calls, which is neither"):
        from_nnx(lambda rngs, profile, inputs: Counts(rngs)).init(KEY, (), X)
    with pytest.raises(UserError, match="the collection 'counter'"):
        from_linen(LinenCounts()).init(KEY, (), X)


@pytest.mark.parametrize("flax", MODELS)
def test_maml_trains_with_dropout_and_batch_statistics_and_serves_without_noise(flax):
    """Its loss falls; two keys give two losses; adapting does not depend on its key."""

    def make(key):
        model = MODELS[flax](drops=True, norms=True, dropout=key, batch_statistics=True)
        return gradient(model, optax.sgd(0.05), 2)

    learner = with_dropout(make)
    params, loss = jax.jit(learner.init)(KEY, EPISODE), jax.jit(learner.loss)
    losses = [float(loss(params, EPISODE, jax.random.key(i))[0]) for i in (1, 2)]
    assert abs(losses[0] - losses[1]) > 1e-4
    adapt = jax.jit(learner.adapt)
    states = [adapt(params, learner.start(params, ()), ROWS, jax.random.key(i)) for i in (1, 2)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    sample = lambda source, key: jax.tree.map(lambda x: x[None], EPISODE)
    keys = jax.random.split(KEY, 2)
    fitted = loop.fit(steps.recipe(learner, optax.adam(0.02)), sample, (), keys, 60, block=20)
    assert (fitted.history["loss"][:, -1] < 0.7 * fitted.history["loss"][:, 0]).all()
