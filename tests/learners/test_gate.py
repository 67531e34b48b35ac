"""Ensembles: shares, out-of-fold errors and stacks by hand and by scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled
from sklearn.linear_model import Ridge

from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.learners.ensemble import (
    averaged,
    blended,
    error_and_support_size,
    gated,
    out_of_fold_errors,
    stacked,
    stacking_weights,
)
from metajax.learners.pooled import pooled
from metajax.models.towers import identity
from metajax.training import loop
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
WORLD = LatentUsers(dim=4, tau=1.0, num_support=16, num_query=8, random_shots=True)


def zero() -> Model:
    """A model that scores 0."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, x: jnp.zeros(len(x)))


def known_mean() -> Model:
    """The content model: the score of the average user, right but not personal."""
    return Model(lambda k, p, x: {}, lambda params, p, x: x @ WORLD.mean_weights)


def bases():
    """Matrix factorization's part, ridge from 0, and the content model."""
    return [ridge(identity(), zero(), 4, precision=0.3), pooled(known_mean())]


def constant(score: float):
    """A learner that always says the same."""
    model = Model(lambda k, p, x: {}, lambda params, p, x: score * jnp.ones(len(x)))
    return pooled(model)


def label_mean():
    """A learner that says the mean label of its support."""
    return ridge(
        Model(lambda k, p, x: {}, lambda params, p, x: jnp.ones((len(x), 1))),
        zero(),
        1,
        precision=1e-6,
    )


def test_the_average_and_the_stack_by_hand():
    episode = jax.jit(WORLD.sample)(KEY)
    learners = [constant(1.0), constant(3.0)]
    for learner in (compiled(averaged(learners)), compiled(stacked(learners))):
        params = learner.init(KEY, episode)
        state = learner.adapt(params, learner.start(params, ()), episode.support, KEY)
        np.testing.assert_allclose(learner.predict(params, state, episode.query.inputs), 2.0)
    params["weigher"]["share"] = np.array([2.0, -0.5])
    state = learner.start(params, ())
    np.testing.assert_allclose(learner.predict(params, state, episode.query.inputs), 0.5)


def test_out_of_fold_errors_by_hand():
    """Labels 1, 2, 3, 6 in folds (1, 3) and (2, 6): means 4 and 2 of the other fold."""
    x = np.zeros((5, 1))
    examples = Examples(x, np.array([1.0, 2.0, 3.0, 6.0, 99.0]), np.array([1.0, 1, 1, 1, 0]))
    learner = compiled(label_mean())
    params = learner.init(KEY, Episode((), examples, examples))
    states = [learner.start(params, ())]
    errors = lambda e, **folds: out_of_fold_errors([learner], [params], states, e, KEY, **folds)
    np.testing.assert_allclose(jax.jit(errors)(examples), [3 + 0 + 1 + 4], rtol=1e-4)
    inside = jax.jit(lambda e: errors(e, num_folds=1))(examples)
    np.testing.assert_allclose(inside, [2 + 1 + 0 + 3], rtol=1e-4)


def test_in_fold_errors_flatter_whoever_overfits():
    """Control: ridge with hardly any penalty interpolates three rows, and misses new ones."""
    world = LatentUsers(dim=4, num_support=3, num_query=8)
    learner = ridge(identity(), zero(), 4, precision=1e-4)
    episodes = jax.device_get(jax.jit(jax.vmap(world.sample))(jax.random.split(KEY, 50)))
    params = learner.init(KEY, jax.tree.map(lambda x: x[0], episodes))
    state = learner.start(params, ())

    def mean(folds: int) -> float:
        one = lambda e: out_of_fold_errors([learner], [params], [state], e.support, KEY, folds)
        return float(jax.jit(jax.vmap(one))(episodes).mean())

    assert mean(1) < 0.05 and mean(2) > 1.0


def test_the_gate_in_numpy():
    learner = compiled(gated([constant(1.0), label_mean()]))
    x = np.zeros((4, 1))
    support = Examples(x, np.array([2.0, 2.0, 5.0, 5.0]), np.ones(4))
    episode = Episode((), support, support)
    params = learner.init(KEY, episode)
    kernel = np.array([[0.3, 0.0], [0.0, -0.2], [0.1, 0.4]])
    params["weigher"] = {"kernel": kernel, "bias": np.array([0.0, 0.5])}
    state = learner.adapt(params, learner.start(params, ()), support, KEY)
    np.testing.assert_allclose(state.error, [1 + 1 + 4 + 4, 4 * 1.5], rtol=1e-4)
    z = np.array([10 / 4, 6 / 4, np.log(5.0)])
    logits = z @ kernel + [0.0, 0.5]
    share = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(learner.predict(params, state, x), share @ [1.0, 3.5], rtol=1e-4)
    cold = learner.predict(params, learner.start(params, ()), x)
    share = np.exp([0.0, 0.5]) / np.exp([0.0, 0.5]).sum()
    np.testing.assert_allclose(cold, share @ [1.0, 0.0] * np.ones(4), rtol=1e-4)


