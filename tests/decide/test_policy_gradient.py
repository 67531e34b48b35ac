"""Policy gradients: exact expectations, second order, slates of k, and who learns to explore."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.decisions import ask_bandit
from metajax.decide import dice, policy_gradient
from metajax.decide.logged import Logged

ROUNDS = 2
PATHS = np.array(list(itertools.product((0, 1), repeat=ROUNDS)))  # (4, T) pulls of two arms
REWARD = np.array([[1.0, 0.3], [0.2, -1.0]])  # of the first round, and how the first pull
FIRST = np.array([0.5, 1.5])  # changes what the second one earns: actions have later effects


def log_chances(theta: jax.Array) -> jax.Array:
    """log pi (paths, T) of the pulls, ``pi(1) = sigmoid(theta)``."""
    return jnp.where(PATHS == 1, jax.nn.log_sigmoid(theta), jax.nn.log_sigmoid(-theta))


def earned() -> jax.Array:
    """Rewards (paths, T)."""
    return jnp.asarray(np.stack([FIRST[PATHS[:, 0]], REWARD[PATHS[:, 0], PATHS[:, 1]]], axis=1))


def expected(theta: jax.Array) -> jax.Array:
    """The expected return, enumerated."""
    return jnp.exp(log_chances(theta).sum(axis=1)) @ earned().sum(axis=1)


def by_dice(theta: jax.Array, operator) -> jax.Array:
    """The DiCE objective of each path, weighted by how likely it is, which is no parameter."""
    told = log_chances(theta)
    likely = jax.lax.stop_gradient(jnp.exp(told.sum(axis=1)))
    one = partial(dice.objective, baseline=False, operator=operator)
    return likely @ jax.vmap(lambda p, r: one(p[None], r[None]))(told, earned())


def with_baseline(theta: jax.Array) -> jax.Array:
    """The same of every pair of paths, each the other's baseline."""
    told = log_chances(theta)
    likely = jax.lax.stop_gradient(jnp.exp(told.sum(axis=1)))
    pair = lambda i, j: dice.objective(told[jnp.array([i, j])], earned()[jnp.array([i, j])])
    first, second = jnp.indices((4, 4)).reshape(2, -1)
    return (likely[first] * likely[second]) @ jax.vmap(pair)(first, second)


@jax.jit
def derivatives(theta: jax.Array) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
    functions = {
        "enumerated": expected,
        "dice": lambda t: by_dice(t, dice.box),
        "dice, baseline": with_baseline,
        "no operator": lambda t: by_dice(t, dice.no_box),
    }
    return {k: (f(theta), jax.grad(f)(theta), jax.grad(jax.grad(f))(theta))
            for k, f in functions.items()}  # fmt: skip


@pytest.mark.parametrize("kind", ["dice", "dice, baseline"])
def test_dice_has_the_enumerated_value_gradient_and_curvature(kind):
    for theta in (0.3, -1.0):
        found = derivatives(jnp.asarray(theta))
        np.testing.assert_allclose(found[kind], found["enumerated"], atol=1e-6)


def test_without_the_operator_the_gradient_is_right_and_the_curvature_is_not():
    found = derivatives(jnp.asarray(0.3))
    (_, slope, curve), (_, want, bent) = found["no operator"], found["enumerated"]
    np.testing.assert_allclose(slope, want, atol=1e-6)
    assert abs(curve - bent) > 0.05


def test_reinforce_has_the_gradient_of_dice():
    told, reward = jax.jit(log_chances)(0.3), earned()
    slope_of = lambda objective: jax.jit(jax.grad(lambda p: objective(p, reward, 0.9)))(told)
    ours = slope_of(policy_gradient.reinforce)
    # of the same four episodes, with discounted credit; DiCE's credit decays backwards alike
    want = slope_of(dice.objective)
    np.testing.assert_allclose(ours, want, atol=1e-6)


def test_rewards_to_go_and_the_mean_of_the_others():
    got = jax.jit(policy_gradient.to_go)(np.array([1.0, 2.0, 4.0]), 0.5)
    np.testing.assert_allclose(got, [3.0, 4.0, 4.0])
    leave_one_out = jax.jit(policy_gradient.leave_one_out)
    others = np.asarray(leave_one_out(np.array([[1.0], [2.0], [6.0]])))
    np.testing.assert_allclose(others[:, 0], [4.0, 3.5, 1.5])
    assert not np.any(leave_one_out(np.ones((1, 3))))


