"""Clustered starts: who decides, when, and what several are worth where users are of kinds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.worlds.modes import UserModes
from metajax.evaluation import evaluate
from metajax.learners.closed_form import ridge
from metajax.models.towers import identity
from metajax.transforms import clustered as parts
from metajax.types import Examples, Model, UserError

ZERO = Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(len(x)))
WORLD = UserModes(shares=(0.25,) * 4, num_support=3)
FEATURES = parts.Features(WORLD.dim, lambda x: x, lambda x: jnp.zeros(len(x)), penalty=0.05)
LEARNER = ridge(identity(), ZERO, WORLD.dim)


def test_a_code_is_the_ridge_regression_of_the_real_rows():
    rng = np.random.default_rng(0)
    x, y, mask = rng.normal(size=(6, 8)), rng.normal(size=6), np.array([1.0, 1, 0, 1, 0, 1])
    found = FEATURES.code(Examples(jnp.asarray(x), jnp.asarray(y), jnp.asarray(mask)))
    x, y = x[mask > 0], y[mask > 0]
    np.testing.assert_allclose(
        found, np.linalg.solve(x.T @ x + 0.05 * np.eye(8), x.T @ y), rtol=2e-3
    )


@pytest.mark.parametrize(
    "assign", [parts.nearest(WORLD.centers), parts.soft(WORLD.centers), parts.gate(4, 8)]
)
def test_shares_are_of_a_whole_and_the_center_itself_is_of_its_cluster(assign):
    params = assign.init(jax.random.key(0), None)
    for i in range(4):
        found = assign.shares(params, (), WORLD.centers[i], jnp.ones(()))
        assert found.shape == (4,) and float(found.sum()) == pytest.approx(1, rel=1e-5)
        if not isinstance(params, dict) or "bias" not in params:
            assert int(found.argmax()) == i


def test_the_first_real_rows_decide_and_later_ones_do_not():
    learner = parts.clustered(LEARNER, 4, FEATURES, parts.nearest(WORLD.centers))
    one = jax.jit(lambda k: WORLD.of_kind(k, 2))(jax.random.key(3))
    wide = dataclasses.replace(WORLD, num_support=40)
    params = learner.init(jax.random.key(0), one)
    first = learner.start(params, ())
    empty = one.support._replace(mask=jnp.zeros(3))
    adapt = lambda state, rows: learner.adapt(params, state, rows, jax.random.key(1))
    np.testing.assert_array_equal(adapt(first, empty).shares, first.shares)
    told = adapt(first, wide.of_kind(jax.random.key(4), 2).support)
    assert int(told.shares.argmax()) == 2 and float(told.count) == 40
    again = adapt(told, wide.of_kind(jax.random.key(5), 1).support)
    np.testing.assert_array_equal(again.shares, told.shares)


def test_four_known_starts_beat_the_mean_of_them_where_there_are_four_kinds():
    """Pencil and paper set all parameters: the kinds' centers, or the mean and variance of all."""
    world = dataclasses.replace(WORLD, num_support=8)
    keys = jax.random.split(jax.random.key(9), 200)
    tests = jax.jit(jax.vmap(world.sample))(keys)
    centers, size = world.centers, world.dim
    middle = centers.mean(axis=0)
    variance = jnp.mean((centers - middle[None]) ** 2) + world.tau**2
    precise = lambda v: jnp.full(size, jnp.log(world.sigma**2 / v))
    empty = {"embed": {}, "offset": {}}
    one = {**empty, "mean": middle, "log_precision": precise(variance)}
    own = {**empty, "mean": centers - middle[None], "log_precision": jnp.zeros((4, size))}
    shared = {**one, "log_precision": precise(world.tau**2)}
    near = parts.clustered(LEARNER, 4, FEATURES, parts.nearest(centers))

    def error(learner, params) -> float:
        run = jax.jit(lambda p: evaluate.predictions(learner, p, tests, jax.random.key(1)))
        return float(jnp.mean((run(params) - tests.query.label) ** 2))

    assert error(near, {"shared": shared, "own": own, "assign": {}}) < 0.6 * error(LEARNER, one)


def test_no_cluster_is_refused():
    with pytest.raises(UserError, match="one cluster or more"):
        parts.clustered(LEARNER, 0, FEATURES, parts.gate(1, 8))
