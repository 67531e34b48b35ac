"""The experiment `attention`: what the control with another person's focus does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large.attention import arms
from metajax import optim
from metajax.data.worlds.interest import SharpOrFlat
from metajax.evaluation import ordinal
from metajax.learners.history import reader
from metajax.models.attention import focused


def test_another_users_focus_is_that_of_the_person_before():
    """With all histories alike, focus is alike, too, and the control scores as the arm does."""
    world = SharpOrFlat(num_support=6, num_query=3)
    learner = reader(
        focused(4), 6, 3, adapts=arms.FOCUS, inner=optim.learned_rates(0.5), num_steps=1
    )
    one = jax.random.key(5)
    params = learner.init(one, world.sample(one))
    own, control = jax.jit(
        lambda keys: (
            arms.focus_of(learner, params, keys, world.sample, arms.evaluate.unaltered).temperature,
            arms.with_focus_of_another(
                learner, params, keys, world.sample, arms.evaluate.unaltered
            ),
        )
    )(jnp.stack([one, one]))
    np.testing.assert_allclose(own[0], own[1])
    np.testing.assert_allclose(control[0], control[1], rtol=1e-5)


def test_each_arm_and_control_has_a_link_of_its_own_and_is_judged_by_it():
    """Wherever there are squared errors; the links' tasks are others than the judged ones."""
    world = SharpOrFlat(num_support=6, num_query=3)
    learner = reader(
        focused(4), 6, 3, adapts=arms.FOCUS, inner=optim.learned_rates(0.5), num_steps=1
    )
    keys = jax.random.split(jax.random.key(5), 17)
    params = jax.vmap(learner.init, (0, None))(keys[:2], world.sample(keys[0]))
    valid, tests = (jax.vmap(world.sample)(some) for some in (keys[2:12], keys[12:]))
    levels = np.linspace(float(valid.query.label.min()), float(valid.query.label.max()), 5)
    trained, fetch = {arms.ADAPTED: (learner, params)}, arms.evaluate.as_it_is
    links = arms.links_of(trained, valid, fetch, levels)
    found = arms.believed(trained, links, tests, fetch)
    squared = {a for a, _, m in arms.judged(trained, tests, fetch, (6,)) if m == "mse"}
    assert squared == {arms.ADAPTED, *arms.CONTROLS[arms.ADAPTED]} == set(links)
    assert set(found) == {(arm, metric) for arm in squared for metric in ordinal.PROPER}
    assert all(v.shape == (2, 5) and np.isfinite(v).all() for v in found.values())


def test_rank_correlation_by_hand():
    up = np.array([1.0, 2.0, 3.0, 4.0])
    assert arms.rank_correlation(up, up**3) == pytest.approx(1.0)
    assert arms.rank_correlation(up, np.array([2.0, 1, 3, 4])) == pytest.approx(0.8)
    assert arms.rank_correlation(up, np.ones(4)) == 0.0
