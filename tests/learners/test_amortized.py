"""The conditional neural process: a masked mean of codes, order-free and additive."""

import jax
import jax.numpy as jnp
import numpy as np
from compiled import compiled

from metajax.learners.amortized import neural_process
from metajax.models.features import conditioned_mlp, labeled_features
from metajax.types import Episode, Examples, Model


def test_mean_of_labels_by_hand():
    """With the label as code and the code as score, the prediction is the mean label."""
    encode = Model(lambda k, p, x: {}, lambda params, p, x: x[1][:, None])
    decode = Model(lambda k, p, x: {}, lambda params, p, x: p[1][0] * jnp.ones(x.shape[0]))
    learner = compiled(neural_process(encode, decode, 1))
    examples = Examples(np.zeros((4, 2)), np.array([1.0, 2.0, 6.0, 1e6]), np.array([1, 1, 1, 0.0]))
    params = learner.init(jax.random.key(0), Episode((), examples, examples))
    state = learner.start(params, ())
    np.testing.assert_array_equal(learner.predict(params, state, np.zeros((2, 2))), [0.0, 0.0])
    state = learner.adapt(params, state, examples, jax.random.key(0))
    np.testing.assert_allclose(learner.predict(params, state, np.zeros((2, 2))), [3.0, 3.0])
    state = learner.adapt(
        params, state, examples._replace(label=examples.label + 2), jax.random.key(0)
    )
    np.testing.assert_allclose(learner.predict(params, state, np.zeros((2, 2))), [4.0, 4.0])


def test_networks_adapting_twice_is_once_on_both():
    learner = compiled(neural_process(labeled_features((16, 8)), conditioned_mlp((16,)), 8))
    x = np.random.default_rng(0).normal(size=(6, 3))
    examples = Examples(x, np.sin(x[:, 0]), np.ones(6))
    params = learner.init(jax.random.key(1), Episode((), examples, examples))
    part = lambda rows: jax.tree.map(lambda v: v[rows], examples)
    key = jax.random.key(2)
    whole = learner.adapt(params, learner.start(params, ()), examples, key)
    halves = learner.adapt(params, learner.start(params, ()), part(slice(0, 2)), key)
    halves = learner.adapt(params, halves, part(slice(2, 6)), key)
    np.testing.assert_allclose(
        learner.predict(params, whole, x), learner.predict(params, halves, x), rtol=1e-5, atol=1e-6
    )
