"""LWA and NLBA: closed sums against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learners.cold_start.lwa import by_sum, lwa, nlba
from metajax.models.towers import identity
from metajax.types import Episode, Examples

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
Q = RNG.normal(size=(4, 3)).astype(np.float32)
LABEL = np.array([1, 0, 1, 1, 0, 1], np.float32)
MASK = np.array([1, 1, 1, 1, 1, 0], np.float32)
SUPPORT = Examples(jnp.asarray(X), jnp.asarray(LABEL), jnp.asarray(MASK))
EPISODE = Episode((), SUPPORT, SUPPORT)
LIKED, DISLIKED = [0, 2, 3], [1, 4]


def adapted(learner, params):
    return learner.adapt(params, learner.start(params, ()), SUPPORT, KEY)


@pytest.mark.parametrize("summed", [False, True])
def test_lwa_in_numpy(summed):
    learner = lwa(identity(), 3, **({"pool": by_sum} if summed else {}))
    params = learner.init(KEY, EPISODE)
    w0, w1 = RNG.normal(size=(2, 3, 3)).astype(np.float32)
    params |= {"weights": jnp.stack([w0, w1]), "bias": jnp.asarray(0.3)}
    pool = np.sum if summed else np.mean
    r0, r1 = pool(X[DISLIKED], axis=0), pool(X[LIKED], axis=0)
    expected = 0.3 + Q @ (w0 @ r0 + w1 @ r1)
    got = learner.predict(params, adapted(learner, params), jnp.asarray(Q))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        learner.predict(params, learner.start(params, ()), jnp.asarray(Q)), 0.3
    )


def test_lwa_starts_as_the_nearer_of_two_means():
    learner = lwa(identity(), 3)
    params = learner.init(KEY, EPISODE)
    got = learner.predict(params, adapted(learner, params), jnp.asarray(Q))
    direction = X[LIKED].mean(axis=0) - X[DISLIKED].mean(axis=0)
    np.testing.assert_allclose(got, Q @ direction, rtol=1e-5, atol=1e-6)


def test_nlba_in_numpy():
    learner = nlba(identity(), 3, (5,))
    params = learner.init(KEY, EPISODE)
    params["layers"][0]["bias"] = jnp.arange(5.0) / 5
    r0, r1 = X[DISLIKED].mean(axis=0), X[LIKED].mean(axis=0)
    first, last = jax.tree.map(np.asarray, params["layers"])
    hidden = Q @ first["kernel"] + first["bias"] + r0 @ first["classes"][0]
    hidden = np.maximum(hidden + r1 @ first["classes"][1], 0.0)
    expected = hidden @ last["kernel"] + last["bias"]
    expected = (expected + r0 @ last["classes"][0] + r1 @ last["classes"][1])[:, 0]
    got = learner.predict(params, adapted(learner, params), jnp.asarray(Q))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_nlba_shares_its_kernels_between_tasks():
    """Two tasks differ by the constant that R adds before the ReLU: one layer is parallel."""
    learner = nlba(identity(), 3, ())
    params = learner.init(KEY, EPISODE)
    cold = learner.predict(params, learner.start(params, ()), jnp.asarray(Q))
    warm = learner.predict(params, adapted(learner, params), jnp.asarray(Q))
    np.testing.assert_allclose(warm - cold, np.full(4, float(warm[0] - cold[0])), rtol=1e-4)
    assert abs(float(warm[0] - cold[0])) > 1e-2


def test_the_class_is_decided_by_the_threshold():
    """Control: with every rating on one side, R_0 is empty and only W_1 acts."""
    learner = lwa(identity(), 3, threshold=-1.0)
    params = learner.init(KEY, EPISODE)
    state = adapted(learner, params)
    np.testing.assert_array_equal(state.weight, [0.0, 5.0])
    np.testing.assert_allclose(state.total[1], X[:5].sum(axis=0), rtol=1e-5)
