"""Prototypes: the nearest class mean, as an independent library finds it."""

import jax
import numpy as np
from compiled import compiled
from sklearn.neighbors import NearestCentroid

from metajax import losses
from metajax.learners.metric import prototypes
from metajax.models.towers import identity
from metajax.types import Episode, Examples


def examples(seed: int, rows: int = 30, classes: int = 4) -> Examples:
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(classes), rng.integers(classes, size=rows - classes)])
    x = rng.normal(size=(rows, 3)) + label[:, None]
    return Examples(x.astype(np.float32), label, np.ones(rows))


def test_agrees_with_nearest_centroid():
    support, query = examples(0), examples(1)
    padding = np.arange(30) >= 25
    spoiled = Examples(
        np.where(padding[:, None], 1e6, support.inputs),
        np.where(padding, 9, support.label),
        (~padding).astype(float),
    )
    learner = compiled(prototypes(identity(), 4, 3))
    params = learner.init(jax.random.key(0), Episode((), support, query))
    state = learner.adapt(params, learner.start(params, ()), spoiled, jax.random.key(0))
    scores = np.asarray(learner.predict(params, state, query.inputs))
    oracle = NearestCentroid().fit(support.inputs[:25], support.label[:25])
    np.testing.assert_array_equal(scores.argmax(axis=1), oracle.predict(query.inputs))
    center = oracle.centroids_[2]
    by_hand = -((query.inputs - center) ** 2).sum(axis=1)
    np.testing.assert_allclose(scores[:, 2], by_hand, rtol=1e-4, atol=1e-4)


def test_cold_scores_are_equal_and_sets_add_up():
    support, query = examples(2), examples(3)
    learner = compiled(prototypes(identity(), 4, 3))
    params = learner.init(jax.random.key(0), Episode((), support, query))
    cold = learner.start(params, ())
    scores = np.asarray(learner.predict(params, cold, query.inputs))
    np.testing.assert_array_equal(scores, np.repeat(scores[:, :1], 4, axis=1))
    part = lambda rows: jax.tree.map(lambda v: v[rows], support)
    key = jax.random.key(0)
    whole = learner.adapt(params, cold, support, key)
    twice = learner.adapt(params, cold, part(slice(0, 11)), key)
    twice = learner.adapt(params, twice, part(slice(11, 30)), key)
    np.testing.assert_allclose(
        learner.predict(params, whole, query.inputs),
        learner.predict(params, twice, query.inputs),
        rtol=1e-4,
    )


def test_loss_is_the_cross_entropy_of_the_distances():
    """Two classes at 0 and 2 on a line, a query at 0.5: p(0) = 1 / (1 + exp(0.25 - 2.25))."""
    line = lambda x, label: Examples(np.array(x)[:, None], np.array(label), np.ones(len(x)))
    episode = Episode((), line([0.0, 2.0], [0, 1]), line([0.5], [0]))
    learner = compiled(prototypes(identity(), 2, 1))
    value, info = learner.loss(learner.init(jax.random.key(0), episode), episode, jax.random.key(0))
    expected = np.log1p(np.exp(0.25 - 2.25))
    np.testing.assert_allclose([value, info["query_loss"]], [expected, expected], rtol=1e-6)


def test_class_cross_entropy_by_hand_and_masked():
    scores = np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [1.0, 1.0, 1.0]])
    label, mask = np.array([0.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.0])
    found = jax.jit(losses.class_cross_entropy)(scores, label, mask)
    np.testing.assert_allclose(found, -(np.log(0.7) + np.log(0.5)) / 2, rtol=1e-6)
