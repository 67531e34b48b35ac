"""The convolutional network: patches are the convolution, padding is invisible, norms are norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import conv


def images(rows: int = 4, size: int = 28, channels: int = 1, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, size, size, channels))
    return drawn.astype(np.float32)


@pytest.mark.parametrize("size", [14, 7, 4])
def test_patches_are_the_ordinary_convolution(size: int):
    with jax.enable_x64(True):
        x = images(3, size, 2).astype(np.float64)
        half = -(-size // 2)
        rng = np.random.default_rng(1)
        kernel, weight = rng.normal(size=(3, 3, 2, 6)), rng.normal(size=(3, half, half, 6))

        def and_gradients(f):
            """What f gives, and its gradients along the weights."""
            found, pull = jax.vjp(f, x, kernel)
            return found, *pull(weight)

        ours, theirs = jax.jit(
            lambda: [and_gradients(f) for f in (conv.patch_convolution, conv.ordinary_convolution)]
        )()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_one_patch_by_hand():
    """4 x 4 to 2 x 2 needs one zero at the far edges: the last window holds 11, 12, 15, 16."""
    x = np.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    expected = [11, 12, 0, 15, 16, 0, 0, 0, 0]
    found = np.asarray(jax.jit(conv.patches)(x))
    np.testing.assert_array_equal(found[0, 1, 1], expected)
    np.testing.assert_array_equal(found[0, 0, 0], [1, 2, 3, 5, 6, 7, 9, 10, 11])


def test_batch_statistics_over_the_rows_that_are_present():
    x = 3.0 + 2.0 * images(6, 5, 4)
    present = np.array([1, 1, 0, 1, 1, 0.0])
    x[2] = 1e4
    y = np.asarray(jax.jit(conv.batch_statistics)(x, present))
    kept = x[[0, 1, 3, 4]]
    mean, variance = kept.mean(axis=(0, 1, 2)), kept.var(axis=(0, 1, 2))
    np.testing.assert_allclose(
        y[[0, 1, 3, 4]], (kept - mean) / np.sqrt(variance + 1e-3), rtol=1e-4, atol=1e-4
    )
    assert np.all(y[[2, 5]] == 0)


def test_padding_rows_are_invisible():
    """Rows that are not present move no score of the others, and get no gradient."""
    model = conv.conv4(5, 8)
    x = images(6, 9)
    params = jax.jit(model.init)(jax.random.key(0), (), x)
    whole = jax.jit(model.apply)(params, (), x)
    padded = np.concatenate([x, 50.0 * images(3, 9, seed=9)])
    present = np.concatenate([np.ones(6), np.zeros(3)])
    score = lambda p, image: model.apply(p, (), {"image": image, "present": present})[:6]
    np.testing.assert_allclose(jax.jit(score)(params, padded), whole, rtol=1e-4, atol=1e-4)
    slope = jax.jit(jax.grad(lambda image: jnp.sum(score(params, image) ** 2)))(padded)
    slope = np.asarray(slope)
    assert np.all(slope[6:] == 0) and np.any(slope[:6] != 0)


def test_layer_statistics_judge_each_image_alone_and_batch_statistics_do_not():
    x = images(6, 9)
    for normalize, alone in ((conv.layer_statistics, True), (conv.batch_statistics, False)):
        model = conv.conv4(5, 8, normalize=normalize)
        params, apply = jax.jit(model.init)(jax.random.key(0), (), x), jax.jit(model.apply)
        among, single = (np.asarray(apply(params, (), rows)) for rows in (x, x[:1]))
        gap = np.max(np.abs(among[:1] - single))
        assert (gap < 1e-4) == alone


def test_shapes_and_size_of_the_published_network():
    """9*64 + 3*9*64*64 in kernels, 4*64 offsets, 64*5 + 5 in the head; MAML adds 4*64 biases."""
    model, x = conv.conv4(5), images(2)
    params = jax.eval_shape(model.init, jax.random.key(0), (), x)
    assert sum(v.size for v in jax.tree.leaves(params)) == 112_005 - 256
    assert jax.eval_shape(model.apply, params, (), x).shape == (2, 5)
    features = conv.conv4_features()
    params = jax.eval_shape(features.init, jax.random.key(0), (), x)
    assert jax.eval_shape(features.apply, params, (), x).shape == (2, 256)


def test_a_kernel_per_task_stays_a_batched_product():
    """Mapped over tasks with their own kernels, no grouped convolution appears in the program."""
    kernels = np.random.default_rng(9).normal(size=(3, 3, 3, 1, 8)).astype(np.float32)
    x = np.stack([images(2, seed=i) for i in range(3)])
    mapped = jax.jit(jax.vmap(conv.patch_convolution))
    text = str(jax.make_jaxpr(mapped)(x, kernels))
    assert "conv_general_dilated" not in text and "dot_general" in text
    expected = jax.jit(conv.ordinary_convolution)(x[1], kernels[1])
    np.testing.assert_allclose(mapped(x, kernels)[1], expected, rtol=1e-4, atol=1e-4)
