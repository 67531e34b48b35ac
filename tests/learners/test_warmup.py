"""Item warm-up: generators by finite differences, warm embeddings and distances by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import losses
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.item_warm_up.cvar import cvar, wasserstein
from metajax.learners.item_warm_up.dropout_net import dropout_net
from metajax.learners.item_warm_up.meta_embedding import embedding_of, meta_embedding
from metajax.learners.item_warm_up.mwuf import scale_and_shift
from metajax.models.towers import identity
from metajax.training import loop
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
X = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
CLICK = np.array([1.0, 0, 1, 1, 0, 1], np.float32)
SUPPORT = Examples(X[:4], CLICK[:4], np.array([1.0, 1, 1, 0]))
QUERY = Examples(X[4:], CLICK[4:], np.ones(2))
CONTENT = np.array([0.5, -1.0, 2.0], np.float32)
EPISODE = Episode(CONTENT, SUPPORT, QUERY)


def bilinear() -> Model:
    """The base: ``x' A e`` of users x and the item's embedding e."""
    init = lambda key, profile, inputs: {"A": jnp.array([[1.0, 0.5], [0.0, 2.0]])}
    return Model(init, lambda params, profile, x: x @ params["A"] @ profile[1])


def linear(width: int, factor: float = 1.0) -> Model:
    """``factor * K' z`` of content joined with whatever the inputs are."""

    def joined(profile, inputs):
        return profile if isinstance(inputs, tuple) else jnp.concatenate([profile, inputs])

    def init(key, profile, inputs):
        return {"K": 0.3 * jax.random.normal(key, (joined(profile, inputs).shape[0], width))}

    return Model(init, lambda params, p, x: factor * joined(p, x) @ params["K"])


def log_loss(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, logit) - label * logit


def test_meta_embedding_by_hand():
    """One step of descent on the support's log-loss, then 0.1 cold + 0.9 warm."""
    learner = compiled(meta_embedding(bilinear(), linear(2), 2, optax.sgd(0.5)))
    params = learner.init(KEY, EPISODE)
    a = np.array([[1.0, 0.5], [0.0, 2.0]])
    e = CONTENT @ np.asarray(params["generate"]["K"])
    x, y = np.asarray(X, np.float64), CLICK
    xs, ys = x[:3], y[:3]
    logit = xs @ a @ e
    gradient = ((1 / (1 + np.exp(-logit)) - ys) @ (xs @ a)) / 3
    warm = e - 0.5 * gradient
    state = learner.adapt(params, learner.start(params, CONTENT), SUPPORT, KEY)
    np.testing.assert_allclose(embedding_of(state), warm, rtol=1e-4)
    expected = 0.1 * log_loss(logit, ys).mean() + 0.9 * log_loss(x[4:] @ a @ warm, y[4:]).mean()
    assert float(learner.loss(params, EPISODE, KEY)[0]) == pytest.approx(expected, rel=1e-4)


def test_meta_embedding_has_the_second_order_gradient():
    """Against central differences in float64; the base gets none."""
    with jax.enable_x64(True):
        learner = meta_embedding(bilinear(), linear(2), 2, optax.sgd(0.9), 2)
        as_double = lambda x: np.asarray(x, np.float64)
        episode = jax.tree.map(as_double, EPISODE)
        params = jax.tree.map(as_double, jax.jit(learner.init)(KEY, episode))
        value = jax.jit(lambda p: learner.loss(p, episode, KEY)[0])
        grads = jax.device_get(jax.jit(jax.grad(value))(params))
        kernel, step = params["generate"]["K"], 1e-5
        for i, j in np.ndindex(3, 2):
            along = np.zeros((3, 2))
            along[i, j] = step
            at = lambda shift: {**params, "generate": {"K": kernel + shift}}
            numeric = (float(value(at(along))) - float(value(at(-along)))) / (2 * step)
            got = float(grads["generate"]["K"][i, j])
            assert got == pytest.approx(numeric, rel=1e-6, abs=1e-9)
        assert not np.any(grads["base"]["A"])


def test_a_warm_up_in_phases_goes_on_from_where_it_stands():
    learner = compiled(meta_embedding(bilinear(), linear(2), 2, optax.sgd(0.5), 1))
    longer = compiled(meta_embedding(bilinear(), linear(2), 2, optax.sgd(0.5), 2))
    params = learner.init(KEY, EPISODE)
    state = learner.start(params, CONTENT)
    for _ in range(2):
        state = learner.adapt(params, state, SUPPORT, KEY)
    once = longer.adapt(params, longer.start(params, CONTENT), SUPPORT, KEY)
    np.testing.assert_allclose(embedding_of(state), embedding_of(once), rtol=1e-5)


