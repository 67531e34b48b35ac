"""ChocKale, slates and values: laws by enumeration, and that learning looks ahead."""

import dataclasses
import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.decide import check, slates
from metajax.decide.choc_kale import ChocKale, Session
from metajax.decide.environment import drawing, play
from metajax.models.towers import vector_mlp
from metajax.types import UserError

with warnings.catch_warnings():  # of what rlax imports
    warnings.simplefilter("ignore")
    pytest.importorskip("rlax", reason="losses of rlax: pip install metajax[decide]")
    pytest.importorskip("flashbax", reason="a buffer of flashbax: pip install metajax[decide]")
    from metajax.decide import actor, values

ITEMS, SIZE, GAMMA = 5, 2, 0.9
TABLE = jnp.asarray(slates.all_slates(ITEMS, SIZE))


def test_slates_are_all_pairs_once_and_picks_are_logit():
    assert TABLE.tolist() == [list(p) for p in itertools.combinations(range(5), 2)]
    chance = slates.picks(jnp.log(jnp.array([1.0, 2.0, 3.0, 1.0, 1.0])), TABLE)
    np.testing.assert_allclose(chance[0], [1 / 4, 2 / 4, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(chance[4], [2 / 6, 3 / 6, 1 / 6], rtol=1e-6)
    with pytest.raises(UserError, match="a slate of 6 from 5"):
        slates.all_slates(5, 6)
    with pytest.raises(UserError, match="offer fewer candidates"):
        slates.all_slates(100, 5)


@jax.jit
def solved() -> dict[str, jax.Array]:
    """Two states, five items and picking none: both values by iteration, slates one by one."""
    keys = jax.random.split(jax.random.key(0), 3)
    reward = jax.random.uniform(keys[0], (2, ITEMS + 1)).at[:, -1].set(0.0)
    up = jax.random.uniform(keys[1], (2, ITEMS + 1))  # chance that the next state is 1
    move = jnp.stack([1.0 - up, up], axis=-1)  # (S, item, S')
    picks = slates.picks(jax.random.normal(keys[2], (ITEMS,)), TABLE)  # (C, k + 1)
    picked = jnp.concatenate([TABLE, jnp.full((len(TABLE), 1), ITEMS)], axis=1)

    def enumerated(value_SxC: jax.Array, _: None):
        later = move @ value_SxC.max(axis=1)  # (S, item)
        told = reward + GAMMA * later
        return (picks[None] * told[:, picked]).sum(axis=2), None

    of = lambda item_I: slates.of_slates(item_I[:-1], item_I[-1], TABLE, picks)

    def decomposed(value_SxI: jax.Array, _: None):
        best = jax.vmap(of)(value_SxI).max(axis=1)
        return reward + GAMMA * (move @ best), None

    whole, _ = jax.lax.scan(enumerated, jnp.zeros((2, len(TABLE))), None, 300)
    items, _ = jax.lax.scan(decomposed, jnp.zeros((2, ITEMS + 1)), None, 300)

    def error(state: jax.Array, item: jax.Array) -> jax.Array:
        value = lambda s: slates.ItemValues(items[s, :-1], items[s, -1])
        one = lambda s: values.slate_q_error(
            value(state), item, reward[state, item], jnp.asarray(GAMMA), value(s), TABLE, picks
        )
        return move[state, item] @ jax.vmap(one)(jnp.arange(2))

    grid = jax.vmap(jax.vmap(error, (None, 0)), (0, None))
    return {"slates": whole, "items": jax.vmap(of)(items),
            "error": grid(jnp.arange(2), jnp.arange(ITEMS + 1))}  # fmt: skip


def test_slate_q_equals_enumerated_slates_on_five_choose_two():
    found = solved()
    assert found["slates"].shape == (2, 10)
    np.testing.assert_allclose(found["items"], found["slates"], atol=1e-5)
    np.testing.assert_array_equal(found["items"].argmax(axis=1), found["slates"].argmax(axis=1))


def test_at_the_solution_the_expected_error_is_0():
    np.testing.assert_allclose(solved()["error"], 0.0, atol=1e-5)


WORLD = ChocKale(horizon=10)


def test_chocolate_engages_more_now_and_kale_satisfies_later():
    state = Session(jnp.zeros((), int), jnp.zeros(()), jnp.linspace(0.0, 1.0, 5))
    worth = WORLD.expected(state)
    assert jnp.argmax(worth) == 0 and jnp.argmin(worth) == 9  # the two least kale, the two most
    np.testing.assert_allclose(WORLD.satisfaction(jnp.zeros(())), 0.5)
    want = np.exp(0.5 * 3.0 + 0.3**2 / 2)
    np.testing.assert_allclose(WORLD.engagement(jnp.zeros(()), jnp.asarray(0.5)), want, rtol=1e-6)


def always(slate: int):
    chances = lambda state, seen, key: jax.nn.one_hot(slate, seen.mask.shape[0])
    return drawing(lambda k, s: (), chances, lambda s, d, k: s)


@partial(jax.jit, static_argnames=("world", "rounds"))
def sessions(world: ChocKale, rounds: int):
    """Sessions of 50 people who are shown the first slate."""

    def one(key):
        return play(world.environment(), always(0), world.sample(key), key, rounds)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 50))


