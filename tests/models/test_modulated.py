"""CMML and TaNP: modulation, divergences and cluster shares by hand and by scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from scipy import integrate, stats

from metajax.learners.cold_start.cmml import cmml
from metajax.learners.cold_start.tanp import Gaussian, assignment, cluster_loss, divergence, tanp
from metajax.models.features import labeled_features
from metajax.models.modulated import adaptive_decoder, film_mlp, pair_features
from metajax.models.towers import identity
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
X = np.asarray(jax.random.normal(jax.random.key(1), (6, 4)))
EXAMPLES = Examples(X, np.sin(X[:, 0]), np.ones(6, np.float32))
EPISODE = Episode((), EXAMPLES, EXAMPLES)


def zero() -> Model:
    """A model that scores 0."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(len(x)))


def small_tanp(**settings):
    return tanp(
        identity(),
        labeled_features((6,)),
        labeled_features((3,)),
        adaptive_decoder((8,)),
        zero(),
        num_latent=2,
        num_codes=(6, 3),
        num_clusters=4,
        **settings,
    )


def test_modulation_is_the_identity_at_the_zero_context():
    decode = film_mlp((5, 3), 7)
    apply, profile = jax.jit(decode.apply), ((), np.zeros(4))
    params = jax.jit(decode.init)(KEY, profile, X)
    x, head = X, jax.tree.map(np.asarray, params)
    for i in (0, 1):
        layer = head["body"][i]
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0.0)
    plain = (x @ head["head"]["kernel"] + head["head"]["bias"])[:, 0]
    np.testing.assert_allclose(apply(params, profile, X), plain, rtol=1e-4, atol=1e-6)
    steered = apply(params, ((), np.ones(4)), X)
    assert np.max(np.abs(steered - plain)) > 1e-3


def test_modulation_in_numpy():
    decode = compiled(film_mlp((5,), 7))
    profile = ((), np.arange(4.0))
    params = decode.init(KEY, profile, X)
    x, p = X, jax.tree.map(np.asarray, params)
    hyper = np.maximum(x * np.arange(4.0) @ p["hyper"]["kernel"], 0.0)
    gamma, beta = np.split(hyper @ p["modulate"][0]["kernel"], 2, axis=1)
    hidden = np.maximum((1 + gamma) * (x @ p["body"][0]["kernel"]) + beta, 0.0)
    expected = (hidden @ p["head"]["kernel"])[:, 0]
    np.testing.assert_allclose(decode.apply(params, profile, X), expected, rtol=1e-4, atol=1e-5)


def test_the_context_is_the_mean_code_and_sends_no_gradient_to_the_embedding():
    """With the label as code and the context as score, the prediction is the mean label."""
    encode = Model(lambda k, p, x: {}, lambda params, p, x: x[1][:, None] + 0.0 * x[0][:, :1])
    decode = Model(lambda k, p, x: {}, lambda params, p, x: p[1][0] * jnp.ones(len(x)))
    scaled = Model(lambda k, p, x: {"s": jnp.ones(())}, lambda params, p, x: params["s"] * x)
    learner = compiled(cmml(scaled, encode, decode, 1))
    params = learner.init(KEY, EPISODE)
    masked = EXAMPLES._replace(
        label=np.array([1.0, 2.0, 6.0, 1e6, 0, 0]), mask=np.array([1.0, 1, 1, 0, 0, 0])
    )
    state = learner.adapt(params, learner.start(params, ()), masked, KEY)
    np.testing.assert_allclose(learner.predict(params, state, X), 3.0 * np.ones(6))
    leaky = Model(lambda k, p, x: {}, lambda params, p, x: x[0][:, :1])
    learner = cmml(scaled, leaky, decode, 1)
    grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(params, EPISODE, KEY)
    assert float(grads["embed"]["s"]) == 0.0


