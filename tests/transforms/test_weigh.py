"""Weighed rows: a weight of 2 is a row twice, of 0 no row, of 1 the learner itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.models.towers import identity, vector_linear
from metajax.transforms.weigh import weighed
from metajax.types import Examples

KEY = jax.random.key(0)
WORLD = LatentUsers(dim=3, num_support=6, num_query=5)
EPISODE = WORLD.sample(KEY)
PLAIN = ridge(identity(), vector_linear(), WORLD.dim)
PARAMS = PLAIN.init(KEY, EPISODE)


def marked(examples: Examples, weight: list[float]) -> Examples:
    """The examples with the weight of each row as a further input."""
    return examples._replace(inputs={"x": examples.inputs, "weight": jnp.asarray(weight)})


def of_x(learner):
    """The learner that reads the inputs called x."""
    inner = lambda e: e._replace(inputs=e.inputs["x"])
    return learner._replace(
        adapt=lambda p, s, e, k: learner.adapt(p, s, inner(e), k),
        predict=lambda p, s, x: learner.predict(p, s, x["x"]),
        loss=lambda p, e, k: learner.loss(
            p, e._replace(support=inner(e.support), query=inner(e.query)), k
        ),
    )


def predictions(support: Examples) -> np.ndarray:
    learner = weighed(of_x(PLAIN), lambda inputs: inputs["weight"])
    state = learner.adapt(PARAMS, learner.start(PARAMS, ()), support, KEY)
    return np.asarray(learner.predict(PARAMS, state, {"x": EPISODE.query.inputs}))


def test_a_weight_of_two_is_a_row_twice_and_of_zero_no_row():
    by_weight = predictions(marked(EPISODE.support, [2.0, 0.0, 1.0, 1.0, 1.0, 1.0]))
    rows = jnp.array([0, 0, 2, 3, 4, 5])
    twice = jax.tree.map(lambda x: x[rows], EPISODE.support)
    np.testing.assert_allclose(by_weight, predictions(marked(twice, [1.0] * 6)), atol=1e-5)


@pytest.mark.parametrize(("support", "query"), [(True, False), (False, True), (True, True)])
def test_equal_weights_of_one_change_nothing(support, query):
    learner = weighed(of_x(PLAIN), lambda inputs: inputs["weight"], support=support, query=query)
    episode = EPISODE._replace(
        support=marked(EPISODE.support, [1.0] * 6), query=marked(EPISODE.query, [1.0] * 5)
    )
    got, _ = learner.loss(PARAMS, episode, KEY)
    np.testing.assert_allclose(got, PLAIN.loss(PARAMS, EPISODE, KEY)[0], rtol=1e-6)


def test_the_outer_loss_is_the_weighed_mean():
    """Four times the weight on one row of two: four fifths of the loss."""
    learner = weighed(of_x(PLAIN), lambda inputs: inputs["weight"], support=False)
    query = jax.tree.map(lambda x: x[:2], EPISODE.query)
    episode = EPISODE._replace(
        support=marked(EPISODE.support, [1.0] * 6), query=marked(query, [1.6, 0.4])
    )
    state = PLAIN.adapt(PARAMS, PLAIN.start(PARAMS, ()), EPISODE.support, KEY)
    error = (PLAIN.predict(PARAMS, state, query.inputs) - query.label) ** 2
    got, _ = learner.loss(PARAMS, episode, KEY)
    np.testing.assert_allclose(got, 0.8 * error[0] + 0.2 * error[1], rtol=1e-5)