def test_a_session_ends_at_its_horizon_and_exposure_moves_as_the_law_says():
    log = sessions(dataclasses.replace(WORLD, noise=0.0), 12)
    assert log.mask[:, :10].all() and not log.mask[:, 10:].any()
    exposure = np.log(1 / (1 / np.asarray(log.info["satisfaction"]) - 1)) / WORLD.sensitivity
    none = np.asarray(log.info["picked"]) == WORLD.candidates
    moved = np.where(none, 0.0, 2 * np.asarray(log.info["kale"]) - 1)
    np.testing.assert_allclose(exposure[:, 1:10], 0.9 * exposure[:, :9] + moved[:, :9], atol=1e-3)
    assert none[:, :10].any() and (np.asarray(log.reward)[none] == 0).all()


def test_the_reward_is_what_is_expected_on_average():
    log = sessions(dataclasses.replace(WORLD, horizon=40), 40)
    off = np.asarray(log.reward - log.info["expected"])
    assert abs(off.mean()) < 4 * off.std() / off.size**0.5
    assert (log.info["best"] >= log.info["expected"] - 1e-5).all()


@pytest.mark.parametrize("kind", ["dqn", "slate_q"])
def test_values_are_learned_and_reproduced(kind):
    model = vector_mlp((8,))
    learner = values.dqn(model, 0.0) if kind == "dqn" else values.slate_q(model, 0.0, WORLD)
    training = values.Training(steps=150, people=8, buffer=500, batch=32, rate=0.02)
    train = jax.jit(partial(values.train, WORLD.environment(), learner, WORLD.sample,
                            training=training))  # fmt: skip
    with jax.numpy_rank_promotion("allow"):  # flashbax adds without asking
        params, curve = train(jax.random.key(0))
        again, _ = train(jax.random.key(0))
    assert curve.shape == (150,) and np.isfinite(curve).all()
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(again)))
    seen, state = WORLD.environment().reset(jax.random.key(1), jnp.zeros(()))
    told, truth = learner.values(params, seen), 0.1 * WORLD.expected(state)
    assert np.corrcoef(told, truth)[0, 1] > 0.5  # myopic values are expected rewards
    chance = values.greedy(learner, params, 0.2).chances((), seen, jax.random.key(0))
    np.testing.assert_allclose(chance.sum(), 1.0, rtol=1e-6)


def test_the_actor_critic_learns_a_policy():
    model = vector_mlp((8,))
    train = jax.jit(lambda key: actor.train(WORLD.environment(), model, WORLD.sample, key, 5, 10))
    params, curve = train(jax.random.key(0))
    assert set(params) == {"actor", "critic"} and np.isfinite(curve).all()
    seen, _ = WORLD.environment().reset(jax.random.key(1), jnp.zeros(()))
    chance = actor.policy(model, params).chances((), seen, jax.random.key(0))
    np.testing.assert_allclose(chance.sum(), 1.0, rtol=1e-6)


def test_the_contract_holds_for_the_world_and_learned_policies():
    model = vector_mlp((4,))
    seen, _ = WORLD.environment().reset(jax.random.key(0), jnp.zeros(()))
    learner = values.dqn(model, 0.9)
    params = learner.init(jax.random.key(0), seen)
    people = jnp.array([-1.0, 0.0, 2.0])
    assert "frequencies_are_propensities" in check.everything(
        check.Trial(WORLD.environment(), values.greedy(learner, params, 0.2), people)
    )


def test_an_impossible_world_is_one_line():
    with pytest.raises(UserError, match="a slate of 6 from 5"):
        ChocKale(size=6)
