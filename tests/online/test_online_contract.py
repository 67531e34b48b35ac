"""The contract battery of the streams: every learner and updater, and bugs that must fail it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import losses
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear
from metajax.online import anchor, buffers, check, drift, events, leaders, rows, updaters
from metajax.online.factorization import factorization, random_tables
from metajax.online.meta import meta
from metajax.online.prequential import Online, frozen, prequential, told_in
from metajax.online.recursive import recursive_ridge
from metajax.online.window import retrained
from metajax.types import MetaLearner

RNG = np.random.default_rng(0)
N = 26
LOG = events.Events(
    "small",
    RNG.integers(0, 5, N).astype(np.int32),
    RNG.integers(0, 6, N).astype(np.int32),
    RNG.normal(size=N).astype(np.float32),
    np.arange(N),
    5,
    6,
    np.zeros((6, 0), np.float32),
    (-3.0, 3.0),
)
TABLES = random_tables(jax.random.key(1), 5, 6, 3)
X = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
EVENT_ROWS = {
    "OGD": factorization(rows.ogd(0.1), TABLES, 0.1),
    "AdaGrad": factorization(rows.adagrad(0.1), TABLES, 0.1),
    "FTRL": factorization(rows.ftrl(0.1, l1=1e-3, l2=0.1), TABLES, 0.1),
    "logistic": factorization(rows.adagrad(0.1), TABLES, 0.1, link=jax.nn.sigmoid),
    "recursive ridge": recursive_ridge(
        5, lambda item: X[item], jnp.zeros(3), jnp.ones(3), forgetting=0.9
    ),
    "window": retrained(factorization(rows.ogd(0.1), TABLES, 0.1), 8, 4, batch=3),
}

WORLD = drift.DriftStream(dim=3, walk=0.1, jump=0.2, num_support=2, num_query=2)
STREAM = WORLD.stream(jax.random.key(0), 10).rounds
TASK = jax.tree.map(lambda x: x[0, 0], STREAM.told.tasks)
MAML = gradient(vector_linear(), optax.sgd(0.1), 1)


def tiny(joint: bool = False) -> MetaLearner:
    """One step of a linear model by hand, which compiles fast; ``joint``: without meta."""

    def init(key, episode):
        return {"model": {"w": jnp.zeros(3)}, "rates": {"w": jnp.full(3, 0.1)}}

    def start(params, profile):
        return params["model"]["w"]

    def adapt(params, state, examples, key):
        residual = (examples.label - examples.inputs @ state) * examples.mask
        slope = examples.inputs.T @ residual / jnp.maximum(examples.mask.sum(), 1)
        return state + jnp.maximum(params["rates"]["w"], 0.0) * slope

    def predict(params, state, inputs):
        return inputs @ state

    def loss(params, episode, key):
        state = start(params, ())
        state = state if joint else adapt(params, state, episode.support, key)
        query = episode.query
        value = losses.squared_error(predict(params, state, query.inputs), query.label, query.mask)
        return value, {"query_loss": value}

    return MetaLearner(init, start, adapt, predict, loss, num_gradients=1)


TINY, JOINT = tiny(), tiny(joint=True)
SGD, ADAM = optax.sgd(0.1), optax.adam(0.1)
ONES = jax.tree.map(jnp.ones_like, TINY.init(jax.random.key(0), TASK))
PULLED = optax.chain(SGD, anchor.decay_to(ONES, 0.1))
AVERAGED = optax.chain(SGD, anchor.average_with(ONES, 0.1))
UPDATERS = {
    "one outer step of MAML": (MAML, updaters.newest(MAML, SGD)),
    "pulled to an anchor": (TINY, updaters.newest(TINY, PULLED)),
    "averaged with a baseline": (TINY, updaters.newest(TINY, AVERAGED)),
    "everything": (JOINT, updaters.leader(JOINT, ADAM, buffers.reservoir(16), 2, 3)),
    "FTML": (TINY, updaters.leader(TINY, ADAM, buffers.reservoir(4), 2, 3)),
    "FTML, buffer of one": (TINY, updaters.leader(TINY, ADAM, buffers.newest(1), 1, 1)),
    "window": (TINY, updaters.retrained(TINY, ADAM, buffers.newest(5), 3, 4, 3)),
    "FORM": (TINY, leaders.regularized_leader(TINY, 0.1)),
    "MOML": (TINY, leaders.balanced(TINY, 1.0, 0.1, 2)),
    "La-MAML": (TINY, leaders.la_maml(TINY, 0.1)),
    "La-MAML, replay": (
        TINY,
        updaters.with_replay(leaders.la_maml(TINY, 0.1), buffers.reservoir(5), 2),
    ),
}


def on_tasks(name: str) -> Online:
    learner, updater = UPDATERS[name]
    return meta(learner, updater, learner.init(jax.random.key(0), TASK), TASK)


ROWS = {
    **{name: (online, events.rounds(LOG, 2)) for name, online in EVENT_ROWS.items()},
    "OGD, one by one": (EVENT_ROWS["OGD"], events.rounds(LOG, 1)),
    **{f"tasks: {name}": (on_tasks(name), STREAM) for name in UPDATERS},
    "tasks: Bayes tracker": (drift.tracker(WORLD, 4), STREAM),
}


LIKE_ANOTHER = {"averaged with a baseline", "everything", "FTML, buffer of one", "La-MAML, replay"}
"""Updaters put together of parts that the other rows have, too."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name[7:] in LIKE_ANOTHER else ())
        for name in ROWS
    ],
)
def test_the_contract_holds(name):
    check.everything(*ROWS[name])


