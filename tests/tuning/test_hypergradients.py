"""Hypergradients against exact optima and against grids."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize_scalar

from metajax.data.worlds.latent import LatentUsers
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.tuning import hypergradients
from metajax.types import UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)) @ np.diag([2.0, 1.5, 1.0, 0.5, 0.3, 0.2])
Y = X @ RNG.normal(size=6) + 1.5 * RNG.normal(size=24)


def leave_one_out(log_penalty: float) -> float:
    """The exact leave-one-out error of ridge: residuals divided by 1 - leverage (PRESS)."""
    hat = X @ np.linalg.solve(X.T @ X + np.exp(log_penalty) * np.eye(6), X.T)
    return float(np.mean(((Y - hat @ Y) / (1 - np.diag(hat))) ** 2))


@pytest.fixture(scope="module")
def exact() -> float:
    return float(minimize_scalar(leave_one_out, bounds=(-6, 8), method="bounded").x)


def fold_loss(make):
    """settings -> mean error over the 24 folds, each an inner problem of its own."""
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)

    def fold(i, log_penalty):
        keep = 1.0 - jax.nn.one_hot(i, 24)
        inner = lambda w, s: (
            0.5 * jnp.sum(keep * (x @ w - y) ** 2) + 0.5 * jnp.exp(s) * jnp.sum(w**2)
        )
        outer = lambda w, s: (x[i] @ w - y[i]) ** 2
        return make(inner, outer, x * keep[:, None], y)(log_penalty)

    return lambda s: jnp.mean(jax.vmap(fold, (0, None))(jnp.arange(24), s))


def by_implicit(inner, outer, x, y):
    solve = lambda s: jnp.linalg.solve(x.T @ x + jnp.exp(s) * jnp.eye(6), x.T @ y)
    return hypergradients.implicit(inner, outer, solve)


def by_unrolling(inner, outer, x, y):
    return hypergradients.unrolled(
        inner, outer, jnp.zeros(6), 3000, lambda s: 1.0 / (150.0 + jnp.exp(s))
    )


@pytest.mark.parametrize("make", [by_implicit, by_unrolling])
def test_the_hypergradient_is_the_slope_of_the_exact_leave_one_out_error(make):
    for log_penalty in (0.0, 2.0):
        slope = jax.grad(fold_loss(make))(jnp.float32(log_penalty))
        h = 1e-4
        exact = (leave_one_out(log_penalty + h) - leave_one_out(log_penalty - h)) / (2 * h)
        assert float(slope) == pytest.approx(exact, rel=0.02, abs=2e-3)


def test_descent_finds_the_penalty_of_ridge_to_one_per_cent(exact):
    starts = jnp.array([-3.0, 0.0, 5.0])
    found = hypergradients.descend(fold_loss(by_implicit), starts, 400)
    assert np.exp(float(found.settings)) == pytest.approx(np.exp(exact), rel=0.01)
    assert found.losses.shape == (3, 400)
    ends = np.asarray(
        [
            hypergradients.descend(fold_loss(by_implicit), starts[i : i + 1], 400).loss
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(ends, leave_one_out(exact), rtol=1e-3)


def test_descent_tunes_the_inner_rate_as_a_grid_does():
    """The knob is the size of a learner's own gradient steps, through adaptation."""
    world = LatentUsers(dim=3, num_support=8, num_query=8)
    tasks = jax.vmap(world.sample)(jax.random.split(jax.random.key(0), 64))
    params = gradient(towers.vector_linear(), optax.sgd(0.1), 3).init(
        jax.random.key(1), jax.tree.map(lambda x: x[0], tasks)
    )

    def loss(log_rate):
        learner = gradient(towers.vector_linear(), optax.sgd(jnp.exp(log_rate)), 3)
        keys = jax.random.split(jax.random.key(2), 64)
        return jnp.mean(jax.vmap(learner.loss, (None, 0, 0))(params, tasks, keys)[0])

    grid = jnp.linspace(-4.0, 1.0, 201)
    values = np.asarray(jax.jit(jax.vmap(loss))(grid))
    found = hypergradients.descend(loss, jnp.array([-3.0, -1.5]), 150)
    assert float(found.settings) == pytest.approx(float(grid[np.nanargmin(values)]), abs=0.03)


def test_a_start_that_diverges_is_left_behind():
    loss = lambda s: jnp.where(s > 5.0, jnp.nan, (s - 1.0) ** 2)
    found = hypergradients.descend(loss, jnp.array([9.0, 0.0]), 200)
    assert float(found.settings) == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(UserError, match="not finite from any start"):
        hypergradients.descend(loss, jnp.array([9.0]), 3)
