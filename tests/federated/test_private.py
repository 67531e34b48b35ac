"""User-level privacy: what one person can move, what the accountant says, whom an attack finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.data.worlds.latent import LatentUsers
from metajax.federated import accountant, membership, private, rounds, simulator
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.training import loop
from metajax.types import UserError

pytest.importorskip("jax_privacy", reason="pip install metajax[privacy]")
pytest.importorskip("dp_accounting", reason="pip install metajax[privacy]")


def test_the_accountant_says_what_is_published():
    assert accountant.epsilon(1000, 0.01, 1.0, 1e-5) == pytest.approx(2.10, abs=0.005)
    assert accountant.epsilon(10, 0.1, 0.0) == np.inf and accountant.noise_for(np.inf, 10, 0.1) == 0


def test_noise_is_found_for_an_epsilon_and_releases_add_up():
    noise = accountant.noise_for(2.1, 1000, 0.01)
    assert noise == pytest.approx(1.0, abs=0.01)
    once = accountant.noise_once(1.0)
    assert accountant.epsilon(0, 1.0, 1.0, once=(once,)) == pytest.approx(1.0, abs=0.01)
    more = accountant.noise_for(2.1, 1000, 0.01, once=(once,))
    assert more > noise
    assert accountant.epsilon(1000, 0.01, more, once=(once,)) <= 2.1
    with pytest.raises(UserError, match="alone spend epsilon"):
        accountant.noise_for(0.9, 1000, 0.01, once=(once,))


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_an_epsilon_of_nothing_is_one_line(target):
    with pytest.raises(UserError, match="give a number above 0") as error:
        accountant.noise_for(target, 10, 0.1)
    assert "\n" not in str(error.value)


def test_one_task_times_a_thousand_moves_the_sum_by_twice_the_clip_at_most():
    parts = {"w": jax.random.normal(jax.random.key(0), (6, 5)), "b": jnp.ones((6, 2))}
    total = jax.jit(private.clipped_sum(0.7))
    before = total(parts, jnp.ones(6))
    after = total(jax.tree.map(lambda x: x.at[3].multiply(-1000.0), parts), jnp.ones(6))
    moved = float(jnp.linalg.norm(jnp.concatenate([(after[k] - before[k]) for k in ("w", "b")])))
    assert 0.7 < moved <= 2 * 0.7 + 1e-5  # turned around at full length, so near the bound
    without = total(parts, jnp.ones(6).at[3].set(0.0))
    gone = float(jnp.linalg.norm(jnp.concatenate([(without[k] - before[k]) for k in ("w", "b")])))
    assert gone == pytest.approx(0.7, abs=1e-5)  # their norms are above the clip
    sick = total(jax.tree.map(lambda x: x.at[3].set(jnp.nan), parts), jnp.ones(6))
    np.testing.assert_allclose(sick["w"], without["w"], atol=1e-6)


def test_without_noise_a_private_server_is_clipped_maml():
    """The outer gradients, clipped by hand in numpy, averaged over the expected number."""
    learner = gradient(vector_mlp((4,)), optax.sgd(0.05), num_steps=1)
    data = jax.jit(jax.vmap(LatentUsers(num_support=4, num_query=4).sample))(
        jax.random.split(jax.random.key(0), 6)
    )
    cohort = simulator.Cohort(
        jnp.arange(6), jax.tree.map(lambda x: x[:, None], data), jnp.ones(6).at[5].set(0.0)
    )
    make = lambda noise: simulator.simulation(
        learner,
        rounds.meta_gradient(learner),
        private.server(optax.sgd(0.1), 0.5, noise, 4.0, jax.random.key(9)),
        6,
    )
    run = lambda recipe: jax.jit(
        lambda: (
            loop.init(recipe, jax.random.key(1), cohort).params,
            loop.step(
                recipe, lambda d, k: cohort, loop.init(recipe, jax.random.key(1), cohort), ()
            )[0].params,
        )
    )()
    start, moved = run(make(0.0))
    one = lambda p, e: jax.grad(lambda p: learner.loss(p, e, jax.random.key(0))[0])(p)
    grads = jax.jit(jax.vmap(one, (None, 0)))(start, data)
    flat = np.concatenate([np.asarray(x).reshape(6, -1) for x in jax.tree.leaves(grads)], axis=1)
    share = np.minimum(1, 0.5 / np.linalg.norm(flat, axis=1))[:5]
    expected = np.concatenate([np.ravel(x) for x in jax.tree.leaves(start)])
    expected = expected - 0.1 * (share[:, None] * flat[:5]).sum(axis=0) / 4.0
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(moved)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    _, noisy = run(make(1.0))
    gap = np.concatenate([np.ravel(x) for x in jax.tree.leaves(noisy)]) - found
    assert np.std(gap) == pytest.approx(0.1 * 1.0 * 0.5 / 4.0, rel=0.5)


def test_item_sums_clip_people_and_not_ratings():
    """Two people, by hand: norms sqrt(2^2 + 1) and sqrt(1 + 9 + 2)."""
    person, item = jnp.array([0, 1, 1]), jnp.array([0, 0, 2])
    value = jnp.array([2.0, -1.0, 3.0])
    sums = private.item_sums(person, item, value, (2, 3), 2.0, 0.0, jax.random.key(0))
    scale = [2 / 5**0.5, 2 / 12**0.5]
    np.testing.assert_allclose(sums.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(sums.total, [2 * scale[0] - scale[1], 0, 3 * scale[1]], rtol=1e-5)
    np.testing.assert_allclose(sums.count, [scale[0] + scale[1], 0, scale[1]], rtol=1e-5)
    one = private.item_sums(
        person, item, value, (2, 3), jnp.inf, 0.0, jax.random.key(0), jnp.array([1.0, 0.0])
    )
    np.testing.assert_allclose(one.total, [2.0, 0, 0])
    noisy = private.item_sums(person, item, value, (2, 3000), 2.0, 0.5, jax.random.key(0))
    assert float(jnp.std(noisy.total[3:])) == pytest.approx(1.0, rel=0.1)


def test_a_linear_start_is_least_squares_where_nothing_is_clipped():
    x = jax.random.normal(jax.random.key(0), (50, 8, 3))
    y = x @ jnp.array([1.0, -2.0, 0.5])
    mask = (jnp.arange(8) < 6)[None, :] * jnp.ones((50, 1))
    gram, moment = private.gram_sums(x, y, mask, 1e6, 0.0, jax.random.key(1))
    weights = private.linear_start(gram, moment, 1e-6)
    np.testing.assert_allclose(weights, [1.0, -2.0, 0.5], atol=1e-4)


def test_an_attack_finds_members_where_they_leak_and_nobody_where_not():
    member = membership.halves(32, 300)
    assert np.array_equal(member[0], ~member[1]) and 120 < member[0].sum() < 180
    rng = np.random.default_rng(0)
    base = rng.normal(size=300)[None, :] + rng.normal(size=(32, 300))
    score = membership.likelihood_ratio(base, member)
    told = membership.auc_interval(score, member, draws=200)
    assert told.low < 0.5 < told.high  # a statistic that knows nothing
    leaky = membership.likelihood_ratio(base - 2.0 * member, member)
    # two normals two deviations apart: Phi(2 / sqrt 2) = .921, less what few shadows cost
    assert 0.85 < membership.auc(leaky, member) < 0.93
    with pytest.raises(UserError, match="even number"):
        membership.halves(5, 10)
