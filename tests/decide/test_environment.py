"""Environments and the loop of a policy: laws that hold for any policy, on the click world."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.decide import environment as env
from metajax.decide.click_users import ClickUsers
from metajax.types import UserError

WORLD = ClickUsers(num_items=12, candidates=4, horizon=6)


def at_random(weights=None):
    """Draws by fixed weights; its state counts rewards."""

    def chances(state, seen, key):
        chance = seen.mask if weights is None else jnp.asarray(weights) * seen.mask
        return chance / chance.sum()

    return env.drawing(lambda k, s: jnp.zeros(()), chances, lambda s, d, k: s + d.reward)


def test_the_expected_reward_of_the_best_action_is_the_users_best_logit():
    person = WORLD.sample(jax.random.key(3))
    log = env.play(WORLD.environment(), at_random(), person, jax.random.key(0), 6)
    assert (log.info["best"] >= log.info["expected"]).all()
    chance = 1 / (1 + np.exp(1.0 - 1.5 * np.asarray(WORLD.vectors) @ np.asarray(person)))
    assert (
        np.isclose(chance[None], np.asarray(log.info["expected"])[:, None], atol=1e-5).any(1).all()
    )


def test_clicks_come_as_often_as_the_world_says():
    world = ClickUsers(num_items=4, candidates=4, horizon=400, tau=0.0)
    person = world.sample(jax.random.key(0))
    run = jax.jit(lambda k: env.play(world.environment(), at_random(), person, k, 400))
    log = run(jax.random.key(1))
    assert abs(log.reward.mean() - log.info["expected"].mean()) < 3 * 0.5 / 400**0.5


def test_behind_the_end_nothing_happens():
    person = WORLD.sample(jax.random.key(3))
    run = lambda rounds: env.play(
        WORLD.environment(), at_random(), person, jax.random.key(5), rounds
    )
    log = run(9)
    assert log.mask.tolist() == [1] * 6 + [0] * 3
    assert log.reward[6:].sum() == 0


def test_the_drawn_action_has_a_chance_and_its_propensity_is_it():
    policy, seen = (
        at_random([0.0, 0.25, 0.75, 0.0]),
        WORLD.environment().reset(jax.random.key(0), WORLD.sample(jax.random.key(0)))[0],
    )
    action, chance = jax.vmap(lambda k: policy.act(0.0, seen, k))(
        jax.random.split(jax.random.key(1), 4000)
    )
    assert set(np.unique(action)) == {1, 2}
    np.testing.assert_allclose(chance, np.where(action == 2, 0.75, 0.25))
    assert abs((action == 2).mean() - 0.75) < 4 * (0.1875 / 4000) ** 0.5


def test_an_impossible_world_is_one_line():
    with pytest.raises(UserError, match="30 candidates of 12"):
        ClickUsers(num_items=12, candidates=30)