@pytest.mark.parametrize("name", ["FTRL", "tasks: FTML"])
def test_a_frozen_learner_never_learns(name):
    online, rounds = ROWS[name]
    with pytest.raises(AssertionError, match="nothing that was told"):
        check.learning_shows(check.trial(frozen(online), rounds))
    state, _ = prequential(frozen(online), online.init(jax.random.key(0)), rounds)
    again = online.init(jax.random.key(0))
    assert all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(again)))


def test_learning_before_scoring_is_caught():
    def leaks(online, state, rounds):
        def step(state, one):
            state = online.learn(state, told_in(one))
            return state, online.predict(state, one.asked)

        return jax.lax.scan(step, state, rounds)

    for name in ("OGD", "tasks: FORM"):
        with pytest.raises(AssertionError, match="moved its scores"):
            check.time_is_respected(check.trial(*ROWS[name], leaks))


def test_planted_bugs_fail_the_property_that_names_them():
    ogd, rounds = ROWS["OGD"]
    unmasked = ogd._replace(
        learn=lambda state, told: ogd.learn(state, told._replace(mask=jnp.ones_like(told.mask)))
    )
    with pytest.raises(AssertionError, match="padding changed the state"):
        check.padding_is_invisible(check.trial(unmasked, rounds))
    with pytest.raises(AssertionError, match="padded row"):
        check.padded_rows_are_invisible(check.trial(unmasked, rounds))
    forgets = lambda online, state, rounds: prequential(
        online, online.init(jax.random.key(0)), rounds
    )
    with pytest.raises(AssertionError, match="interrupt"):
        check.resumed_is_uninterrupted(check.trial(ogd, rounds, forgets))
    backward = lambda online, state, rounds: jax.lax.scan(
        lambda s, one: (online.learn(s, told_in(one)), online.predict(s, one.asked)),
        state,
        rounds,
        reverse=True,
    )
    with pytest.raises(AssertionError, match="loop"):
        check.scan_is_loop(check.trial(ogd, rounds, backward))


def test_a_rate_of_zero_is_frozen_to_the_last_bit():
    rate = 0.0
    tables = factorization(rows.ogd(rate), TABLES, 0.1)
    adagrad = factorization(rows.adagrad(rate), TABLES, 0.1)
    still = meta(TINY, updaters.newest(TINY, optax.sgd(rate)), ONES, TASK)
    for online, rounds in (
        (tables, events.rounds(LOG, 2)),
        (adagrad, events.rounds(LOG, 1)),
        (still, STREAM),
    ):
        begin = online.init(jax.random.key(0))
        _, scores = prequential(online, begin, rounds)
        _, frozen_scores = prequential(frozen(online), begin, rounds)
        np.testing.assert_array_equal(np.asarray(scores), np.asarray(frozen_scores))