def fitted(learner, num_steps=150):
    """Parameters after meta-training the ensemble in the world."""
    sample = loop.world_sampler(WORLD, 32)
    tx = optax.adam(0.05)
    return loop.fit(
        loop.recipe(learner, tx), sample, (), jax.random.split(KEY, 1), num_steps, block=num_steps
    ).params


def query_losses(learner, params, episodes) -> np.ndarray:
    one = jax.tree.map(lambda x: x[0], params)
    return np.asarray(jax.jit(jax.vmap(lambda e: learner.loss(one, e, KEY)[0]))(episodes))


@pytest.mark.slow
def test_the_gate_moves_to_the_personal_model_as_shots_grow_and_beats_both():
    """At 0 shots ridge from 0 knows nothing; at 16 it knows the user."""
    learner = gated(bases())
    params = fitted(learner)
    episodes = jax.vmap(WORLD.sample)(jax.random.split(jax.random.key(9), 1500))
    own = query_losses(learner, params, episodes)
    for index in (0, 1):
        (alone,) = (averaged([bases()[index]]),)
        single = {"bases": [params["bases"][index]], "weigher": ()}
        gap = query_losses(alone, single, episodes) - own
        assert gap.mean() > 3 * gap.std() / len(gap) ** 0.5
    even = query_losses(averaged(bases()), {**params, "weigher": ()}, episodes) - own
    assert even.mean() > 3 * even.std() / len(even) ** 0.5
    one = jax.tree.map(lambda x: x[0], params)
    personal = np.asarray(jax.vmap(lambda e: learner.loss(one, e, KEY)[1]["share_0"])(episodes))
    shots = np.asarray(episodes.support.mask.sum(axis=1))
    by_shots = [personal[shots <= 2].mean(), personal[abs(shots - 8) <= 1].mean()]
    by_shots.append(personal[shots >= 14].mean())
    assert by_shots[0] < by_shots[1] - 0.1 and by_shots[1] < by_shots[2] - 0.02


def test_a_gate_that_sees_nothing_cannot_move():
    """Control: with the evidence blanked the shares are those of every task."""
    blank = lambda profile, error, weight: 0.0 * error_and_support_size(profile, error, weight)
    learner = gated(bases(), evidence=blank)
    episodes = jax.device_get(jax.jit(jax.vmap(WORLD.sample))(jax.random.split(KEY, 20)))
    params = learner.init(KEY, jax.tree.map(lambda x: x[0], episodes))
    kernel = np.asarray(params["weigher"]["kernel"])
    params["weigher"]["kernel"] = kernel + np.array([[1.0, -1.0]])
    share = jax.jit(jax.vmap(lambda e: learner.loss(params, e, KEY)[1]["share_0"]))(episodes)
    np.testing.assert_allclose(share, 0.5, atol=1e-6)


def test_stacking_weights_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    mask = (np.arange(40) < 30).astype(float)
    weights = jax.jit(stacking_weights)
    got = weights(x, y, mask, penalty=2.0)
    model = Ridge(alpha=2.0, fit_intercept=False).fit(x[:30], y[:30] - x[:30].mean(axis=1))
    np.testing.assert_allclose(got, 1 / 3 + model.coef_, rtol=1e-3, atol=1e-5)
    assert float(weights(x, y, 0 * mask)[0]) == pytest.approx(1 / 3)


def test_a_blend_follows_the_number_of_examples_and_teaches_its_bases_by_their_own_losses():
    """Shares and loss by hand, at 0 and at 3 examples, of two learners that say constants."""
    learner = compiled(blended([constant(1.0), constant(3.0)]))
    x, mask = np.zeros((3, 4)), np.ones(3)
    support = Examples(x, np.full(3, 2.0), mask)
    task = Episode((), support, Examples(x[:1], np.ones(1), mask[:1]))
    params = learner.init(KEY, task)
    params["weigher"] = {"level": np.array([0.05, 0.0]), "slope": np.array([-0.1, 0.1])}
    state = learner.start(params, ())
    first = 1 / (1 + np.exp(-0.5))
    assert float(learner.predict(params, state, x)[0]) == pytest.approx(3 - 2 * first, rel=1e-5)
    state = learner.adapt(params, state, support, KEY)
    share = 1 / (1 + np.exp(-0.5 + 2 * np.log(4.0)))
    blend = 3 - 2 * share
    assert float(learner.predict(params, state, x)[0]) == pytest.approx(blend, rel=1e-5)
    own = [(3 * 1.0 + 0.0) / 4, (3 * 1.0 + 4.0) / 4]  # joint training: support and query together
    expected = ((blend - 1) ** 2 + sum(own)) / 3
    assert float(learner.loss(params, task, KEY)[0]) == pytest.approx(expected, rel=1e-5)
