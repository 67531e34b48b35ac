"""The feedback loop and the wrappers of rewards: what each stage does, and does not without it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.decide import beliefs as believing
from metajax.decide import loop, policies, wrappers
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import Decision, Observation, play
from metajax.types import UserError

WORLD = ClickUsers(num_items=10, candidates=5, horizon=1_000)
USERS = jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(0), 3))
LINEAR = believing.flat(lambda seen: seen.inputs["vector"], 8)
KEEP = {"whole": (1, 1, 1, 1), "feedback": (0, 1, 1, 1), "learn": (1, 0, 1, 1),
        "adjust": (1, 1, 0, 1), "commit": (1, 1, 1, 0)}  # fmt: skip


@functools.cache
def program():
    def one(keep, delay, share):
        parts = loop.stages(LINEAR, (0.0, 1.0), delay=delay, longest=4, every=2)
        world = wrappers.flipped(WORLD.environment(), share)
        return loop.run(world, LINEAR, loop.cut(parts, keep), USERS, jax.random.key(1), 12)

    return jax.jit(one)


def ran(name, delay=0, share=0.0):
    out = program()(jnp.asarray(KEEP[name]), jnp.asarray(delay), jnp.asarray(share))
    return jax.tree.map(np.asarray, out)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_each_stage_changes_its_own_part_and_none_when_it_is_cut():
    start = jax.vmap(lambda w: jnp.zeros(8))(USERS)
    (models, strategy), log = ran("whole")
    assert not same(models.live.mean, start) and strategy.weight.any()
    assert np.allclose(log.info["strategy"].sum(axis=1), 1)
    (models, strategy), _ = ran("feedback")
    assert same(models.working.mean, start) and not strategy.weight.any()
    (models, strategy), _ = ran("learn")
    assert same(models.live.mean, start) and strategy.weight.any()
    (models, strategy), _ = ran("adjust")
    assert not same(models.live.mean, start) and not strategy.weight.any()
    (models, _), _ = ran("commit")
    assert same(models.live.mean, start) and not same(models.working.mean, start)


def test_a_model_goes_live_in_rounds_of_commits_alone():
    """Until the first commit, after two rounds, decisions are those of a loop without any."""
    whole, never = ran("whole")[1], ran("commit")[1]
    assert np.array_equal(whole.action[:2], never.action[:2])


def test_feedback_that_is_late_is_learned_late_and_then_all_of_it():
    (late, _), _log = ran("adjust", delay=4)
    mean = np.zeros((3, 8))
    assert not same(late.working.mean, mean)
    parts = loop.stages(LINEAR, (0.0, 1.0), delay=1, longest=4)
    told = lambda r: loop.Told(
        Decision((), jnp.zeros(1, int), jnp.ones(1), jnp.full(1, r)), jnp.ones((1, 2)), jnp.ones(1)
    )
    waiting, found = parts.wait(told(0.0)), []
    for r in range(4):
        waiting, out = parts.feedback(waiting, told(float(r)))
        found.append((float(out.mask[0]), float(out.decision.reward[0])))
    assert found == [(0, 0), (1, 0), (1, 1), (1, 2)]


def test_the_strategy_is_credited_with_the_importance_of_an_action():
    """One user, reward 1, drawn with probability 1/4; the first width would have taken it."""
    parts = loop.stages(LINEAR, (0.0, 1.0), rate=0.5)
    told = loop.Told(
        Decision((), jnp.zeros(1, int), jnp.array([0.25]), jnp.ones(1)),
        jnp.array([[1.0, 0.0]]), jnp.ones(1),
    )  # fmt: skip
    start = loop.Strategy(jnp.zeros(2), jnp.zeros(()))
    np.testing.assert_allclose(parts.adjust(start, told).weight, [2.0, 0.0])
    high = start._replace(level=jnp.ones(()))  # a reward as usual is no news
    np.testing.assert_allclose(parts.adjust(high, told).weight, [0.0, 0.0])
    unknown = told._replace(mask=jnp.zeros(1))
    np.testing.assert_allclose(parts.adjust(start, unknown).weight, [0.0, 0.0])


def test_a_log_has_the_chance_of_every_action():
    _, log = ran("whole")
    assert ((log.propensity > 0) & (log.propensity <= 1)).all() and log.action.shape == (12, 3)


def test_impossible_stages_are_one_line():
    with pytest.raises(UserError, match="delay of 9"):
        loop.stages(LINEAR, (0.0,), delay=9, longest=4)
    with pytest.raises(UserError, match="without a width"):
        loop.stages(LINEAR, ())
    with pytest.raises(UserError, match="delay of -1"):
        wrappers.delayed(policies.at_random(), -1)


def test_a_delayed_policy_learns_what_was_rewarded_so_many_rounds_before():
    sums = policies.at_random()._replace(
        init=lambda key, seen: jnp.zeros(()), update=lambda state, told, key: state + told.reward
    )
    late = wrappers.delayed(sums, 2)
    seen = Observation((), {"item": jnp.arange(3)}, jnp.ones(3))
    state, found = late.init(jax.random.key(0), seen), []
    for r in range(5):
        told = Decision(seen, jnp.asarray(1), jnp.asarray(1 / 3), jnp.asarray(10.0**r))
        state = late.update(state, told, jax.random.key(0))
        found.append(float(state.inner))
    assert found == [0, 0, 1, 11, 111]
    assert wrappers.delayed(sums, 0) is sums


def test_flipped_shuffled_and_others_rewards():
    always = policies.greedy(believing.fixed(lambda seen: -seen.inputs["item"]))

    def run(world, params):
        one = lambda k: play(world, always, params, k, 40)
        return jax.tree.map(np.asarray, jax.jit(one)(jax.random.key(2)))

    plain = run(WORLD.environment(), USERS[0])
    every = run(wrappers.flipped(WORLD.environment(), 1.0), USERS[0])
    np.testing.assert_allclose(every.reward, 1 - plain.reward)
    mixed = run(wrappers.shuffled(WORLD.environment()), USERS[0])
    np.testing.assert_allclose(mixed.info["expected"], plain.info["expected"])
    assert not np.array_equal(mixed.reward, plain.reward)
    other = run(wrappers.of_others(WORLD.environment()), (USERS[0], USERS[1]))
    np.testing.assert_allclose(other.info["expected"], plain.info["expected"])
    np.testing.assert_allclose(other.reward, run(WORLD.environment(), USERS[1]).reward)
