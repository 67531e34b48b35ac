"""Attributions to features: the axioms, and vectors worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax.explain.features import integrated_gradients, kernel_shap, lime


def together(x):
    """2 a + b c: the two that act together share their product."""
    return 2.0 * x[..., 0] + x[..., 1] * x[..., 2]


def test_integrated_gradients_share_a_product_and_are_complete():
    x, zero = jnp.ones(3), jnp.zeros(3)
    np.testing.assert_allclose(integrated_gradients(together, x, zero), [2.0, 0.5, 0.5], atol=1e-5)
    bent = lambda x: jnp.tanh(x[0] * x[1]) + jnp.exp(0.3 * x[2])
    x, base = jnp.array([0.7, -1.2, 2.0]), jnp.array([0.1, 0.4, -1.0])
    shares = integrated_gradients(bent, x, base)
    assert abs(float(shares.sum() - (bent(x) - bent(base)))) < 1e-3


def test_kernel_shap_is_exact_on_three_features():
    pytest.importorskip("shap", reason="pip install metajax[explain]")
    told = kernel_shap(together, np.ones(3), np.zeros((1, 3)))
    np.testing.assert_allclose(told, [2.0, 0.5, 0.5], atol=1e-6)
    assert told.sum() == pytest.approx(3.0)


def test_lime_finds_the_slopes_of_a_plane():
    pytest.importorskip("lime", reason="pip install metajax[explain]")
    background = np.random.default_rng(0).normal(size=(200, 3))
    slopes, fit = lime(lambda x: x @ np.array([1.0, -2.0, 0.0]) + 3.0, np.ones(3), background)
    scale = background.std(axis=0)
    np.testing.assert_allclose(slopes / scale, [1.0, -2.0, 0.0], atol=0.05)
    assert fit > 0.99
