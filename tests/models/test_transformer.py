"""The causal Transformer: no look ahead, padding, caches, rotary angles and the norms by pencil."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import transformer
from metajax.models.transformer import Scaling, Shape

SHAPE = Shape(num_layers=2, width=8, num_heads=4, num_kv_heads=2, hidden=12)
FULL = dataclasses.replace(SHAPE, qkv_bias=True, qk_norm=True, head_dim=4)


forward = jax.jit(transformer.forward, static_argnums=0)
extend = jax.jit(transformer.extend, static_argnums=0)
init = jax.jit(transformer.init, static_argnums=(1, 2))


def params_of(shape: Shape, scale: float = 0.5):
    return init(jax.random.key(0), shape, scale)


@pytest.mark.parametrize("shape", [SHAPE, FULL])
def test_no_position_sees_a_later_one_and_each_sees_all_earlier_ones(shape):
    x = jax.random.normal(jax.random.key(1), (6, 8))
    params = params_of(shape)
    jacobian = jax.jit(jax.jacobian(lambda x: transformer.forward(shape, params, x)))(x)
    moved_SxS = np.asarray(jnp.abs(jacobian).sum((1, 3)))
    assert (moved_SxS[np.triu_indices(6, 1)] == 0).all()
    assert (moved_SxS[np.tril_indices(6)] > 1e-6).all()


def test_without_the_mask_the_gradient_test_would_fail(monkeypatch):
    monkeypatch.setattr(transformer.jnp, "where", lambda c, a, b: a)
    x = jax.random.normal(jax.random.key(1), (6, 8))
    forward = functools.partial(transformer.forward, SHAPE, params_of(SHAPE))
    seen = jax.jit(jax.grad(lambda x: forward(x)[0].sum()))(x)
    assert jnp.abs(seen[1:]).max() > 1e-4


@pytest.mark.parametrize("shape", [SHAPE, FULL])
def test_reading_in_pieces_is_reading_at_once(shape):
    x = jax.random.normal(jax.random.key(1), (7, 8))
    params = params_of(shape)
    whole = forward(shape, params, x)
    padded = jnp.concatenate([x[:3], jnp.full((2, 8), 9.0)])
    first, cache = extend(shape, params, padded, transformer.empty_cache(shape, 9), 3)
    rows = [first[:3]]
    for row in x[3:]:
        out, cache = extend(shape, params, row[None], cache)
        rows.append(out)
    chex.assert_trees_all_close(jnp.concatenate(rows), whole, atol=2e-6)
    assert cache.length == 7


def test_a_rotation_turns_each_pair_by_position_times_frequency():
    shape = Shape(1, 4, 1, 1, 4, theta=100.0)
    x = jnp.array([[[1.0, 0.0, 0.0, 2.0]]])
    (turned,) = transformer.rotate(x, jnp.array([3]), shape)[0]
    # Pairs are (0, 2) at 1 radian per position and (1, 3) at 100 ** -0.5 = 0.1.
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_llama_3_stretches_long_waves_only():
    shape = Shape(1, 4, 1, 1, 4, theta=1e4, scaling=Scaling(8.0, 1.0, 4.0, 8192))
    # Waves of 2 pi (1303 turns in 8192) stay; 2 pi 100 (13 turns) stay; see the next for the long.
    np.testing.assert_allclose(transformer.frequencies(shape), [1.0, 0.01], rtol=1e-6)
    long = dataclasses.replace(shape, theta=1e8)  # 1e-4: 8192e-4 / 2 pi = .13 turns: divided by 8
    np.testing.assert_allclose(transformer.frequencies(long)[1], 1e-4 / 8, rtol=1e-6)


def test_a_norm_has_mean_square_one():
    normed = transformer.rms_norm({"scale": jnp.array([1.0, 2.0])}, jnp.array([[3.0, 4.0]]), 0.0)
    root = math.sqrt(12.5)
    np.testing.assert_allclose(normed, [[3 / root, 8 / root]], rtol=1e-6)


def test_layers_computed_anew_give_the_same_gradient():
    x = jax.random.normal(jax.random.key(1), (4, 8))
    params = params_of(SHAPE)
    anew = dataclasses.replace(SHAPE, remat=True)
    loss = lambda shape, p: jnp.sum(transformer.forward(shape, p, x) ** 3)
    slope = jax.jit(jax.grad(loss, 1), static_argnums=0)
    chex.assert_trees_all_close(slope(anew, params), slope(SHAPE, params), rtol=1e-4)


def test_dropout_keeps_the_mean_and_is_drawn_by_its_key():
    shape = dataclasses.replace(SHAPE, num_layers=1)
    params = params_of(shape, 0.05)
    x = jax.random.normal(jax.random.key(1), (3, 8))
    forward = functools.partial(transformer.forward, shape, params, x)
    plain, keys = forward(), jax.random.split(jax.random.key(2), 400)
    many = jax.jit(jax.vmap(lambda key: forward(key, 0.3)))(keys)
    assert jnp.abs(many[0] - many[1]).max() > 1e-5
    assert jnp.abs(many.mean(0) - plain).max() < 0.02