WORTH = np.array([1.0, 0.9, 0.1, 0.0])
WROTE = np.array([0.05, 0.05, 0.8, 0.1])


def of_a_log(logit: jax.Array, k: int, propensity: jax.Array) -> jax.Array:
    """The top-K objective of the log that has every action as often as its policy wrote it."""
    log = Logged(jnp.zeros((4, 1)), jnp.arange(4), propensity, WORTH)
    chance = jax.nn.softmax(logit)
    each = [
        policy_gradient.top_k(chance[None], jax.tree.map(lambda x, a=a: x[a : a + 1], log), k)
        for a in range(4)
    ]
    return WROTE @ jnp.stack(each)


slope_of_a_log = jax.jit(jax.grad(of_a_log), static_argnums=1)


@partial(jax.jit, static_argnames="k")
def ascended(k: int, propensity: jax.Array) -> jax.Array:
    up = lambda logit, _: (logit + 0.5 * jax.grad(of_a_log)(logit, k, propensity), None)
    return jax.nn.softmax(jax.lax.scan(up, jnp.zeros(4), None, 3_000)[0])


@pytest.mark.parametrize("k", [1, 2])
def test_the_corrected_gradient_is_that_of_slates(k):
    logit = np.array([0.1, -0.4, 0.7, 0.0])
    slates = lambda x: WORTH @ policy_gradient.appears(jax.nn.softmax(x), k)
    want = jax.jit(jax.grad(slates))(logit)
    np.testing.assert_allclose(slope_of_a_log(logit, k, WROTE), want, atol=1e-6)


def test_one_item_takes_all_and_slates_of_two_share_by_worth():
    """``r0 (1 - (1 - p)^2) + r1 (1 - p^2)`` is largest at ``p = r0 / (r0 + r1)``."""
    assert ascended(1, WROTE)[0] > 0.95
    np.testing.assert_allclose(np.asarray(ascended(2, WROTE))[:2], [1 / 1.9, 0.9 / 1.9], atol=0.02)


def test_without_propensities_what_was_shown_most_is_learned():
    """The control: 1 in the place of every propensity."""
    assert ascended(1, np.ones(4))[0] < ascended(1, WROTE)[0]
    uncorrected = slope_of_a_log(np.zeros(4), 1, np.ones(4))
    assert np.argmax(uncorrected) == 2 and np.argmax(WORTH) == 0


def test_an_actor_critic_without_a_critic_is_reinforce():
    logit, action = np.array([[0.2, 0.0], [0.0, 0.4], [1.0, 0.0]]), jnp.array([0, 1, 1])
    reward = jnp.array([1.0, 0.0, 2.0])

    @jax.jit
    def parts(logit, value):
        chance = jax.nn.softmax(logit)
        return policy_gradient.actor_critic(chance, action, value, reward, 0.5)

    actor = lambda x: parts(x, jnp.zeros(3)).actor
    by_hand = lambda x: (jnp.log(jax.nn.softmax(x)[jnp.arange(3), action])
                         * jnp.array([1.5, 1.0, 2.0])).mean()  # fmt: skip
    found, want = (jax.jit(jax.grad(f))(logit) for f in (actor, by_hand))
    np.testing.assert_allclose(found, want, atol=1e-6)
    told = parts(logit, np.array([1.5, 1.0, 0.0]))
    np.testing.assert_allclose(told.critic, 4 / 3, rtol=1e-6)
    assert 0 < told.entropy < np.log(2)


@pytest.mark.slow
def test_e_maml_asks_and_maml_does_not():
    """Exactly: no decision is drawn. Only E-MAML's gradient sees that asking pays later."""
    _, asks, earns = ask_bandit.trained(True, 200)
    _, never, less = ask_bandit.trained(False, 200)
    assert asks[-1] > 0.5 and never[-1] < 0.02
    assert earns[-1] > less[-1] + 0.2
    slope = jax.grad(ask_bandit.later)(ask_bandit.start(), False)["logit"]
    with_credit = jax.grad(ask_bandit.later)(ask_bandit.start(), True)["logit"]
    assert slope[-1] < with_credit[-1] - 1e-3  # the logit of asking, at the start
