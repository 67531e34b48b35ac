"""Pruning, small integers, distillation: schedules, masks and roundings by pencil; teachers."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import tree
from metajax.adapters import prune, quantize
from metajax.transforms.distill import soft_cross_entropy

WEIGHTS = {
    "kernel": np.array([[3.0, -1.0], [0.5, -4.0]], np.float32),
    "bias": np.array([0.1, 0.2], np.float32),
}


def test_the_cubic_schedule_by_pencil():
    found = jax.jit(prune.cubic(0.8, 10, 4))(np.array([0, 10, 12, 14, 99]))
    np.testing.assert_allclose(found, [0, 0, 0.8 * (1 - 0.125), 0.8, 0.8], rtol=1e-6)


def test_the_smallest_weights_of_each_kernel_are_pruned():
    masked = jax.jit(prune.masked)
    found = jax.device_get(masked(WEIGHTS, 0.5))
    np.testing.assert_array_equal(found["kernel"], [[3.0, 0.0], [0.0, -4.0]])
    np.testing.assert_array_equal(found["bias"], WEIGHTS["bias"])
    assert prune.nonzero_bytes(found) == 4 * 2 + 1 + 4 * 2
    chex.assert_trees_all_equal(masked(WEIGHTS, 0.0), WEIGHTS)


def test_a_random_mask_is_the_same_at_every_step_and_knows_nothing():
    weights = {"kernel": np.arange(1.0, 401.0).reshape(20, 20)}
    mask = jax.jit(functools.partial(prune.masked, importance=prune.at_random(jax.random.key(0))))
    half, more = (np.asarray(mask(weights, share)["kernel"]) for share in (0.5, 0.7))
    assert np.sum(half == 0) == 200 and np.sum(more == 0) == 280
    assert np.all(more[half == 0] == 0)
    assert abs(float(half.sum() / weights["kernel"].sum()) - 0.5) < 0.1


def test_no_pruned_weight_slips_back_through_adams_moments():
    start, target = np.random.default_rng(0).normal(size=(2, 10, 10)).astype(np.float32)
    tx = prune.pruned(optax.adam(0.05), prune.cubic(0.9, 0, 20))

    def step(carry, _):
        params, state = carry
        grads = {"kernel": params["kernel"] - target}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.sum(jnp.abs(params["kernel"]) < 1e-6)

    trained = lambda params: jax.lax.scan(step, (params, tx.init(params)), None, 30)[1]
    zeros = np.asarray(jax.jit(trained)({"kernel": start}))
    assert zeros[-1] == 90 and zeros[-10] == 90
    assert zeros[4] == math.floor(100 * 0.9 * (1 - 0.75**3) + 1e-4)


def test_integers_by_pencil():
    found = jax.jit(quantize.to_integers)(np.array([[1.27, 0.0], [-0.5, 0.0]]))
    np.testing.assert_array_equal(found.codes, [[127, 0], [-50, 0]])
    np.testing.assert_allclose(found.scale, [[0.01, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(jnp.array([[2.0, 1.0]]) @ found, [[2.04, 0.0]], rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_error_is_at_most_half_a_step(bits):
    weights = np.random.default_rng(0).normal(size=(3, 16, 8)).astype(np.float32)
    found = jax.jit(quantize.to_integers, static_argnums=1)(weights, bits)
    error = np.abs(np.asarray(jax.jit(lambda x: x.dense())(found)) - weights)
    assert np.all(error <= 0.5001 * np.asarray(found.scale))
    assert np.abs(np.asarray(found.codes, int)).max() == 2 ** (bits - 1) - 1


def test_the_rounding_is_that_of_qwix():
    qarray = pytest.importorskip("qwix._src.core.qarray")
    weights = jax.random.normal(jax.random.key(0), (16, 8))
    how = qarray.HowToQuantize(qtype=jnp.int8, channelwise_axes=[1], calibration_method="absmax")
    expected = qarray.quantize(weights, how)
    found = quantize.to_integers(weights)
    assert int(jnp.abs(expected.qvalue.astype(int) - found.codes.astype(int)).max()) <= 1
    np.testing.assert_allclose(found.dense(), qarray.dequantize(expected), atol=2e-2)


def test_a_stand_in_and_its_matrix_give_the_same_and_cost_a_quarter():
    rng = np.random.default_rng(0)
    kernel, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((64, 32), (4, 64)))
    params = {"kernel": kernel, "bias": np.ones(32, np.float32)}
    every = tree.matching("kernel")
    standing = jax.jit(lambda p: quantize.quantized(p, every, stand_in=every))(params)
    dense = jax.jit(lambda p: quantize.quantized(p, every))(params)
    np.testing.assert_allclose(x @ standing["kernel"], x @ dense["kernel"], rtol=1e-4, atol=1e-5)
    assert quantize.integer_bytes(params, every) == 64 * 32 + 4 * 32 + 4 * 32
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(standing)) == 64 * 32 + 4 * 32 + 4 * 32


def test_the_divergence_of_two_softmaxes_by_pencil():
    ln3, mask = math.log(3), np.array([1.0, 1.0, 0.0])
    divergence = jax.jit(soft_cross_entropy)
    # (3/4, 1/4) against (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2; the masked third does not count.
    value = np.asarray(divergence(np.array([ln3, 0.0, 9.0]), np.zeros(3), mask, 1.0))
    np.testing.assert_allclose(value, 0.75 * math.log(1.5) - 0.25 * math.log(2), rtol=1e-5)
    warm = divergence(np.array([2 * ln3, 0.0, 9.0]), np.zeros(3), mask, 2.0)
    np.testing.assert_allclose(warm, 4 * value, rtol=1e-5)
