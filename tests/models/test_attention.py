"""Interactive attention: laws that hold by pencil, for every model and for each alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax import optim, tree
from metajax.data.worlds.interest import SharpOrFlat
from metajax.learners.history import reader
from metajax.models import attention
from metajax.models.attention import History
from metajax.types import Examples

RNG = np.random.default_rng(0)
HISTORY = History(RNG.normal(size=(5, 3)), RNG.normal(size=5), np.ones(5))
CANDIDATES = RNG.normal(size=(4, 3))
MODELS = {
    "din": compiled(attention.din(4, 6)),
    "autoint": compiled(attention.autoint(4, 2, 2)),
    "focused": compiled(attention.focused(4)),
    "solved": compiled(attention.solved(4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_order_and_padding_are_not_seen_and_each_candidate_is_scored_alone(name):
    model = MODELS[name]
    params = model.init(jax.random.key(1), HISTORY, CANDIDATES)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1, params)
    score = np.asarray(model.apply(params, HISTORY, CANDIDATES))
    assert score.shape == (4,) and np.ptp(score) > 1e-3
    order = np.array([4, 2, 0, 1, 3])
    np.testing.assert_allclose(
        model.apply(params, jax.tree.map(lambda x: x[order], HISTORY), CANDIDATES), score, atol=1e-5
    )
    junk = History(np.full((2, 3), 7.0), np.full(2, -9.0), np.zeros(2))
    padded = jax.tree.map(lambda a, b: np.concatenate([a, b]), HISTORY, junk)
    np.testing.assert_allclose(model.apply(params, padded, CANDIDATES), score, atol=1e-5)
    one = np.concatenate([CANDIDATES[:1]] * 4)
    np.testing.assert_allclose(
        model.apply(params, HISTORY, one), np.repeat(score[:1], 4), atol=1e-5
    )


def test_focused_attention_by_hand():
    """Queries and keys are the vectors: softmax (1, 0, nothing's 0) at tau 1, gate a half."""
    model = compiled(attention.focused(2))
    history = History(np.eye(2) * 2**0.5, np.array([1.0, -1.0]), np.ones(2))
    raw = float(np.log(np.expm1(1.0 - attention.SHARPEST)))
    params = {"query": np.eye(2), "key": np.eye(2), "nothing": 0.0, "damping": 0.0}
    params |= {"focus": {"temperature": raw, "gate": 0.0}}
    score_of = lambda params: np.asarray(model.apply(params, history, np.array([[1.0, 0.0]])))
    score = score_of(params)
    e = np.e
    assert score[0] == pytest.approx(0.5 * (e - 1) / (e + 2), rel=1e-5)  # the mean is 0
    assert float(attention.temperature(params["focus"])) == pytest.approx(1.0)
    sharp = params | {"focus": {"temperature": -9.0, "gate": 9.0}}
    assert score_of(sharp)[0] == pytest.approx(1.0, abs=1e-3)
    flat = params | {"focus": {"temperature": 1e4, "gate": 9.0}}
    assert abs(score_of(flat)[0]) < 1e-3


def test_din_does_not_normalize_its_weights():
    """Twice the history is twice the interest: with a linear head the score would double."""
    model = MODELS["din"]
    params = model.init(jax.random.key(1), HISTORY, CANDIDATES)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), HISTORY)
    once, double = (np.asarray(model.apply(params, h, CANDIDATES)) for h in (HISTORY, twice))
    assert np.abs(once - double).max() > 1e-3
    softmax = MODELS["focused"]
    params = softmax.init(jax.random.key(1), HISTORY, CANDIDATES)
    params |= {"nothing": -1e9, "damping": -1e9}
    once, double = (softmax.apply(params, h, CANDIDATES) for h in (HISTORY, twice))
    np.testing.assert_allclose(once, double, atol=1e-6)


def test_a_state_keeps_the_newest_ratings_and_adapts_by_leaving_each_out():
    """One step of gradient descent on the temperature, against finite differences."""
    model = compiled(attention.focused(2))
    adapts, rate = tree.under("focus/temperature"), 0.5
    learner = compiled(
        reader(model, 4, 2, adapts=adapts, inner=optim.fixed(optax.sgd(rate)), num_steps=1)
    )
    rows = Examples(RNG.normal(size=(5, 2)), np.arange(5.0), np.array([1.0, 1, 0, 1, 1]))
    params = {"model": model.init(jax.random.key(0), HISTORY, rows.inputs), "rates": ()}
    start = learner.start(params, ())
    key = jax.random.key(0)
    state = jax.device_get(learner.adapt(params, start, rows, key))
    assert state.history.label.tolist() == [0, 1, 3, 4]

    def left_out(raw: float) -> float:
        total = 0.0
        for i in range(4):
            others = state.history._replace(mask=state.history.mask * (np.arange(4) != i))
            theta = params["model"] | {"focus": params["model"]["focus"] | {"temperature": raw}}
            score = np.asarray(model.apply(theta, others, state.history.vector[i : i + 1]))[0]
            total += float((score - state.history.label[i]) ** 2) / 4
        return total

    slope = (left_out(1e-2) - left_out(-1e-2)) / 2e-2
    moved = float(state.fast["focus"]["temperature"])
    assert moved == pytest.approx(-rate * slope, rel=1e-2) and abs(moved) > 1e-4
    assert state.fast["focus"]["gate"] is None
    again = learner.adapt(params, state, jax.tree.map(lambda x: x[:2], rows), key)
    assert again.history.label.tolist() == [3, 4, 0, 1]


