"""Reptile's outer gradient is theta - phi exactly, phi from a loop written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import optim, tree
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear, vector_mlp
from metajax.transforms.reptile import reptile
from metajax.types import Episode, Examples

KEY = jax.random.key(0)
RATE, NUM_STEPS = 0.2, 4


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def episode(num_query_real: int = 4) -> Episode:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=9)
    mask = np.r_[np.ones(4), 0.0, np.ones(num_query_real), np.zeros(4 - num_query_real)]
    make = lambda a, b: Examples(x[a:b], y[a:b], mask[a:b])
    return Episode((), make(0, 5), make(5, 9))


def outer_gradient(learner, params, task: Episode):
    slope = jax.jit(jax.grad(learner.loss, has_aux=True))
    return jax.device_get(slope(params, task, KEY)[0])


@pytest.mark.parametrize("num_query_real", [4, 2, 0])
def test_the_outer_gradient_is_theta_minus_phi(num_query_real):
    task = episode(num_query_real)
    learner = reptile(gradient(vector_linear(), optax.sgd(RATE), NUM_STEPS))
    theta = np.array([0.3, -0.7, 1.1])
    params = {"model": {"head": {"kernel": theta}}, "rates": ()}

    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), task.support, task.query)
    real = both.mask > 0
    x, y = both.inputs[real], both.label[real]
    phi = theta.copy()
    for _ in range(NUM_STEPS):
        phi = phi - RATE * 2 * x.T @ (x @ phi - y) / len(y)
    actual = outer_gradient(learner, params, task)["model"]["head"]["kernel"]
    np.testing.assert_allclose(actual, theta - phi, rtol=0, atol=1e-12)


def test_one_step_of_reptile_is_joint_training():
    """With one inner step of rate a, theta - phi is a times the gradient of the joint loss."""
    task = episode()
    learner = reptile(gradient(vector_mlp((4,)), optax.sgd(RATE), 1))
    params = jax.jit(learner.init)(KEY, task)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def joint(params):
        both = jax.tree.map(lambda a, b: np.concatenate([a, b]), task.support, task.query)
        scores = learner.predict(params, learner.start(params, ()), both.inputs)
        return RATE * jnp.sum(both.mask * (scores - both.label) ** 2) / jnp.sum(both.mask)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        outer_gradient(learner, params, task)["model"],
        jax.jit(jax.grad(joint))(params)["model"],
    )


def test_what_does_not_adapt_and_the_rates_have_no_gradient():
    inner = gradient(vector_mlp((4,)), optim.learned_rates(0.1), 2, adapts=tree.under("head"))
    learner = reptile(inner)
    params = jax.jit(learner.init)(KEY, episode())
    grads = outer_gradient(learner, params, episode())
    squared_norm = jax.jit(tree.squared_norm)
    norms = {k: float(squared_norm(v)) for k, v in grads["model"].items()}
    assert norms["head"] > 0
    assert norms["body"] == 0
    assert float(squared_norm(grads["rates"])) == 0


def test_the_moments_of_an_inner_optimizer_carry_no_gradient():
    """Adam's moments move too, but are no meta-parameters: the gradient is theta - phi still."""
    inner = gradient(vector_linear(), optax.adam(0.1, eps_root=1e-8), 3)
    task = episode()
    params = {"model": {"head": {"kernel": np.array([0.3, -0.7, 1.1])}}, "rates": ()}
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), task.support, task.query)
    adapted = jax.jit(lambda p: inner.adapt(p, inner.start(p, ()), both, KEY).fast)
    phi = jax.device_get(adapted(params))
    actual = outer_gradient(reptile(inner), params, task)["model"]
    np.testing.assert_allclose(
        actual["head"]["kernel"], params["model"]["head"]["kernel"] - phi["head"]["kernel"], 1e-12
    )