def test_scale_and_shift_by_hand():
    learner = scale_and_shift(
        bilinear(), identity(), linear(2), linear(2), 2, 2, optax.sgd(0.5), loss=losses.log_loss
    )
    learner = compiled(learner)
    params = learner.init(KEY, EPISODE)
    a = np.array([[1.0, 0.5], [0.0, 2.0]])
    state = learner.adapt(params, learner.start(params, CONTENT), SUPPORT, KEY)
    np.testing.assert_allclose(state.total / state.weight, X[:3].mean(axis=0), rtol=1e-4)
    e = np.asarray(embedding_of(state.item))
    assert float(np.abs(e - np.asarray(params["mean"])).max()) > 1e-3, "e adapts on the support"
    scale = CONTENT @ np.asarray(params["scale"]["K"])
    seen = np.concatenate([CONTENT, X[:3].mean(axis=0)])
    warm = scale * e + seen @ np.asarray(params["shift"]["K"])
    got = learner.predict(params, state, X[4:])
    np.testing.assert_allclose(got, X[4:] @ a @ warm, rtol=1e-4, atol=1e-6)


def test_the_shift_does_not_see_users_of_the_query():
    """Control for the published code: other query users leave the warm embedding as it is."""
    learner = scale_and_shift(bilinear(), identity(), linear(2), linear(2), 2, 2, optax.sgd(0.5))
    learner = compiled(learner)
    params = learner.init(KEY, EPISODE)
    state = learner.adapt(params, learner.start(params, CONTENT), SUPPORT, KEY)
    alone = np.asarray(learner.predict(params, state, X[4:5]))[0]
    others = np.concatenate([9.0 * X[:4], X[4:5], 9.0 * X[5:]])
    among = np.asarray(learner.predict(params, state, others))[4]
    assert among == pytest.approx(alone, rel=1e-5)


def test_scale_and_shift_learn_from_the_warm_loss_and_the_mean_from_the_cold_one():
    learner = scale_and_shift(bilinear(), identity(), linear(2), linear(2), 2, 2, optax.sgd(0.5))
    params = jax.jit(learner.init)(KEY, EPISODE)
    part = lambda name: jax.jit(jax.grad(lambda p: learner.loss(p, EPISODE, KEY)[1][name]))(params)
    warm, cold = part("query_loss"), part("cold_loss")
    assert np.any(warm["scale"]["K"]) and np.any(warm["shift"]["K"]) and not np.any(warm["mean"])
    assert np.any(cold["mean"]) and not np.any(cold["scale"]["K"])


def test_dropout_net_reads_the_users_who_clicked():
    learner = compiled(dropout_net(bilinear(), identity(), 2, share=0.0))
    params = learner.init(KEY, EPISODE)
    state = learner.adapt(params, learner.start(params, CONTENT), SUPPORT, KEY)
    e = (X[0] + X[2]) / 3
    expected = X[4:] @ np.array([[1.0, 0.5], [0.0, 2.0]]) @ e
    np.testing.assert_allclose(
        learner.predict(params, state, X[4:]), expected, rtol=1e-4, atol=1e-6
    )
    kept = learner.loss(params, EPISODE, KEY)[0]
    np.testing.assert_allclose(kept, log_loss(expected, CLICK[4:]).mean(), rtol=1e-4)
    without = dropout_net(bilinear(), identity(), 2, share=1.0)
    dropped = jax.jit(without.loss)(params, EPISODE, KEY)[0]
    assert float(dropped) == pytest.approx(np.log(2.0), rel=1e-5), "an embedding of 0 scores 0"


def test_wasserstein_by_hand():
    """Means 2 apart, deviations 1 and 3: 4 + 4; a second variable agrees."""
    first = np.array([1.0, 0.5, 0.0, 0.3])
    second = np.array([3.0, 0.5, 2 * np.log(3.0), 0.3])
    distance = jax.jit(wasserstein)
    assert float(distance(first, second)) == pytest.approx(8.0, rel=1e-5)
    assert float(distance(first, first)) == 0.0


