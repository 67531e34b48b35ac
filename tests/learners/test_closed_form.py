"""Ridge regression as a learner, against numpy's normal equations and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from learner_rows import last_column, zero
from learners.test_gradient import in_double, slopes
from sklearn.linear_model import Ridge

from metajax.learners.closed_form import ridge
from metajax.models.towers import identity, vector_linear, vector_mlp
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
D = 3


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def rows(seed: int, count: int, num_padding: int = 0) -> Examples:
    """Random examples with garbage in their padding."""
    rng = np.random.default_rng(seed)
    n = count + num_padding
    mask = np.r_[np.ones(count), np.zeros(num_padding)]
    return Examples(rng.normal(size=(n, D)), rng.normal(size=n), mask)


def prior() -> dict:
    """Meta-parameters of a ridge on raw inputs with a linear offset."""
    return {
        "embed": {},
        "offset": {"head": {"kernel": np.array([0.2, -0.1, 0.4])}},
        "mean": np.array([0.5, -1.0, 0.25]),
        "log_precision": np.log([0.3, 2.0, 1.0]),
    }


LEARNER = compiled(ridge(identity(), vector_linear(), D))


def test_predictions_are_those_of_the_normal_equations():
    support, query = rows(1, 5, num_padding=3), rows(2, 4)
    x, y = support.inputs[:5], support.label[:5]
    offset, mean, precision = np.array([0.2, -0.1, 0.4]), [0.5, -1.0, 0.25], [0.3, 2.0, 1.0]
    # minimize ||y - x offset - x w||^2 + sum_d precision_d (w_d - mean_d)^2
    penalty = np.diag(precision)
    w = np.linalg.inv(x.T @ x + penalty) @ (x.T @ (y - x @ offset) + penalty @ mean)
    state = LEARNER.adapt(prior(), LEARNER.start(prior(), ()), support, KEY)
    expected = query.inputs @ (offset + w)
    np.testing.assert_allclose(LEARNER.predict(prior(), state, query.inputs), expected, rtol=1e-12)


def test_it_is_scikit_learns_ridge_from_zero():
    learner = compiled(ridge(identity(), zero(), D, precision=0.7))
    support, query = rows(3, 6), rows(4, 5)
    episode = Episode((), support, query)
    params = learner.init(KEY, episode)
    state = learner.adapt(params, learner.start(params, ()), support, KEY)
    fitted = Ridge(alpha=0.7, fit_intercept=False).fit(support.inputs, support.label)
    expected = fitted.predict(query.inputs)
    np.testing.assert_allclose(learner.predict(params, state, query.inputs), expected, rtol=1e-10)


def test_adapting_twice_is_adapting_once_on_both_sets():
    first, second = rows(5, 4, num_padding=2), rows(6, 3)
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    start = LEARNER.start(prior(), ())
    twice = LEARNER.adapt(prior(), LEARNER.adapt(prior(), start, first, KEY), second, KEY)
    once = LEARNER.adapt(prior(), start, both, KEY)
    for name in ("gram", "moment"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-12)


def test_the_cold_start_is_the_prior_mean():
    query = rows(7, 4)
    scores = LEARNER.predict(prior(), LEARNER.start(prior(), ()), query.inputs)
    expected = query.inputs @ np.array([0.2 + 0.5, -0.1 - 1.0, 0.4 + 0.25])
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_on_a_constant_it_is_the_damped_user_bias():
    """``b_u = sum of residuals / (n + penalty)``: residuals 1, 2, 4 and penalty 5 give 7/8."""
    learner = compiled(ridge(last_column(), zero(), 1, precision=5.0))
    support = Examples(np.ones((4, 1)), np.array([1.0, 2.0, 4.0, 1e6]), np.array([1.0, 1, 1, 0]))
    params = learner.init(KEY, Episode((), support, support))
    state = learner.adapt(params, learner.start(params, ()), support, KEY)
    np.testing.assert_allclose(learner.predict(params, state, np.ones((2, 1))), 7 / 8, rtol=1e-12)


def features() -> Model:
    """Smooth learned features (N, D) of the inputs."""
    return Model(
        init=lambda key, profile, x: {"kernel": 0.8 * jax.random.normal(key, (x.shape[-1], D))},
        apply=lambda params, profile, x: jnp.sin(x @ params["kernel"]),
    )


def test_the_meta_gradient_through_the_solution_matches_finite_differences():
    """Of features, offset, prior mean and precision at once."""
    learner = ridge(features(), vector_mlp((4,)), D, precision=0.5)
    by_gradient, by_differences = slopes(learner)
    np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-6, atol=1e-7)


def test_a_detached_solution_fails_the_finite_differences():
    learner = ridge(features(), vector_mlp((4,)), D, precision=0.5)

    def loss(params, episode, key):
        state = learner.adapt(params, learner.start(params, ()), episode.support, key)
        state = state._replace(gram=jax.lax.stop_gradient(state.gram))
        scores = learner.predict(params, state, episode.query.inputs)
        return jnp.mean((scores - episode.query.label) ** 2), {}

    assert not np.allclose(*slopes(learner._replace(loss=loss)), rtol=1e-6, atol=1e-7)


def test_the_posterior_is_the_bayes_rule_in_one_dimension():
    """Prior N(m, 1/3) and four observations of unit noise and mean 2: (3 m + 8) / 7."""
    learner = compiled(ridge(last_column(), zero(), 1))
    support = Examples(np.ones((4, 1)), np.array([1.0, 3.0, 2.0, 2.0]), np.ones(4))
    params = in_double(learner.init(KEY, Episode((), support, support)))
    params = params | {"mean": np.array([0.5]), "log_precision": np.log([3.0])}
    state = learner.adapt(params, learner.start(params, ()), support, KEY)
    expected = (3 * 0.5 + 8) / 7
    np.testing.assert_allclose(
        learner.predict(params, state, np.ones((1, 1))), expected, rtol=1e-12
    )
