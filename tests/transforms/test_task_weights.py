"""Learned weights of tasks: each kind of parameter descends its own part of the loss."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.transforms.task_weights import task_weighed, weights
from metajax.types import Episode, Examples, Model

RATE = 0.3
LINEAR = Model(lambda key, profile, x: {"w": jnp.ones((2, 2))}, lambda p, _, x: x @ p["w"])
X = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
SUPPORT = Examples(X, jnp.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]]), jnp.ones((3, 2)))
QUERY = SUPPORT._replace(label=SUPPORT.label + 0.5)


def losses_of(score, label, mask):
    return (mask * (score - label) ** 2).sum(axis=0) / mask.sum(axis=0)


def slope():
    learner, key = task_weighed(LINEAR, losses_of, RATE), jax.random.key(0)
    params = learner.init(key, Episode((), SUPPORT, QUERY))
    params["model"]["log_weight"] = jnp.array([0.2, -0.1])
    of = jax.jit(jax.grad(lambda p: learner.loss(p, Episode((), SUPPORT, QUERY), key)[0]))
    return params["model"], of(params)["model"]


def test_the_model_descends_the_weighed_losses_of_the_support():
    own, found = slope()
    weighed = lambda w: (
        weights(own["log_weight"]) * losses_of(X @ w, SUPPORT.label, SUPPORT.mask)
    ).mean()
    np.testing.assert_allclose(found["net"]["w"], jax.grad(weighed)(own["net"]["w"]), rtol=1e-5)


def test_the_weights_descend_the_loss_of_the_query_after_the_inner_step():
    """By differences of a step taken by hand."""
    own, found = slope()

    def held(log_weight):
        residual = X @ own["net"]["w"] - SUPPORT.label
        each = 2 * X.T @ residual / 3  # the gradient of each task's loss, one column per task
        moved = own["net"]["w"] - RATE * each * weights(log_weight)[None] / 2
        return losses_of(X @ moved, QUERY.label, QUERY.mask).mean()

    step = 1e-2 * jnp.eye(2)
    expected = [(held(own["log_weight"] + e) - held(own["log_weight"] - e)) / 2e-2 for e in step]
    np.testing.assert_allclose(found["log_weight"], jnp.array(expected), rtol=2e-3, atol=1e-5)


def test_weights_have_a_mean_of_one():
    np.testing.assert_allclose(weights(jnp.array([0.0, 0.0])), 1.0)
    np.testing.assert_allclose(weights(jnp.array([3.0, -1.0, 0.5])).mean(), 1.0, rtol=1e-6)
