"""One setting for any scale of ratings: twice the ratings, twice the predictions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import ridge_head
from metajax.benchmark import problem
from metajax.data import split
from metajax.data.worlds import latent
from metajax.learners import item_ridge
from metajax.settings import Training

CONFIG = ridge_head.Config(
    training=Training(num_steps=4),
    hidden=4,
    offset_hidden=4,
    extra=1,
    factors=False,
    blend=False,
)
FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@functools.cache
def log(factor: float) -> problem.Problem:
    """A small log whose ratings, and the ends of their scale, are multiplied."""
    table = latent.rating_log(num_users=150, num_items=60)
    label = (factor * table.label).astype(np.float32)
    scale = (factor * table.scale[0], factor * table.scale[1])
    table = dataclasses.replace(table, label=label, scale=scale)
    return problem.problem_of(table, split.melu(table, 0), num_support=16)


def played(given: problem.Problem, loss: str) -> tuple[jax.Array, jax.Array]:
    """The outer loss at first, and predictions of one task after four outer steps."""
    learner, tx = ridge_head.build(dataclasses.replace(CONFIG, loss=loss), given)
    episode, key = given.example, jax.random.key(0)
    episode = episode._replace(support=episode.support._replace(mask=jnp.ones(16)))

    def play(episode):
        params = learner.init(key, episode)
        first, _ = learner.loss(params, episode, key)

        def step(carry, _):
            params, state = carry
            grads, _ = jax.grad(learner.loss, has_aux=True)(params, episode, key)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=4)
        state = learner.adapt(params, learner.start(params, episode.profile), episode.support, key)
        return first, learner.predict(params, state, episode.query.inputs)

    return jax.jit(play, compiler_options=FAST_TO_COMPILE)(episode)


@pytest.mark.parametrize("trained_on", ["absolute", "ordinal"])
def test_twice_the_ratings_are_twice_the_predictions(trained_on):
    (loss, one), (same_loss, two) = (played(log(factor), trained_on) for factor in (1.0, 2.0))
    np.testing.assert_allclose(two, 2.0 * one, rtol=1e-4)
    np.testing.assert_allclose(same_loss, loss, rtol=1e-4)  # it is in units, too
    assert np.ptp(one) > 0.1, "the items are told apart"


@pytest.mark.slow
def test_without_the_unit_they_are_not():
    """The control: as if ratings of the second log were on the scale of the first."""
    _, one = played(log(1.0), "absolute")
    _, two = played(dataclasses.replace(log(2.0), scale=log(1.0).scale), "absolute")
    assert np.abs(two / (2.0 * one) - 1.0).max() > 1e-3


def test_the_unit_is_the_deviation_that_item_biases_leave():
    """Its square is the mean square, less the square of the mean, of the residuals by hand."""
    given = log(1.0)
    rows, table = given.split.train_rows, given.table
    left = table.label[rows] - given.mean - table.item_features.columns["bias"][table.item[rows]]
    assert given.scale**2 == pytest.approx(np.mean(left**2) - np.mean(left) ** 2, rel=1e-4)
    assert log(2.0).scale == pytest.approx(2.0 * given.scale, rel=1e-6)


def test_columns_without_a_unit_are_the_same_for_both():
    one, two = (log(f).table.item_features.columns for f in (1.0, 2.0))
    for name in ("factor", "content_factor", "bayes", "content_bayes", "count"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for name in item_ridge.IN_RATINGS:
        np.testing.assert_allclose(two[name], 2.0 * one[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_network_beside_it_is_in_units_too():
    """Without training, the network of A3 scores twice as high on ratings twice as high."""
    scores = []
    for factor in (1.0, 2.0):
        given = log(factor)
        model, (profile, support, _) = ridge_head.model(CONFIG, given), given.example
        params = model.init(jax.random.key(0), profile, support.inputs)
        scores.append(model.apply(params, profile, support.inputs))
    np.testing.assert_allclose(scores[1], 2.0 * scores[0], rtol=1e-4)
