"""Cross-domain cold start: the joint prior is Bayes' rule, bridges learn what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax.data.worlds.domains import TwoDomains
from metajax.learners.cold_start import cross_domain as cross
from metajax.training import loop
from metajax.types import Episode, Examples, Model

WORLD = TwoDomains(rho=0.6, dim=3, marks=0, num_support=6, num_query=8)
NOTHING = Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(len(x)))
SAME = Model(lambda key, profile, inputs: {}, lambda params, profile, x: x)


@jax.jit
def crossed(episode: Episode) -> Episode:
    """The episode with its source examples as the profile, and an empty support in the target."""
    x, label, mask = episode.support
    real = x * mask[:, None]
    profile = {"gram": real.T @ real, "moment": real.T @ (label * mask)}
    profile["vector"] = jnp.linalg.solve(profile["gram"] + jnp.eye(3), profile["moment"])
    return Episode(profile, Examples(x, label, 0 * mask), episode.query)


sample = jax.jit(lambda world, key: world.sample(key), static_argnums=0)


def source(profile):
    return profile["gram"], profile["moment"]


def true_prior(world: TwoDomains) -> tuple[jax.Array, jax.Array]:
    """The mean and the precision, in units of the noise, of the weights of both domains."""
    mean = jnp.tile(world.mean_weights, 2)
    block = jnp.array([[1.0, world.rho], [world.rho, 1.0]])
    covariance = world.tau**2 * jnp.kron(block, jnp.eye(world.dim)) / world.sigma**2
    return mean, jnp.linalg.inv(covariance)


def joint(world: TwoDomains):
    prior = cross.joint_prior((3, 3), source, lambda profile: true_prior(world))
    return compiled(cross.profile_ridge(SAME, NOTHING, prior))


def test_with_the_true_prior_the_cold_start_is_the_bayes_predictor_of_two_domains():
    learner = joint(WORLD)
    episode = sample(WORLD, jax.random.key(0))
    task = crossed(episode)
    params = learner.init(jax.random.key(1), task)
    scores = learner.predict(params, learner.start(params, task.profile), task.query.inputs)
    np.testing.assert_allclose(scores, jax.jit(WORLD.bayes)(episode), rtol=2e-4, atol=2e-4)


def test_target_ratings_update_the_cold_start_as_one_regression_on_both_domains():
    """One dense system of source and target rows, solved by numpy."""
    learner, episode = joint(WORLD), jax.device_get(sample(WORLD, jax.random.key(2)))
    task = crossed(episode)
    given = jax.tree.map(lambda x: x[:4], episode.query)
    params = learner.init(jax.random.key(1), task)
    state = learner.start(params, task.profile)
    state = learner.adapt(params, state, given, jax.random.key(3))
    found = learner.predict(params, state, episode.query.inputs)
    mean, precision = (np.asarray(x, float) for x in jax.jit(true_prior, static_argnums=0)(WORLD))
    zero = np.zeros((6, 3))
    x = np.block([[episode.support.inputs, zero], [zero[:4], given.inputs]])
    y = np.concatenate([episode.support.label, given.label])
    w = np.linalg.solve(precision + x.T @ x, precision @ mean + x.T @ y)
    np.testing.assert_allclose(found, episode.query.inputs @ w[3:], rtol=2e-4, atol=2e-4)


def test_with_nothing_in_common_the_source_changes_nothing():
    world = TwoDomains(rho=0.0, dim=3, marks=0)
    learner, task = joint(world), jax.device_get(crossed(sample(world, jax.random.key(0))))
    params = learner.init(jax.random.key(1), task)
    state = learner.start(params, task.profile)
    other = jax.tree.map(lambda x: 2 * x, task.profile)
    np.testing.assert_allclose(state.moment, learner.start(params, other).moment, atol=1e-4)
    np.testing.assert_allclose(state.precision, 0.25 * np.eye(3), atol=1e-4)


def test_the_estimated_prior_finds_what_carries_over():
    """rho = .6 from 3,000 users with 30 examples in each domain, up to sampling noise."""
    world = TwoDomains(rho=0.6, dim=2, marks=0, num_support=30, num_query=30)
    users = jax.jit(jax.vmap(world.sample))(jax.random.split(jax.random.key(0), 3_000))
    gram, moment = np.zeros((3_000, 4, 4)), np.zeros((3_000, 4))
    for at, rows in ((slice(0, 2), users.support), (slice(2, 4), users.query)):
        x, y = np.asarray(rows.inputs, float), np.asarray(rows.label, float)
        gram[:, at, at] = np.einsum("uni,unj->uij", x, x)
        moment[:, at] = np.einsum("uni,un->ui", x, y)
    mean, precision = cross.estimated_prior(gram, moment, world.sigma**2)
    covariance = np.linalg.inv(precision) * world.sigma**2
    np.testing.assert_allclose(mean, np.tile(world.mean_weights, 2), atol=0.1)
    np.testing.assert_allclose(np.diag(covariance), 1.0, atol=0.12)
    np.testing.assert_allclose([covariance[0, 2], covariance[1, 3]], 0.6, atol=0.1)


def test_a_bridge_learns_the_map_and_mismatched_pairs_teach_it_nothing():
    """Where the target's weights are the source's, turned: EMCDR finds the turn from pairs."""
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    learner = cross.mapping_loss(
        cross.profile_ridge(SAME, NOTHING, cross.bridge_prior(cross.mlp_bridge(2)))
    )

    def drawn(wrong, key):
        w = jax.random.normal(key, (16, 2))
        x = 10 * jnp.broadcast_to(jnp.eye(2), (16, 2, 2))
        mine = jnp.where(wrong > 0, jnp.roll(w, 1, axis=0), w)
        label = jnp.einsum("uni,ui->un", x, w @ turn.T)
        rows = Examples(x, label, jnp.ones((16, 2)))
        return Episode({"vector": mine}, rows, rows)

    recipe = loop.recipe(learner, optax.adam(0.05))
    fit = lambda wrong: loop.fit(recipe, drawn, jnp.float32(wrong), jax.random.key(0)[None], 200)
    kernel = lambda fitted: fitted.params["prior"]["bridge"]["layer0"]["kernel"][0]
    np.testing.assert_allclose(kernel(fit(0.0)), turn.T, atol=0.05)
    assert np.abs(kernel(fit(1.0))).max() < 0.4


def test_the_meta_gradient_over_users_goes_through_the_step():
    """One weight, losses (w - a)^2 and (w - b)^2: the gradient of the second after a step."""
    learner = cross.profile_ridge(SAME, NOTHING, cross.bridge_prior(cross.mlp_bridge(1)))
    one = learner._replace(
        loss=lambda params, e, key: ((params - e.query.label[0]) ** 2, {}),
    )
    a, b, w, rate = 1.0, 3.0, 0.5, 0.1
    rows = Examples(np.zeros((2, 1, 1)), np.array([[a], [b]]), np.ones((2, 1)))
    slope, info = jax.jit(cross.over_users(one, rate))(
        np.float32(w), Episode((), rows, rows), jax.random.key(0)
    )
    moved = w - rate * 2 * (w - a)
    assert float(slope) == pytest.approx(2 * (moved - b) * (1 - 2 * rate), rel=1e-5)
    assert float(info["loss"]) == pytest.approx((moved - b) ** 2, rel=1e-5)


def test_a_personal_bridge_without_liked_items_is_finite_and_ignores_padding():
    bridge = compiled(cross.personal_bridge(2))
    profile = {"vector": np.ones(3), "liked": np.ones((4, 3)), "liked_mask": np.zeros(4)}
    params = bridge.init(jax.random.key(0), profile, ())
    assert np.isfinite(bridge.apply(params, profile, ())).all()
    half = profile | {"liked_mask": np.array([1.0, 1.0, 0.0, 0.0])}
    spoiled = half | {"liked": half["liked"] + 6.0 * (np.arange(4) >= 2)[:, None]}
    np.testing.assert_allclose(
        bridge.apply(params, half, ()), bridge.apply(params, spoiled, ()), rtol=1e-6
    )
