"""MAMO: what is read, what is written, and by which rate, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from compiled import compiled

from metajax import tree
from metajax.learners.cold_start.mamo import attention, mamo, memory_optimizer, read, write_loss
from metajax.types import Episode, Examples, Model

KEY = jax.random.key(0)
X = np.random.default_rng(1).normal(size=(5, 2))
EXAMPLES = Examples(X, X[:, 0] - 0.5, np.ones(5))
EPISODE = Episode(np.array([1.0, -1.0]), EXAMPLES, EXAMPLES)


def scaled() -> Model:
    """Features ``x * s``, with the personal parameter s."""
    init = lambda key, profile, inputs: {"s": jnp.array([1.0, 2.0])}
    return Model(init, lambda params, profile, x: x * params["s"][None, :])


def summed() -> Model:
    """The score is ``w . x``."""
    init = lambda key, profile, inputs: {"w": jnp.array([0.5, -0.5])}
    return Model(init, lambda params, profile, x: x @ params["w"])


def described() -> Model:
    """The profile itself, scaled."""
    init = lambda key, profile, inputs: {"scale": jnp.array([1.0, 0.5])}
    return Model(init, lambda params, profile, inputs: profile * params["scale"])


def learner_of(**settings):
    return mamo(
        scaled(),
        summed(),
        described(),
        optax.sgd(0.1),
        1,
        num_features=2,
        num_description=2,
        **settings,
    )


def test_attention_in_numpy():
    keys, description = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), np.array([5.0, 0.0])
    kernel = 2.0 * np.eye(3)
    expected = np.exp([2.0, 0.0, -2.0]) / np.exp([2.0, 0.0, -2.0]).sum()
    found = jax.jit(attention)(description, keys, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_task_starts_from_what_the_memories_hold():
    learner = compiled(learner_of(shift=0.1))
    params = learner.init(KEY, EPISODE)
    memory = params["memory"]
    memory["gradient"] = {"s": np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])}
    description = np.array([1.0, -0.5])
    keys = np.asarray(memory["profile"])
    cosine = keys @ description / (np.linalg.norm(keys, axis=1) * np.linalg.norm(description))
    logits = cosine @ np.asarray(params["attention"])
    weight = np.exp(logits) / np.exp(logits).sum()
    state = learner.start(params, EPISODE.profile)
    remembered = weight @ np.asarray(memory["gradient"]["s"])
    np.testing.assert_allclose(state.fast["body"]["s"], [1, 2] - 0.1 * remembered, rtol=1e-4)
    mix = np.einsum("m,mij->ij", weight, np.asarray(memory["task"]))
    np.testing.assert_allclose(state.fast["mix"], mix, rtol=1e-4)
    expected = (X * np.asarray(state.fast["body"]["s"]) @ mix.T) @ [0.5, -0.5]
    np.testing.assert_allclose(learner.predict(params, state, X), expected, rtol=1e-4, atol=1e-6)


def test_a_surrogate_step_is_the_published_write():
    """M <- (1 - a) M + a (weight (x) value), here with the rate a = 0.25."""
    weight, value, memory = np.array([0.2, 0.8]), np.array([1.0, 3.0]), np.ones((2, 2))
    step = np.asarray(jax.jit(jax.grad(lambda m: write_loss(weight, value, m)))(memory))
    expected = 0.75 + 0.25 * np.array([[0.2, 0.6], [0.8, 2.4]])
    np.testing.assert_allclose(memory - 0.25 * step, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(read)(weight, {"m": memory})["m"], [1.0, 1.0])


def test_memories_get_their_writes_at_their_rates_and_the_rest_its_gradient():
    learner = compiled(learner_of())
    params = jax.device_get(learner.init(KEY, EPISODE))
    tx = memory_optimizer(optax.sgd(0.3), profile_rate=0.5, gradient_rate=0.05, task_rate=0.1)
    grads, info = jax.jit(jax.grad(learner.loss, has_aux=True))(params, EPISODE, KEY)
    step = lambda p: optax.apply_updates(p, tx.update(grads, tx.init(p), p)[0])
    new = jax.jit(step)(params)
    weight = scipy.special.softmax(
        (params["memory"]["profile"] @ np.array([1.0, -0.5]))
        / (np.linalg.norm(params["memory"]["profile"], axis=1) * 1.25**0.5)
        @ params["attention"]
    )
    before = jax.device_get(learner.start(params, EPISODE.profile))
    after = jax.device_get(learner.adapt(params, before, EXAMPLES, KEY))
    old = params["memory"]
    outer = lambda value: np.multiply.outer(weight, value)
    kept = {
        "profile": 0.5 * old["profile"] + 0.5 * outer(np.array([1.0, -0.5])),
        "task": 0.9 * old["task"] + 0.1 * outer(after.fast["mix"]),
    }
    for name, expected in kept.items():
        np.testing.assert_allclose(new["memory"][name], expected, rtol=1e-4, atol=1e-6)
    moved = (before.fast["body"]["s"] - after.fast["body"]["s"]) / 0.1  # one step of rate 0.1
    expected = 0.05 * outer(moved)
    np.testing.assert_allclose(new["memory"]["gradient"]["s"], expected, rtol=1e-3, atol=1e-6)
    query_only = jax.jit(jax.grad(lambda p: learner.loss(p, EPISODE, KEY)[1]["query_loss"]))
    slope = np.asarray(query_only(params)["model"]["head"]["w"])
    expected = params["model"]["head"]["w"] - 0.3 * slope
    np.testing.assert_allclose(new["model"]["head"]["w"], expected, rtol=1e-4)
    assert float(info["write"]) > 0


def test_a_task_without_examples_writes_nothing():
    learner = compiled(learner_of())
    params = learner.init(KEY, EPISODE)
    empty = EPISODE._replace(support=EXAMPLES._replace(mask=np.zeros(5)))
    grads, info = jax.jit(jax.grad(learner.loss, has_aux=True))(params, empty, KEY)
    assert float(info["write"]) == 0.0
    assert float(tree.squared_norm(grads["memory"])) == 0.0


def test_two_reads_of_the_same_task_are_the_same():
    """Control for the published code, whose attention is drawn anew at every read."""
    learner = learner_of()
    params = jax.jit(learner.init)(KEY, EPISODE)
    first, second = (
        learner.predict(params, learner.start(params, EPISODE.profile), X) for _ in "ab"
    )
    np.testing.assert_array_equal(first, second)
    other = learner.predict(params, learner.start(params, np.array([-1.0, 1.0])), X)
    assert float(jnp.max(jnp.abs(other - first))) > 1e-4


def test_only_what_is_personal_starts_from_a_memory():
    learner = learner_of(personal=tree.nothing)
    params = jax.jit(learner.init)(KEY, EPISODE)
    assert not jax.tree.leaves(params["memory"]["gradient"])
    adapted = lambda p: learner.adapt(p, learner.start(p, EPISODE.profile), EXAMPLES, KEY)
    state = jax.jit(adapted)(params)
    assert state.fast["body"]["s"] is None, "what is not personal stays among the parameters"
    mix, w = np.asarray(state.fast["mix"]), np.asarray(state.fast["head"]["w"])
    error = (X * [1.0, 2.0] @ mix.T) @ w - EXAMPLES.label  # [1, 2] are the body's parameters
    _, info = jax.jit(learner.loss)(params, EPISODE, KEY)
    assert float(info["query_loss"]) == pytest.approx(np.mean(error**2), rel=1e-4)
