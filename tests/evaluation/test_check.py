"""Ordinary mistakes in a learner each get one line that names the part at fault."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax import losses
from metajax.data.worlds.latent import LatentUsers
from metajax.evaluation.check import PROPERTIES, check
from metajax.learners.gradient.maml import gradient
from metajax.learners.parts import query_loss
from metajax.learners.pooled import all_examples, pooled
from metajax.models.towers import vector_linear
from metajax.types import Episode, MetaLearner, UserError

EPISODE = jax.jit(LatentUsers(dim=3, num_support=8, num_query=10).sample)(jax.random.key(3))
WIDTH = 3


def learner(**changes: Any) -> MetaLearner:
    """A learner that takes one gradient step of a linear model, with some parts changed.

    Its outer loss is made of the parts as they are then.
    """

    def init(key, episode):
        del episode
        return {"w": jax.random.normal(key, (WIDTH,))}

    def start(params, profile):
        del profile
        return jnp.zeros_like(params["w"])

    def adapt(params, state, examples, key):
        del key
        loss = lambda w: losses.squared_error(
            examples.inputs @ (params["w"] + w), examples.label, examples.mask
        )
        return state - 0.1 * jax.grad(loss)(state)

    def predict(params, state, inputs):
        return inputs @ (params["w"] + state)

    parts: dict[str, Any] = {
        "init": init,
        "start": start,
        "adapt": adapt,
        "predict": predict,
    } | changes
    if "loss" not in changes:
        parts["loss"] = query_loss(
            parts["start"], parts["adapt"], parts["predict"], losses.squared_error
        )
    return MetaLearner(**parts, num_gradients=1)


GOOD = learner()


def warm(params, episode, support=None, predict=GOOD.predict):
    """The scores of the query after adapting on the support, or on other examples."""
    state = GOOD.start(params, episode.profile)
    state = GOOD.adapt(params, state, support or episode.support, jax.random.key(0))
    return predict(params, state, episode.query.inputs)


def error_of(score, query):
    return losses.squared_error(score, query.label, query.mask)


def forgets_the_mask(params, state, examples, key):
    loss = lambda w: jnp.mean((examples.inputs @ (params["w"] + w) - examples.label) ** 2)
    return state - 0.1 * jax.grad(loss)(state)


def drifts(params, state, examples, key):
    return 0.9 * GOOD.adapt(params, state, examples, key) + 0.1


def normalized(params, state, examples, key):
    """Finite in value, and with a root at 0 in its gradient, where nothing is to be learned."""
    step = GOOD.adapt(params, state, examples, key) - state
    return state + jnp.where(jnp.any(examples.mask > 0), step / jnp.sqrt(jnp.sum(step**2)), 0.0)


MISTAKES = {
    "loss without its dict": (
        learner(loss=lambda p, e, key: error_of(warm(p, e), e.query)),
        r"`loss` gave a scalar alone, not \(scalar, info\)",
    ),
    "scores of shape (N, 1)": (
        learner(
            predict=lambda p, s, x: GOOD.predict(p, s, x)[:, None],
            loss=GOOD.loss,
        ),
        r"`predict` gave \(10, 1\), not \(10,\)",
    ),
    "scores with a batch axis": (
        learner(predict=lambda p, s, x: GOOD.predict(p, s, x)[None], loss=GOOD.loss),
        r"`predict` gave \(1, 10\), not \(10,\)",
    ),
    "one score for all rows": (
        learner(predict=lambda p, s, x: jnp.sum(GOOD.predict(p, s, x)), loss=GOOD.loss),
        r"`predict` gave \(\), not \(10,\)",
    ),
    "adapt returns nothing": (
        learner(adapt=lambda p, s, e, key: None, loss=GOOD.loss),
        "`adapt` gave None, not a state",
    ),
    "state of another structure": (
        learner(adapt=lambda p, s, e, key: (s, 0), loss=GOOD.loss),
        "`adapt` gave a state of another structure than `start`",
    ),
    "state of another shape": (
        learner(adapt=lambda p, s, e, key: s[:2], loss=GOOD.loss),
        r"`adapt` gave the state as float32\[2\], and `start` as float32\[3\]",
    ),
    "vector loss": (
        learner(loss=lambda p, e, key: ((warm(p, e) - e.query.label) ** 2, {})),
        r"`loss` gave \(10,\), not a scalar",
    ),
    "vector in the info": (
        learner(loss=lambda p, e, key: (error_of(warm(p, e), e.query), {"score": warm(p, e)})),
        r"`loss` gave \(10,\) as info\['score'\], not a scalar",
    ),
    "mask forgotten in adapt": (
        learner(adapt=forgets_the_mask),
        "`adapt` learns from rows whose mask is 0",
    ),
    "mask forgotten in loss": (
        learner(loss=lambda p, e, key: (jnp.mean((warm(p, e) - e.query.label) ** 2), {})),
        "`loss` counts rows whose mask is 0",
    ),
    "adapts on the query": (
        learner(
            loss=lambda p, e, key: (error_of(warm(p, e, e.query), e.query), {}),
        ),
        "`loss` adapts on the query's labels",
    ),
    "adapts on support and query": (
        learner(loss=lambda p, e, key: (error_of(warm(p, e, all_examples(e)), e.query), {})),
        "`loss` adapts on the query's labels",
    ),
    "NaN parameters": (
        learner(init=lambda key, e: {"w": jnp.full(WIDTH, jnp.nan)}),
        "`init` gave numbers that are not finite in w",
    ),
    "NaN scores": (
        learner(predict=lambda p, s, x: jnp.log(-jnp.abs(GOOD.predict(p, s, x)))),
        "`predict` gave numbers that are not finite",
    ),
    "NaN gradient of an empty support": (
        learner(adapt=normalized),
        "gradient of `loss` of a task whose support is empty is not finite",
    ),
    "an empty support moves": (
        learner(adapt=drifts),
        "`adapt` on examples that are all masked changes what `predict` gives",
    ),
    "parameters in the state": (
        learner(
            start=lambda p, profile: (p["w"], p["w"]),
            adapt=lambda p, s, e, key: (GOOD.adapt({"w": 0.0}, s[0], e, key), s[1]),
            predict=lambda p, s, x: x @ s[0],
        ),
        r"`start` puts shared parameters into the state \(1\)",
    ),
    "a detached loss": (
        learner(loss=lambda p, e, key: (error_of(jax.lax.stop_gradient(warm(p, e)), e.query), {})),
        "no gradient of `loss` reaches any parameter",
    ),
    "integer parameters": (
        learner(init=lambda key, e: {"w": jnp.ones(WIDTH, jnp.int32)}),
        "`init` gave the parameter w of type int32",
    ),
    "a number read on the host": (
        learner(predict=lambda p, s, x: x @ p["w"] * float(s[0])),
        "`predict` asks for the value of an array",
    ),
    "a wrong argument list": (
        learner(adapt=lambda p, s, e: s, loss=GOOD.loss),
        "`adapt` fails: TypeError",
    ),
    "a column that is not there": (
        learner(start=lambda p, profile: profile["age"]),
        "`start` fails: TypeError",
    ),
    "no function": (GOOD._replace(predict=None), "`predict` is a NoneType, not a function"),
    "no learner": (vector_linear(), "a learner is a metajax.MetaLearner, not a Model"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_that_names_its_part(mistake):
    faulty, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as told:
        check(faulty, EPISODE)
    assert "\n" not in str(told.value)


def test_a_batch_of_tasks_is_refused():
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), EPISODE)
    with pytest.raises(UserError, match=r"episode.support.label is \(2, 8\), not \(N,\)"):
        check(GOOD, batch)


def test_rows_that_do_not_match_are_refused():
    support = EPISODE.support._replace(mask=jnp.ones(5))
    with pytest.raises(UserError, match=r"episode.support.mask is \(5,\), and its label \(8,\)"):
        check(GOOD, EPISODE._replace(support=support))
    support = EPISODE.support._replace(inputs=jnp.ones((4, WIDTH)))
    with pytest.raises(UserError, match=r"episode.support.inputs is \(4, 3\), and its label \(8,"):
        check(GOOD, EPISODE._replace(support=support))


def test_learners_that_keep_the_contract_pass():
    numpy_episode = jax.tree.map(np.asarray, EPISODE)
    maml = gradient(vector_linear(), optax.sgd(0.1), 2)
    for good in (GOOD, maml, pooled(vector_linear())):
        metajax.check(good, numpy_episode)


def test_a_weakly_typed_constant_is_no_mistake():
    """A Python number among the state's arrays is an array, wherever it comes from."""
    counting = learner(
        start=lambda p, profile: (jnp.zeros(WIDTH), jnp.zeros(())),
        adapt=lambda p, s, e, key: (GOOD.adapt(p, s[0], e, key), 1.0),
        predict=lambda p, s, x: GOOD.predict(p, s[0], x),
    )
    check(counting, EPISODE)


def test_the_quick_check_takes_seconds_and_finds_what_spoils_a_training():
    began = time.process_time()
    check(gradient(vector_linear(), optax.sgd(0.1), 2), EPISODE, quick=True)
    assert time.process_time() - began < 10.0
    with pytest.raises(UserError, match="whose mask is 0"):
        check(learner(adapt=forgets_the_mask), EPISODE, quick=True)


def test_every_property_says_what_it_holds():
    assert all(holds.__doc__ for holds in PROPERTIES)
    assert isinstance(EPISODE, Episode)
