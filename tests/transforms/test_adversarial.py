"""Attacks and defences: their sizes and directions, and what a lie does with and without them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import tree
from metajax.data.worlds.domains import TwoDomains
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.pooled import pooled
from metajax.models.towers import identity, vector_linear
from metajax.training import loop, robust
from metajax.transforms import adversarial
from metajax.transforms.robust import bisquare, cauchy, doubtful, huber
from metajax.types import Episode, Examples

KEY = jax.random.key(0)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("direction", [adversarial.uphill, adversarial.signs, adversarial.anywhere])
def test_every_row_moves_by_the_size_and_no_further(direction, steps):
    x, slope = jnp.ones((3, 2)), jnp.array([[3.0, 4.0], [0.1, 0.0], [-2.0, 1.0]])
    loss = lambda x: jnp.sum(x * slope)
    moved = adversarial.perturbed(loss, x, 0.5, KEY, direction=direction, num_steps=steps) - x
    norms = np.linalg.norm(moved, axis=1)
    assert (norms <= 0.5 + 1e-6).all()
    if direction is adversarial.uphill:
        np.testing.assert_allclose(moved[0], [0.3, 0.4], atol=1e-6)  # 0.5 (3, 4) / 5
    if steps == 1 and direction is adversarial.anywhere:
        np.testing.assert_allclose(norms, 0.5, atol=1e-6)  # the control has the same norm


def test_an_attack_is_worse_than_noise_of_its_norm():
    loss = lambda x: jnp.sum((x - 2.0) ** 2)
    x = jax.random.normal(KEY, (20, 8))
    at = lambda d: float(loss(adversarial.perturbed(loss, x, 0.3, KEY, direction=d)))
    clean = float(loss(x))
    attack, noise = (at(d) - clean for d in (adversarial.uphill, adversarial.anywhere))
    assert attack > 3 * abs(noise)


def test_reversal_keeps_the_value_and_turns_the_gradient():
    both = jax.jit(jax.value_and_grad(lambda x: adversarial.reverse(x, 0.7) ** 2))
    value, slope = both(3.0)
    assert float(value) == pytest.approx(9.0) and float(slope) == pytest.approx(-0.7 * 6.0)


WORLD = LatentUsers(dim=3, num_support=6, num_query=6)


@pytest.mark.slow
def test_the_controller_reaches_its_target():
    """The attacked loss settles a half above the clean one; a fixed size stays what it is."""
    target = 0.5
    strength = adversarial.Controller(target, start=0.01)
    learner = adversarial.against_embeddings(pooled(vector_linear()), tree.everything, strength)
    recipe = loop.recipe(learner, optax.sgd(0.1))
    fitted = loop.fit(recipe, loop.world_sampler(WORLD, 64), (), KEY[None], 300, block=100)
    params = jax.tree.map(lambda x: x[0], fitted.params)
    tasks = jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(9), 2_000))
    _, info = jax.jit(jax.vmap(learner.loss, (None, 0, None)))(params, tasks, KEY)
    assert float(info["drop"].mean()) == pytest.approx(target, rel=0.1)
    assert float(info["size"][0]) > 0.05


def test_a_task_that_is_easily_misled_gets_a_smaller_perturbation():
    strength = adversarial.Controller(0.2, start=0.5, gain=2.0, per_task=12)
    learner = adversarial.against_embeddings(pooled(vector_linear()), tree.everything, strength)
    sizes = []
    for length in (1.0, 4.0):  # longer items: the same perturbation does more
        x = length * jnp.ones((4, 1))
        rows = Examples(x, 2.0 + jnp.arange(4.0), jnp.ones(4))
        episode = Episode((), rows, rows)
        params = learner.init(KEY, episode)
        _, info = jax.jit(learner.loss)(params, episode, KEY)
        assert float(info["drop"]) == pytest.approx(0.2, rel=0.1)
        sizes.append(float(info["size"]))
    assert sizes[0] == pytest.approx(4.0 * sizes[1], rel=0.1)


def test_features_are_turned_against_the_classifier_of_domains():
    world = TwoDomains(dim=2, marks=2)
    plain = pooled(vector_linear())
    own = lambda params, profile, x: x * params["model"]["head"]["kernel"][None, :]
    episode, grads = jax.jit(world.sample)(KEY), {}
    for strength in (0.5, -0.5):
        learner = adversarial.domain_adversarial(plain, own, 4, strength)
        params = learner.init(KEY, episode)
        params["learner"]["model"]["head"]["kernel"] = np.ones(4)
        slope = jax.jit(jax.grad(lambda p, f=learner: f.loss(p, episode, KEY)[0]))
        grads[strength] = jax.device_get(slope(params))
    head = {s: g["learner"]["model"]["head"]["kernel"] for s, g in grads.items()}
    alone = jax.jit(jax.grad(lambda p: plain.loss(p, episode, KEY)[0]))(params["learner"])
    middle = np.asarray(alone["model"]["head"]["kernel"])
    np.testing.assert_allclose(head[0.5] - middle, middle - head[-0.5], atol=1e-5)
    assert float(np.abs(head[0.5] - middle).max()) > 1e-3
    for a, b in zip(*(jax.tree.leaves(g["judge"]) for g in grads.values()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # the classifier itself learns either way


def test_no_learner_beats_the_bayes_predictor_of_two_domains():
    world = TwoDomains(rho=0.6, num_support=12, num_query=40)
    tasks = jax.jit(jax.vmap(world.sample))(jax.random.split(KEY, 300))
    error = lambda s: float(np.mean((np.asarray(s) - np.asarray(tasks.query.label)) ** 2))
    bayes = error(jax.jit(jax.vmap(world.bayes))(tasks))
    for rho in (0.0, 1.0):
        other = TwoDomains(rho=rho, num_support=12, num_query=40)
        assert bayes < error(jax.jit(jax.vmap(other.bayes))(tasks))


def rule_on(rule, *rows):
    return jax.jit(rule)({"w": np.asarray(rows)})["w"]


def test_rules_by_pencil():
    rows = ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [300.0, -400.0])
    np.testing.assert_allclose(rule_on(robust.mean, *rows), [75.5, -99.5])
    # norms 1, 1, 1.414, 500: the last is brought to 1, (0.6, -0.8)
    at_one = 2**-0.5
    np.testing.assert_allclose(
        rule_on(robust.clipped(1.0), *rows), [(1.6 + at_one) / 4, (0.2 + at_one) / 4], atol=1e-5
    )
    np.testing.assert_allclose(rule_on(robust.trimmed(0.25), *rows), [1.0, 0.5])
    np.testing.assert_allclose(rule_on(robust.median, *rows), [1.0, 0.5])


def test_one_task_of_a_batch_is_bounded_and_the_mean_is_the_outer_gradient():
    learner = ridge(identity(), vector_linear(), 3)
    tasks = jax.device_get(jax.jit(jax.vmap(WORLD.sample))(jax.random.split(KEY, 8)))
    params = jax.jit(learner.init)(KEY, jax.tree.map(lambda x: x[0], tasks))
    label = np.concatenate([1000.0 * tasks.query.label[:1], tasks.query.label[1:]])
    bad = tasks._replace(query=tasks.query._replace(label=label))
    flat = lambda g: np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)])
    both = lambda f: [flat(f(params, each, KEY)[0]) for each in (tasks, bad)]
    plain, moved = both(jax.jit(robust.aggregated(learner, robust.mean)))
    np.testing.assert_allclose(
        plain, flat(jax.jit(loop.outer_gradient(learner))(params, tasks, KEY)[0]), atol=1e-5
    )
    assert float(np.linalg.norm(moved - plain)) > 50
    for rule, bound in ((robust.clipped(0.5), 2 * 0.5 / 8), (robust.median, 2.0)):
        before, after = both(jax.jit(robust.aggregated(learner, rule)))
        assert float(np.linalg.norm(after - before)) <= bound + 1e-5


@pytest.mark.parametrize("trust", [huber(1.0), bisquare(3.0), cauchy(1.0)])
def test_a_lie_counts_less_where_doubt_is_allowed(trust):
    """Nine ratings of 1 and one lie of -9, of one feature with a weak prior."""
    label = jnp.ones(10).at[0].set(-9.0)
    rows = Examples(jnp.ones((10, 1)), label, jnp.ones(10))
    honest = rows._replace(label=jnp.ones(10))
    plain = ridge(identity(), vector_linear(), 1, precision=0.1)
    careful = doubtful(plain, trust, rounds=6)
    params = plain.init(KEY, Episode((), rows, rows))

    def told(learner, examples: Examples) -> float:
        state = learner.adapt(params, learner.start(params, ()), examples, KEY)
        return float(learner.predict(params, state, jnp.ones((1, 1)))[0])

    assert told(plain, rows) == pytest.approx(0.0, abs=1e-6)  # (9 - 9) / 10.1
    assert abs(told(careful, rows) - 1.0) < 0.25
    assert told(careful, honest) == pytest.approx(told(plain, honest), abs=1e-2)
    value, _ = careful.loss(params, Episode((), rows, honest), KEY)
    assert float(value) == pytest.approx((told(careful, rows) - 1.0) ** 2, abs=1e-5)
