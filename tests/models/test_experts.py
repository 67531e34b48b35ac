"""Models of several tasks: which are alike, what a task may see, gates that sum to 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models import experts

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (5, 3))


@pytest.mark.parametrize("one_gate", [True, False])
def test_a_mixture_of_one_expert_is_a_shared_bottom(one_gate):
    mixed = experts.mixture(2, 1, 4, 6, one_gate=one_gate)
    bottom = experts.shared_bottom(2, 4, 6)
    params = mixed.init(KEY, (), X)
    same = {"bottom": jax.tree.map(lambda x: x[0], params["experts"]), "towers": params["towers"]}
    np.testing.assert_allclose(
        mixed.apply(params, (), X), bottom.apply(same, (), X), rtol=1e-5, atol=1e-6
    )


def test_gates_sum_to_one_and_frozen_ones_are_uniform():
    learned, frozen = (experts.mixture(2, 3, 4, 6, frozen=f) for f in (False, True))
    params = learned.init(KEY, (), X)
    params["gates"]["kernel"] = 30.0 * params["gates"]["kernel"]
    weights = experts.gate_weights(params, X)
    assert weights.shape == (2, 5, 3)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-6)
    flat = {**params, "gates": jax.tree.map(jnp.zeros_like, params["gates"])}
    np.testing.assert_allclose(
        frozen.apply(params, (), X), learned.apply(flat, (), X), rtol=1e-5, atol=1e-6
    )


def test_one_gate_mixes_alike_for_all_tasks_and_many_gates_need_not():
    one = experts.mixture(2, 3, 4, 6, one_gate=True)
    assert experts.gate_weights(one.init(KEY, (), X), X).shape[0] == 1


def test_a_task_of_ple_does_not_see_the_experts_of_another():
    """Experts are: one shared, one of task 0, one of task 1; one level, so nothing mixes below."""
    model = experts.progressive(2, 1, 1, 4, 6, levels=1)
    params = model.init(KEY, (), X)
    slope = jax.jacobian(lambda p: model.apply(p, (), X).sum(axis=0))(params)
    moved = jnp.abs(slope["level_0"]["experts"]["kernel"]).sum(axis=(2, 3)) > 0
    assert moved.tolist() == [[True, True, False], [True, False, True]]


def test_two_levels_of_ple_score_every_task():
    model = experts.progressive(3, 2, 1, 4, 6)
    scores = model.apply(model.init(KEY, (), X), (), X)
    assert scores.shape == (5, 3) and np.isfinite(scores).all()
