"""The balance of losses, against examples by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.optim import balance


def combined(*gradients):
    arrow = balance.pcgrad()
    stacked = {"w": jnp.asarray(gradients)}
    return arrow.update(stacked, arrow.init(None))[0]["w"]


def test_pcgrad_removes_the_conflicting_part():
    """(1, 0) and (-1, 1): each loses its part along the other, (.5, .5) and (0, 1)."""
    np.testing.assert_allclose(combined([1.0, 0.0], [-1.0, 1.0]), [0.25, 0.75], rtol=1e-6)


def test_pcgrad_of_gradients_that_agree_is_their_mean():
    np.testing.assert_allclose(combined([1.0, 0.0], [1.0, 2.0]), [1.0, 1.0], rtol=1e-6)


def test_pcgrad_stands_in_front_of_any_optimizer():
    tx, params = optax.chain(balance.pcgrad(), optax.sgd(1.0)), {"w": jnp.zeros(2)}
    updates, _ = tx.update({"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}, tx.init(params))
    np.testing.assert_allclose(updates["w"], [-0.25, -0.75], rtol=1e-6)


def test_uncertainty_weighs_each_loss_by_its_inverse_where_it_is_best():
    losses = jnp.array([2.0, 8.0])
    slope = jax.grad(lambda s: balance.by_uncertainty(losses, s))
    np.testing.assert_allclose(slope(jnp.log(losses)), 0.0, atol=1e-6)
    weight = jax.grad(lambda x: balance.by_uncertainty(x, jnp.log(losses)))(losses)
    np.testing.assert_allclose(weight, 1 / losses, rtol=1e-6)
