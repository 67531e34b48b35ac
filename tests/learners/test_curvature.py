"""The derivative of an inner gradient, against reverse over reverse and against pencil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learners.gradient.curvature import inner_gradient


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def value(fast, given):
    """``a^2 b x[i] + sin(a b)``, with an index among what is given."""
    a, (b, x, i) = fast["a"], given
    return a**2 * b * x[i] + jnp.sin(a * b)


def test_mixed_derivatives_by_hand():
    """d/da = 2 a b x_i + b cos ab; its own slopes along a, b and x_i."""
    a, b, x, i = 0.7, -1.3, np.array([0.2, 0.5]), np.array(1)
    slope = lambda a, b, x: inner_gradient(value, {"a": a}, (b, x, i))["a"]
    np.testing.assert_allclose(
        jax.jit(slope)(a, b, x), 2 * a * b * 0.5 + b * np.cos(a * b), rtol=1e-12
    )
    to_a, to_b, to_x = jax.jit(jax.grad(slope, (0, 1, 2)))(a, b, x)
    np.testing.assert_allclose(to_a, 2 * b * 0.5 - b**2 * np.sin(a * b), rtol=1e-12)
    mixed = 2 * a * 0.5 + np.cos(a * b) - a * b * np.sin(a * b)
    np.testing.assert_allclose(to_b, mixed, rtol=1e-12)
    np.testing.assert_allclose(to_x, [0.0, 2 * a * b], rtol=1e-12)


def test_it_is_reverse_over_reverse_mapped_over_tasks():
    """Under vmap with indices of each task's own, shared weights, and inside a checkpoint."""
    rng = np.random.default_rng(0)
    fast = {"w": jnp.asarray(rng.normal(size=(3, 4)))}
    table, index = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray([[0, 5], [2, 2], [1, 3]])

    def loss(fast, given):
        table, index = given
        return jnp.sum(jnp.tanh(table[index] @ fast["w"]) ** 2)

    def outer(gradient, fast, table):
        one = jax.checkpoint(lambda f, i: jnp.sum(gradient(f, (table, i))["w"] ** 3))
        return jnp.sum(jax.vmap(one)(fast, index))

    ours = lambda f, given: inner_gradient(loss, f, given)
    plain = lambda f, given: jax.grad(loss)(f, given)
    pull = lambda g: jax.jit(jax.grad(lambda f, t: outer(g, f, t), (0, 1)))(fast, table)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        pull(ours),
        pull(plain),
    )
