"""Models of several tasks: which are alike, what a task may see, gates that sum to 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from metajax.models import experts

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
gate_weights, chained = jax.jit(experts.gate_weights), jax.jit(experts.chained)


def sigmoid(logit) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(logit)))


@pytest.mark.parametrize("one_gate", [True, False])
def test_a_mixture_of_one_expert_is_a_shared_bottom(one_gate):
    mixed = compiled(experts.mixture(2, 1, 4, 6, one_gate=one_gate))
    bottom = compiled(experts.shared_bottom(2, 4, 6))
    params = mixed.init(KEY, (), X)
    same = {
        "bottom": jax.tree.map(lambda x: np.asarray(x)[0], params["experts"]),
        "towers": params["towers"],
    }
    np.testing.assert_allclose(
        mixed.apply(params, (), X), bottom.apply(same, (), X), rtol=1e-5, atol=1e-6
    )


def test_gates_sum_to_one_and_frozen_ones_are_uniform():
    learned, frozen = (compiled(experts.mixture(2, 3, 4, 6, frozen=f)) for f in (False, True))
    params = learned.init(KEY, (), X)
    params["gates"]["kernel"] = 30.0 * np.asarray(params["gates"]["kernel"])
    weights = np.asarray(gate_weights(params, X))
    assert weights.shape == (2, 5, 3)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-6)
    flat = {**params, "gates": jax.tree.map(np.zeros_like, params["gates"])}
    np.testing.assert_allclose(
        frozen.apply(params, (), X), learned.apply(flat, (), X), rtol=1e-5, atol=1e-6
    )


def test_one_gate_mixes_alike_for_all_tasks_and_many_gates_need_not():
    one = compiled(experts.mixture(2, 3, 4, 6, one_gate=True))
    assert gate_weights(one.init(KEY, (), X), X).shape[0] == 1


@pytest.mark.slow
def test_a_task_of_ple_does_not_see_the_experts_of_another():
    """Experts are: one shared, one of task 0, one of task 1; one level, so nothing mixes below."""
    model = experts.progressive(2, 1, 1, 4, 6, levels=1)
    params = model.init(KEY, (), X)
    slope = jax.jit(jax.jacobian(lambda p: model.apply(p, (), X).sum(axis=0)))(params)
    moved = jnp.abs(slope["level_0"]["experts"]["kernel"]).sum(axis=(2, 3)) > 0
    assert moved.tolist() == [[True, True, False], [True, False, True]]


def test_two_levels_of_ple_score_every_task():
    model = compiled(experts.progressive(3, 2, 1, 4, 6))
    scores = model.apply(model.init(KEY, (), X), (), X)
    assert scores.shape == (5, 3) and np.isfinite(scores).all()


def test_networks_apart_share_nothing():
    model = compiled(experts.apart(2, 4, 6))
    params = model.init(KEY, (), X)
    slope = jax.jit(jax.jacobian(lambda p: model.apply(p, (), X).sum(axis=0)))(params)
    for leaf in jax.tree.leaves(slope):  # (scores of T, parameters of T, ...)
        moved = np.abs(leaf).reshape(2, 2, -1).sum(axis=-1) > 0
        assert moved.tolist() == [[True, False], [False, True]]


def test_the_chance_of_click_and_purchase_is_the_product_along_the_chain():
    base = compiled(experts.shared_bottom(3, 4, 6))
    params = base.init(KEY, (), X)
    each = sigmoid(base.apply(params, (), X))
    found = sigmoid(jax.jit(experts.entire_space(base).apply)(params, (), X))
    np.testing.assert_allclose(found, np.cumprod(each, axis=1), rtol=1e-5)


def test_a_chain_at_its_ends_stays_finite():
    far = np.array([[60.0, 60.0], [-60.0, 60.0], [-60.0, -60.0]])
    value, slope = jax.jit(jax.value_and_grad(lambda z: experts.chained(z).sum()))(far)
    assert np.isfinite(value) and np.isfinite(slope).all()


CLICK, CONVERT = np.array([0.8, 0.2]), np.array([0.5, 0.1])  # of two kinds, shown equally often
"""What is clicked more is also bought more once it is clicked: a world with selection."""


def fitted(loss):
    """The minimum of a loss of logits (2, 2), one row per kind: click, and purchase if clicked."""
    step = jax.jit(lambda z: z - 20.0 * jax.grad(loss)(z))
    return np.asarray(jax.lax.fori_loop(0, 3_000, lambda _, z: step(z), jnp.zeros((2, 2))))


def entropy(logit, label):
    return jnp.mean(jnp.logaddexp(0.0, logit) - label * logit)


def test_over_all_rows_the_chain_is_unbiased_and_the_rate_of_clicked_rows_is_not():
    """Labels are probabilities, so that the minimum is what infinitely many rows would give."""
    label = np.stack([CLICK, CLICK * CONVERT], axis=1)
    chain = fitted(lambda z: entropy(experts.chained(z), label))
    np.testing.assert_allclose(sigmoid(chained(chain)), label, atol=1e-3)
    np.testing.assert_allclose(sigmoid(chain[:, 1]), CONVERT, atol=2e-3)
    of_clicked = CLICK / CLICK.mean()  # how often each kind is among the clicked rows
    np.testing.assert_allclose(label[:, 1].mean(), 0.21, rtol=1e-6)
    np.testing.assert_allclose((CONVERT * of_clicked).mean(), 0.42, rtol=1e-6)


def test_a_rate_that_the_model_cannot_represent_is_biased_in_the_chain_too():
    """One rate for both kinds: .42 from clicked rows, where the mean of the rates is .3."""
    label = np.stack([CLICK, CLICK * CONVERT], axis=1)
    tied = lambda z: jnp.stack([z[:, 0], jnp.full(2, z[:, 1].sum())], axis=1)
    found = fitted(lambda z: entropy(experts.chained(tied(z)), label))
    rate = sigmoid(jax.jit(tied)(found))[0, 1]
    assert rate > 0.36 and float(CONVERT.mean()) == pytest.approx(0.3)