def test_solved_attention_by_hand_and_each_rating_from_the_others():
    """Two orthogonal items at tau 1: A = [[1 + l, 1/e], [1/e, 1 + l]]; by hand for the first."""
    model = compiled(attention.solved(2))
    raw = np.log(np.expm1(1.0 - attention.SHARPEST))
    noise = 0.5
    gate = np.log(np.expm1(noise - 1e-3))
    params = {"embed": np.eye(2), "focus": {"temperature": raw, "gate": gate}}
    history = History(np.eye(2), np.array([1.0, 0.0]), np.ones(2))
    near, own = 1 / np.e, 1 + noise
    score = np.asarray(model.apply(params, history, np.array([[2.0, 0.0]])))[0]
    assert score == pytest.approx((own - near**2) / (own**2 - near**2), rel=1e-5)
    left_out = jax.jit(attention.solved_left_out)
    left = left_out(params, history)
    np.testing.assert_allclose(left, [0.0, near / own], atol=1e-6)
    root = RNG.normal(size=(5, 5)).astype(np.float32)
    matrix = root @ root.T + np.eye(5, dtype=np.float32)
    inverse = np.asarray(jax.jit(attention._inverse)(matrix))
    np.testing.assert_allclose(inverse @ matrix, np.eye(5), atol=1e-4)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(root * attention._inverse(x))))(matrix)
    told = jax.jit(jax.grad(lambda x: jnp.sum(root * jnp.linalg.inv(x))))(matrix)
    np.testing.assert_allclose(slope, told, rtol=1e-3, atol=1e-4)
    padded = HISTORY._replace(mask=np.array([1.0, 1, 0, 1, 1]))
    solved = compiled(attention.solved(4))
    given = solved.init(jax.random.key(2), HISTORY, CANDIDATES)
    fast = np.asarray(left_out(given, padded))
    for i in (0, 1, 3, 4):
        others = padded._replace(mask=padded.mask * (np.arange(5) != i))
        one = np.asarray(solved.apply(given, others, HISTORY.vector[i : i + 1]))[0]
        assert fast[i] == pytest.approx(one, abs=1e-5)


def test_candidates_are_weighed_by_how_well_they_predict():
    """Of two temperatures, one predicts the others' ratings: with much precision it is taken."""
    grid = attention.temperatures(2)
    learner = reader(
        attention.solved(2), 6, 2, adapts=tree.under("focus"), candidates=grid,
        left_out=attention.solved_left_out,
    )  # fmt: skip
    learner = compiled(learner)
    angle = np.linspace(0.0, 1.0, 6)
    rows = Examples(np.stack([np.cos(angle), np.sin(angle)], 1), angle - 0.5, np.ones(6))
    model = compiled(attention.solved(2)).init(jax.random.key(0), HISTORY, rows.inputs)
    model |= {"embed": np.eye(2)}
    params = {"model": model, "rates": {"log_precision": jnp.float32(12.0)}}
    start = learner.start(params, ())
    state = learner.adapt(params, start, rows, jax.random.key(0))
    assert state.fast["focus"]["temperature"] == pytest.approx(
        1.5, abs=1e-3
    )  # smooth: the flat one
    assert state.fast["focus"]["gate"] == start.fast["focus"]["gate"]
    nothing = learner.adapt(params, start, rows._replace(mask=np.zeros(6)), jax.random.key(0))
    assert nothing.fast["focus"]["temperature"] == start.fast["focus"]["temperature"]


def test_sharp_users_follow_the_nearest_interest():
    """Near points agree for flat users; at tau 0 a rating is the liking of one interest."""
    sharp = SharpOrFlat(sharpest=1e-4, flattest=1.001e-4, sigma=0.0, num_interests=3)
    labels = np.asarray(jax.jit(sharp.sample)(jax.random.key(0)).support.label)
    assert len(np.unique(labels.round(3))) <= 3
    flat = SharpOrFlat(sharpest=1e3, flattest=1.001e3, sigma=0.0)
    task = jax.jit(flat.sample)(jax.random.key(0)).support  # first order: linear in the item
    fit = np.linalg.lstsq(np.c_[task.inputs, np.ones(40)], np.asarray(task.label), rcond=None)
    assert float(fit[1][0]) < 0.05 * 40