def test_divergence_is_that_of_scipy():
    q, p = stats.norm(0.3, 0.5), stats.norm(-0.2, 0.9)
    integral, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -8, 8)
    pair = lambda a, b: Gaussian(np.array([a, 0.0]), np.array([b, 0.7]))
    between = jax.jit(divergence)
    got = float(between(pair(0.3, 0.5), pair(-0.2, 0.9)))
    assert got == pytest.approx(integral, rel=1e-5)
    assert got != pytest.approx(float(between(pair(-0.2, 0.9), pair(0.3, 0.5))), rel=1e-2)


def test_cluster_shares_by_hand():
    """Distances 0, 1 and 3 squared: 1, 1/2 and 1/10 before they are scaled to sum to 1."""
    memory = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    share = jax.jit(assignment)(np.zeros(2), memory)
    np.testing.assert_allclose(share, np.array([1.0, 0.5, 0.1]) / 1.6, rtol=1e-6)
    sharp = np.array([1.0, 0.25, 0.01]) / 1.26
    expected = stats.entropy(sharp, np.asarray(share))
    assert float(jax.jit(cluster_loss)(share)) == pytest.approx(expected, rel=1e-5)
    slope = jax.jit(jax.grad(lambda s: cluster_loss(s / s.sum())))
    np.testing.assert_allclose(slope(np.full(4, 0.25)), 0.0, atol=1e-6)


def test_decoder_in_numpy():
    decode = compiled(adaptive_decoder((5,)))
    latent, task = np.array([0.4, -0.1]), np.array([1.0, 2.0, -1.0])
    params = decode.init(KEY, ((), (latent, task)), X)
    p = jax.tree.map(np.asarray, params)
    h = np.concatenate([X, np.tile(latent, (6, 1))], axis=1) @ p["body"][0]["kernel"]
    gamma = np.tanh(task @ p["scale"][0]["kernel"])
    beta = np.tanh(task @ p["shift"][0]["kernel"])
    expected = (np.maximum(h * gamma + beta, 0.0) @ p["head"]["kernel"])[:, 0]
    got = decode.apply(params, ((), (latent, task)), X)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_tanp_predicts_the_same_whatever_the_key_and_adds_up():
    learner = compiled(small_tanp())
    params = learner.init(KEY, EPISODE)
    part = lambda rows: jax.tree.map(lambda v: v[rows], EXAMPLES)
    whole = learner.adapt(params, learner.start(params, ()), EXAMPLES, jax.random.key(5))
    halves = learner.adapt(params, learner.start(params, ()), part(slice(0, 3)), jax.random.key(6))
    halves = learner.adapt(params, halves, part(slice(3, 6)), jax.random.key(7))
    np.testing.assert_allclose(
        learner.predict(params, whole, X), learner.predict(params, halves, X), rtol=1e-4, atol=1e-6
    )


def test_tanp_pays_nothing_when_the_query_tells_nothing_new():
    """A query that is all padding leaves q(z | both) = q(z | support)."""
    learner = small_tanp()
    params, loss = jax.jit(learner.init)(KEY, EPISODE), jax.jit(learner.loss)
    empty = EPISODE._replace(query=EXAMPLES._replace(mask=np.zeros(6)))
    _, info = loss(params, empty, KEY)
    assert float(info["divergence"]) == pytest.approx(0.0, abs=1e-6)
    _, info = loss(params, EPISODE._replace(query=EXAMPLES._replace(label=X[:, 1])), KEY)
    assert float(info["divergence"]) > 1e-5


def test_pair_features_average_the_values_that_are_there():
    model = compiled(pair_features({"group": 3}, {"genre": 4}, dim=2))
    inputs = {
        "item": np.arange(2),
        "genre": np.array([[1, 3], [2, 0]]),
        "factor": np.array([[0.5], [0.7]]),
        "bias": np.array([0.1, 0.2]),
    }
    profile = {"group": np.array([2])}
    params = model.init(KEY, profile, inputs)
    genre = np.asarray(params["item"]["genre"]["embedding"])
    group = np.asarray(params["user"]["group"]["embedding"])
    expected = [
        [*group[2], *(genre[1] + genre[3]) / 2, 0.5, 0.1],
        [*group[2], *genre[2], 0.7, 0.2],
    ]
    np.testing.assert_allclose(model.apply(params, profile, inputs), expected, rtol=1e-5)
