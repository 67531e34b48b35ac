"""Training to order: what is added to the outer loss, and what it does not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learner_rows import zero

from metajax.data.worlds.latent import LatentUsers
from metajax.learners.closed_form import ridge
from metajax.models.towers import identity
from metajax.transforms.ordered import ordered

USERS = LatentUsers(dim=3, num_support=6, num_query=5)
LEARNER = ridge(identity(), zero(), USERS.dim)


def test_the_outer_loss_adds_the_pairs_of_the_adapted_query_and_the_task_stays_as_it_was():
    episode = USERS.sample(jax.random.key(0))
    params, key = LEARNER.init(jax.random.key(1), episode), jax.random.key(2)
    made = ordered(LEARNER, 0.5)

    @jax.jit
    def both(params):
        plain, ordering = LEARNER.loss(params, episode, key)[0], made.loss(params, episode, key)
        start = LEARNER.start(params, episode.profile)
        state = LEARNER.adapt(params, start, episode.support, key)
        return plain, ordering, LEARNER.predict(params, state, episode.query.inputs)

    plain, (value, info), score = both(params)
    label = np.asarray(episode.query.label)
    better = label[:, None] > label[None, :]
    margin = np.asarray(score)[:, None] - np.asarray(score)[None, :]
    pairs = np.log1p(np.exp(-margin[better])).mean()
    assert info["pairs"] == pytest.approx(pairs, rel=1e-5)
    assert value == pytest.approx(float(plain) + 0.5 * pairs, rel=1e-5)
    assert made._replace(loss=None) == LEARNER._replace(loss=None)


def test_the_gradient_of_the_pairs_runs_through_the_adaptation():
    """The precision of the prior acts on scores through ``adapt`` alone."""
    episode = USERS.sample(jax.random.key(0))
    params, key = LEARNER.init(jax.random.key(1), episode), jax.random.key(2)
    pairs = jax.jit(lambda p: ordered(LEARNER).loss(p, episode, key)[1]["pairs"])
    slope = jnp.sum(jax.jit(jax.grad(pairs))(params)["log_precision"])
    at = lambda shift: float(pairs({**params, "log_precision": params["log_precision"] + shift}))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((at(0.1) - at(-0.1)) / 0.2, rel=0.02)