def test_cvar_starts_from_the_decoded_prior_mean_and_warms_up():
    learner = compiled(cvar(bilinear(), linear(4), linear(4), linear(2), 2, optax.sgd(0.5)))
    params = learner.init(KEY, EPISODE)
    mean = (CONTENT @ np.asarray(params["prior"]["K"]))[:2]
    seen = np.concatenate([CONTENT, mean])
    before = learner.start(params, CONTENT)
    np.testing.assert_allclose(
        embedding_of(before), seen @ np.asarray(params["decode"]["K"]), rtol=1e-4
    )
    after = learner.adapt(params, before, SUPPORT, KEY)
    cost = lambda s: losses.log_loss(learner.predict(params, s, SUPPORT.inputs), *SUPPORT[1:])
    assert float(cost(after)) < float(cost(before))


def test_cvar_without_noise_is_a_sum_of_three_terms():
    """The teacher is 2 x 1 steps of descent from 0; q and p are read off in numpy."""
    learner = cvar(
        bilinear(),
        linear(4),
        linear(4),
        linear(2),
        2,
        optax.sgd(0.5),
        num_teacher_steps=2,
        noise=0.0,
        wasserstein_weight=0.25,
        reconstruction_weight=2.0,
    )
    learner = compiled(learner)
    params = learner.init(KEY, EPISODE)
    keep = [0, 1, 2, 4, 5]
    z, y = X[keep] @ np.array([[1.0, 0.5], [0.0, 2.0]]), CLICK[keep]
    known = np.zeros(2)
    for _ in range(2):
        known = known - 0.5 * ((1 / (1 + np.exp(-z @ known)) - y) @ z) / 5
    k = {name: np.asarray(params[name]["K"]) for name in ("encode", "prior", "decode")}
    q, p = np.concatenate([CONTENT, known]) @ k["encode"], CONTENT @ k["prior"]
    made = np.concatenate([CONTENT, p[:2]]) @ k["decode"]
    again = np.concatenate([CONTENT, q[:2]]) @ k["decode"]
    gap = ((q[:2] - p[:2]) ** 2 + (np.exp(q[2:] / 2) - np.exp(p[2:] / 2)) ** 2).sum()
    fit, error = log_loss(z @ made, y).mean(), ((again - known) ** 2).mean()
    value, info = learner.loss(params, EPISODE, KEY)
    assert float(info["query_loss"]) == pytest.approx(fit, rel=1e-4)
    assert float(info["reconstruction"]) == pytest.approx(error, rel=1e-3)
    assert float(info["wasserstein"]) == pytest.approx(gap, rel=1e-3)
    assert float(value) == pytest.approx(fit + 2 * error + 0.25 * gap, rel=1e-4)


ADS = LatentUsers(dim=2, num_support=4, num_query=8, reveals=True)


def ads(permuted: jax.Array, keys: jax.Array) -> Episode:
    """Items whose content is their embedding, or (the control) that of another item."""

    def sample(key: jax.Array) -> Episode:
        key_item, key_other = jax.random.split(key)
        episode, other = ADS.sample(key_item), ADS.sample(key_other).profile
        return episode._replace(profile=jnp.where(permuted, other, episode.profile))

    return jax.vmap(sample)(keys)


def test_a_generator_fed_with_other_items_content_is_no_better_than_the_mean_embedding():
    """Control: the cold error is the noise .25, and with a useless content E (w.v)^2 = 1 more."""
    learner = meta_embedding(bilinear(), linear(2), 2, optax.sgd(0.1), loss=losses.squared_error)
    sample = lambda permuted, key: ads(permuted, jax.random.split(key, 16))
    seeds = jax.random.split(KEY, 1)

    @jax.jit
    def cold_loss(params, permuted: jax.Array) -> jax.Array:
        one = lambda e: losses.squared_error(
            learner.predict(params, learner.start(params, e.profile), e.query.inputs), *e.query[1:]
        )
        tasks = ads(permuted, jax.random.split(jax.random.key(5), 1000))
        return jnp.mean(jax.vmap(one)(tasks))

    def trained(permuted: bool) -> float:
        data = jnp.asarray(permuted)
        fitted = loop.fit(
            loop.recipe(learner, optax.adam(0.05)), sample, data, seeds, 200, block=200
        )
        return float(cold_loss(jax.tree.map(lambda x: np.asarray(x)[0], fitted.params), data))

    assert trained(permuted=False) < 0.35
    assert trained(permuted=True) > 1.0


def test_the_weighted_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    from experiments.field.metaemb.report import weighted_auc

    rng = np.random.default_rng(0)
    score = rng.integers(8, size=60) / 8.0  # with ties
    label = (rng.random(60) < 0.4).astype(float)
    weight = rng.integers(4, size=(3, 60)).astype(float)
    expected = [roc_auc_score(label, score, sample_weight=w) for w in weight]
    np.testing.assert_allclose(weighted_auc(score, label, weight), expected, rtol=1e-12)
