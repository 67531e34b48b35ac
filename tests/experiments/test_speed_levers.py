"""Every lever of the benchmark on a card computes what it replaces, and its kernels do so too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import choices, on_chip, one_kernel, ours, problems
from metajax.models import conv


def close(found, right, most: float) -> None:
    """Checks that two trees are the same to so much."""
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=most, atol=0.2 * most)
    jax.tree.map(same, found, right)


def second(convolve, x: jax.Array, kernel: jax.Array):
    """The gradient of a loss after an inner step, mapped over tasks."""

    def task(x: jax.Array, kernel: jax.Array) -> jax.Array:
        inner = lambda k: jnp.sum(jnp.sin(convolve(x, k)))
        moved = kernel - 0.1 * jax.grad(inner)(kernel)
        return jnp.sum(jnp.cos(convolve(jnp.tanh(x), moved)))

    whole = lambda x, k: jax.vmap(task)(x, k).sum()
    return jax.jit(jax.grad(whole, (0, 1)))(x, kernel)


@pytest.mark.parametrize("size", [(7, 6), pytest.param((4, 4), marks=pytest.mark.slow)])
def test_the_convolution_on_chip_is_that_of_patches(monkeypatch, size):
    """Its three kernels are interpreted; second derivatives go through all of them."""
    monkeypatch.setattr(on_chip, "INTERPRET", True)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 2, *size, 16)), jnp.float32)
    kernel = jnp.asarray(0.1 * rng.normal(size=(2, 3, 3, 16, 16)), jnp.float32)
    found = second(on_chip.chip_convolution, x, kernel)
    for ours_, right in zip(found, second(conv.patch_convolution, x, kernel), strict=True):
        assert np.linalg.norm(ours_ - right) < 1e-5 * np.linalg.norm(right)


def test_few_channels_are_sums():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 2, 6, 5, 1)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(2, 3, 3, 1, 4)), jnp.float32)
    for convolve in (on_chip.chip_convolution, choices.thin_convolution):
        found, right = second(convolve, x, kernel), second(conv.patch_convolution, x, kernel)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, right
        )


def test_a_task_in_one_kernel_has_the_gradient_of_vmap(monkeypatch):
    problem = problems.make("W1", 3)
    params, episodes = jax.tree.map(jnp.asarray, problem.weights), ours.episodes_of(problem)
    found = {}
    for interpret in (False, True):
        monkeypatch.setattr(one_kernel, "INTERPRET", interpret)
        gradient = one_kernel.gradient(problem.rate, 2, True, warps=2)
        found[interpret] = jax.jit(lambda p, e, g=gradient: g(p, e, None))(params, episodes)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), *found.values()
    )


def test_moments_of_one_pass_are_those_of_two():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0.5, 2.0, (3, 4, 5, 6)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    ones = jnp.ones(3)
    pairs = [
        jax.jit(jax.value_and_grad(lambda x, f=f: jnp.sum(weight * f(x, ones) ** 2)))(x)
        for f in (choices.one_pass, conv.batch_statistics)
    ]
    close(pairs[0], pairs[1], 1e-4)


@pytest.mark.parametrize(
    "name", ["W1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("W2", "W3", "W4"))]
)
def test_the_choices_of_both_platforms_give_the_same_weights(name):
    """Eight tasks, so that the chunks of a processor are several, and one on a card."""
    after = []
    for platform in ("cpu", "gpu"):
        how = choices.HOW[platform][name]._replace(num_outer=2, options=())
        program = ours.library(name, 1, True, how, num_tasks=8)
        state, losses = program.run(program.state, program.data)
        after.append((state.params, losses))
    close(after[0], after[1], 1e-3)


CHEAP = [("W1", "metajax, one kernel"), ("W1", "metajax, sums")]
DEAR = [("W2", f"metajax, {way}") for way in ("on chip one pass", "patches", "on chip remat")]
DEAR += [("W3", f"metajax, {way}") for way in ("whole", "whole looked up", "quarters")]
DEAR += [("W4", "metajax, scanned"), ("W4", "metajax, remat")]


@pytest.mark.parametrize(
    "name, way", [*CHEAP, *(pytest.param(*one, marks=pytest.mark.slow) for one in DEAR)]
)
def test_a_lever_changes_no_weight_after_a_step(name, way):
    """Few tasks: the weights after an outer step are those of the platform's choice."""
    after = []
    for how in (choices.HOW["gpu"][name], choices.OTHERS[name][way]):
        how = how._replace(num_outer=1, options=(), chunk_size=2)
        program = ours.library(name, 1, True, how, num_tasks=4)
        state, losses = program.run(program.state, program.data)
        after.append((state.params, losses))
    close(after[0], after[1], 1e-3)
