"""CAVIA: the context adapts, the network does not, and the gradient runs through the context."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax.learners.gradient.context import cavia
from metajax.models.features import conditioned_mlp
from metajax.types import Episode, Examples, Model


def sum_model() -> Model:
    """The score ``theta + s c``: linear in the context."""
    return Model(
        init=lambda key, profile, inputs: {"theta": jnp.asarray(0.3), "s": jnp.asarray(1.5)},
        apply=lambda params, profile, inputs: (
            (params["theta"] + params["s"] * profile[1][0]) * jnp.ones_like(inputs)
        ),
    )


def test_one_step_by_hand():
    """c = 2 a s (y - theta) from c = 0, so d L_Q / d theta = 2 r (1 - 2 a s^2)."""
    with jax.enable_x64(True):
        theta, s, a, y, z = 0.3, 1.5, 0.1, 2.0, -1.0
        ones = np.ones(1)
        episode = Episode((), Examples(ones, y * ones, ones), Examples(ones, z * ones, ones))
        learner = compiled(cavia(sum_model(), 1, optax.sgd(a), 1))
        params = learner.init(jax.random.key(0), episode)
        state = learner.adapt(params, learner.start(params, ()), episode.support, jax.random.key(0))
        c = 2 * a * s * (y - theta)
        assert float(np.asarray(state.fast["context"])[0]) == pytest.approx(c, rel=1e-12)
        grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(params, episode, jax.random.key(0))
        residual = theta + s * c - z
        net = grads["model"]["net"]
        assert float(net["theta"]) == pytest.approx(2 * residual * (1 - 2 * a * s**2), rel=1e-12)
        through_s = c + s * 2 * a * (y - theta)
        assert float(net["s"]) == pytest.approx(2 * residual * through_s, rel=1e-12)
        first = cavia(sum_model(), 1, optax.sgd(a), 1, second_order=False)
        grads, _ = jax.jit(jax.grad(first.loss, has_aux=True))(params, episode, jax.random.key(0))
        assert float(grads["model"]["net"]["theta"]) == pytest.approx(2 * residual, rel=1e-12)


def test_context_starts_from_zero_whatever_the_parameters_hold():
    learner = compiled(cavia(conditioned_mlp((8,)), 3, optax.sgd(1.0), 2))
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    examples = Examples(x, x[:, 0], np.ones(5, np.float32))
    params = learner.init(jax.random.key(1), Episode((), examples, examples))
    moved = jax.tree.map(lambda x: x, params)
    moved["model"]["context"] = np.full(3, 7.0, np.float32)
    cold = learner.predict(params, learner.start(params, ()), x)
    np.testing.assert_array_equal(cold, learner.predict(moved, learner.start(moved, ()), x))
    state = learner.adapt(params, learner.start(params, ()), examples, jax.random.key(0))
    assert jax.tree.leaves(state.fast)[0].shape == (3,) and len(jax.tree.leaves(state.fast)) == 1
    assert np.abs(np.subtract(learner.predict(params, state, x), cold)).max() > 1e-3
