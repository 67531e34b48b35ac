"""The battery of policies and environments on all of ours, and on planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.decide import beliefs as believing
from metajax.decide import check, choices, policies, replay
from metajax.decide.click_users import ClickUsers
from metajax.decide.environment import Observation, drawing
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear, vector_mlp
from metajax.types import Episode, Examples

WORLD = ClickUsers(num_items=10, candidates=5, horizon=4)
VECTOR = lambda seen: seen.inputs["vector"]


def on_vectors():
    """A gradient learner whose inputs are the vectors, over the world's observations."""
    import optax

    learner = gradient(vector_mlp((4,)), optax.sgd(0.1), 1)
    examples = Examples(WORLD.vectors[:2], jnp.zeros(2), jnp.ones(2))
    params = learner.init(jax.random.key(0), Episode((), examples, examples))
    inner = believing.of_learner(learner, params)
    only = lambda seen: seen._replace(inputs=seen.inputs["vector"])
    return believing.Beliefs(
        lambda key, seen: inner.init(key, only(seen)),
        lambda state, seen: inner.believe(state, only(seen)),
        lambda state, told, key: inner.update(
            state, told._replace(observation=only(told.observation)), key
        ),
    )


def neural():
    """A neural-linear belief on a linear "network"."""
    network = vector_linear()
    wide = network._replace(apply=lambda params, profile, inputs: inputs["vector"] * 2.0)
    return believing.neural_linear(wide, {}, 8)


POLICIES = {
    "greedy by gradient": lambda: policies.greedy(on_vectors()),
    "epsilon": lambda: policies.epsilon_greedy(believing.flat(VECTOR, 8), 0.3),
    "thompson, neural-linear": lambda: policies.thompson(neural(), 1.0, draws=8),
}


def other_tastes(w, log):
    """The user with another taste for all items but those that were shown."""
    shown = np.asarray(WORLD.vectors)[np.asarray(log.info["item"])]
    q, _ = np.linalg.qr(shown.T, mode="complete")
    return w + 3.0 * jnp.asarray(q[:, len(shown) :].sum(axis=1), w.dtype)


def clicks(name):
    users = jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(0), 3))
    return check.Trial(WORLD.environment(), POLICIES[name](), users, 4, other_tastes)


@pytest.mark.parametrize("name", POLICIES)
def test_the_contract_on_clicks(name):
    assert "no_other_reward_is_seen" in check.everything(clicks(name))


def other_ratings(person, log):
    """The person with other ratings of all items that were not shown."""
    shown = jnp.zeros(len(person.rating)).at[log.action].set(1.0)
    return person._replace(rating=jnp.where(shown > 0, person.rating, 50.0 - person.rating))


def jokes():
    """Three people, seven items, of which some are not rated."""
    rng = np.random.default_rng(0)
    known = jnp.asarray(rng.random((3, 7)) < 0.8, jnp.float32)
    return replay.Person(jnp.asarray(rng.normal(size=(3, 7)), jnp.float32) * known, known)


def test_the_contract_on_replay():
    columns = {"vector": jax.random.normal(jax.random.key(0), (7, 3))}
    policy = policies.lin_ucb(VECTOR, 3, 1.0)
    world = replay.replay(columns, 4)
    assert "no_other_reward_is_seen" in check.everything(
        check.Trial(world, policy, jokes(), 4, other_ratings)
    )


def test_the_contract_on_slates():
    world = replay.slates({"item": jnp.arange(7)}, 2, 4, 4)
    pairs = choices.random_slate(2)
    assert "frequencies_are_propensities" in check.everything(check.Trial(world, pairs, jokes()))
    worth = believing.gaussian(lambda seen: jnp.eye(7), jnp.zeros(7), jnp.eye(7))
    learn = choices.learned_choice(lambda seen: jnp.eye(7), 0.3)
    drawn = choices.slate(worth, 2, 1.0, draws=64, learn=learn)
    check.everything(check.Trial(world, drawn, jokes()))


def peeking():
    """A policy that is told what the user would say to everything."""
    return policies.greedy(believing.fixed(lambda seen: seen.profile))


def test_a_policy_that_reads_rewards_not_taken_is_found():
    columns = {"item": jnp.arange(7)}
    honest = replay.replay(columns, 4)

    def leaking(seen: Observation, params):
        return seen._replace(profile=params.rating)

    def step(key, state, action, params):
        seen, *rest = honest.step(key, state, action, params)
        return (leaking(seen, params), *rest)

    def reset(key, params):
        seen, state = honest.reset(key, params)
        return leaking(seen, params), state

    world = honest._replace(reset=reset, step=step)
    with pytest.raises(AssertionError, match="not taken"):
        check.no_other_reward_is_seen(check.Trial(world, peeking(), jokes(), 2, other_ratings))


def flawed(chances, act=None):
    made = drawing(lambda k, s: (), chances, lambda s, d, k: s)
    return made if act is None else made._replace(act=act)


UNIFORM = lambda state, seen, key: policies.any_of(seen.mask)
FAULTS = {
    "sum to 1": (check.chances_are_probabilities, flawed(lambda s, seen, key: seen.mask / 9)),
    "masked action has a chance": (
        check.chances_are_probabilities,
        flawed(lambda s, seen, key: jnp.full(5, 0.2)),
    ),
    "propensity is another": (
        check.chances_are_probabilities,
        flawed(UNIFORM, lambda s, seen, key: (jnp.asarray(2), jnp.asarray(0.4))),
    ),
    "more or less often": (
        check.frequencies_are_propensities,
        flawed(UNIFORM, lambda s, seen, key: (jnp.asarray(1), UNIFORM(s, seen, key)[1])),
    ),
    "outside of the set": (
        check.only_allowed_actions_are_taken,
        flawed(UNIFORM, lambda s, seen, key: (jnp.asarray(5), jnp.asarray(0.2))),
    ),
    "masked row": (
        check.masked_actions_are_not_read,
        flawed(
            lambda s, seen, key: policies.best_of(
                (3.0 - seen.inputs["vector"][0, 0]) * jnp.arange(5), seen.mask
            )
        ),
    ),
}


@pytest.mark.parametrize("told", FAULTS)
def test_a_planted_fault_is_found(told):
    holds, policy = FAULTS[told]
    users = jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(AssertionError, match=told):
        holds(check.Trial(WORLD.environment(), policy, users, 3))
