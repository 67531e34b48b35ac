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
init = jax.jit(transformer.init, static_argnums=1)
rotate = jax.jit(transformer.rotate, static_argnums=2)
frequencies = jax.jit(transformer.frequencies, static_argnums=0)
X = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)


def params_of(shape: Shape, scale: float = 0.5):
    return init(jax.random.key(0), shape, scale)


@pytest.mark.parametrize("shape", [SHAPE, FULL])
def test_no_position_sees_a_later_one_and_each_sees_all_earlier_ones(shape):
    params = params_of(shape)
    read = jax.jacobian(lambda x: transformer.forward(shape, params, x))
    moved_SxS = np.asarray(jax.jit(lambda x: jnp.abs(read(x)).sum((1, 3)))(X[:6]))
    assert (moved_SxS[np.triu_indices(6, 1)] == 0).all()
    assert (moved_SxS[np.tril_indices(6)] > 1e-6).all()


def test_without_the_mask_the_gradient_test_would_fail(monkeypatch):
    monkeypatch.setattr(transformer.jnp, "where", lambda c, a, b: a)
    forward = functools.partial(transformer.forward, SHAPE, params_of(SHAPE))
    seen = np.asarray(jax.jit(jax.grad(lambda x: forward(x)[0].sum()))(X[:6]))
    assert np.abs(seen[1:]).max() > 1e-4


@pytest.mark.parametrize("shape", [SHAPE, FULL])
def test_reading_in_pieces_is_reading_at_once(shape):
    params = params_of(shape)
    whole = forward(shape, params, X)
    padded = np.concatenate([X[:3], np.full((2, 8), 9.0, np.float32)])
    first, cache = extend(shape, params, padded, transformer.empty_cache(shape, 9), 3)
    rows = [np.asarray(first)[:3]]
    for row in X[3:]:
        out, cache = extend(shape, params, row[None], cache)
        rows.append(out)
    np.testing.assert_allclose(np.concatenate(rows), whole, atol=2e-6)
    assert cache.length == 7


def test_a_rotation_turns_each_pair_by_position_times_frequency():
    shape = Shape(1, 4, 1, 1, 4, theta=100.0)
    x = np.array([[[1.0, 0.0, 0.0, 2.0]]], np.float32)
    ((turned,),) = np.asarray(rotate(x, np.array([3]), shape))
    # Pairs are (0, 2) at 1 radian per position and (1, 3) at 100 ** -0.5 = 0.1.
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_llama_3_stretches_long_waves_only():
    shape = Shape(1, 4, 1, 1, 4, theta=1e4, scaling=Scaling(8.0, 1.0, 4.0, 8192))
    # Waves of 2 pi (1303 turns in 8192) stay; 2 pi 100 (13 turns) stay; see the next for the long.
    np.testing.assert_allclose(frequencies(shape), [1.0, 0.01], rtol=1e-6)
    long = dataclasses.replace(shape, theta=1e8)  # 1e-4: 8192e-4 / 2 pi = .13 turns: divided by 8
    np.testing.assert_allclose(np.asarray(frequencies(long))[1], 1e-4 / 8, rtol=1e-6)


def test_a_norm_has_mean_square_one():
    norm = jax.jit(lambda scale, x: transformer.rms_norm({"scale": scale}, x, 0.0))
    normed = norm(np.array([1.0, 2.0], np.float32), np.array([[3.0, 4.0]], np.float32))
    root = math.sqrt(12.5)
    np.testing.assert_allclose(normed, [[3 / root, 8 / root]], rtol=1e-6)


def test_layers_computed_anew_give_the_same_gradient():
    x, params = X[:4], params_of(SHAPE)
    anew = dataclasses.replace(SHAPE, remat=True)
    loss = lambda shape, p: jnp.sum(transformer.forward(shape, p, x) ** 3)
    slope = jax.jit(jax.grad(loss, 1), static_argnums=0)
    chex.assert_trees_all_close(slope(anew, params), slope(SHAPE, params), rtol=1e-4)


def test_dropout_keeps_the_mean_and_is_drawn_by_its_key():
    params, keys = params_of(SHAPE, 0.05), jax.random.split(jax.random.key(2), 400)
    dropped = lambda key: transformer.forward(SHAPE, params, X, key, 0.3)
    many = np.asarray(jax.jit(jax.vmap(dropped))(keys))
    assert np.abs(many[0] - many[1]).max() > 1e-5
    assert np.abs(many.mean(0) - forward(SHAPE, params, X)).max() < 0.02
