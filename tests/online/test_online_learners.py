"""Event learners against independent oracles: an explicit minimum, normal equations, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from compiled import compiled

from metajax.online import factorization as mf
from metajax.online import rows
from metajax.online.factorization import Asked
from metajax.online.prequential import Answered, Online
from metajax.online.recursive import recursive_ridge
from metajax.online.window import retrained

GRADS = np.random.default_rng(0).normal(size=7)


def stepped(optimizer: rows.Rows, start: float, grads: np.ndarray) -> list[float]:
    """The weight of a table of one entry after each gradient."""
    optimizer = compiled(optimizer)
    slots = optimizer.init(np.full((1, 1), start))
    index, found = np.zeros(1, np.int32), []
    for g in grads:
        slots = optimizer.step(slots, index, np.full((1, 1), g))
        found.append(float(np.asarray(optimizer.read(slots, index))[0, 0]))
    return found


@pytest.mark.parametrize(("l1", "l2", "start"), [(0.0, 0.0, 0.5), (0.8, 0.3, 0.0)])
def test_ftrl_is_the_minimum_that_its_paper_states(l1, l2, start):
    """argmin g_{1:t} w + sum_s sigma_s / 2 (w - w_s)^2 + l1 |w| + l2 / 2 w^2, by search."""
    rate, beta = 0.3, 1.0
    weights, total, squares, terms = [], 0.0, 0.0, []
    now = start
    for g in GRADS:
        sigma = (np.sqrt(squares + g * g) - np.sqrt(squares)) / rate
        terms.append((sigma, now))
        total, squares = total + g, squares + g * g

        def objective(w: float, total=total, terms=tuple(terms)) -> float:
            near = sum(s / 2 * (w - at) ** 2 for s, at in terms)
            begin = beta / rate / 2 * (w - start) ** 2
            return total * w + near + begin + l1 * abs(w) + l2 / 2 * w * w

        now = scipy.optimize.minimize_scalar(
            objective, bounds=(-20, 20), method="bounded", options={"xatol": 1e-10}
        ).x
        weights.append(now)
    found = stepped(rows.ftrl(rate, beta, l1, l2), start, GRADS)
    np.testing.assert_allclose(found, weights, atol=2e-5)


def test_ftrl_begins_where_the_table_does():
    table = np.array([[0.3, -2.0]])
    for l1, l2 in ((0.0, 0.0), (0.5, 0.2)):
        optimizer = compiled(rows.ftrl(0.1, 1.0, l1, l2))
        found = optimizer.read(optimizer.init(table), np.zeros(1, np.int32))
        np.testing.assert_allclose(found, table, rtol=1e-5)


def test_adagrad_is_that_of_optax():
    tx = optax.adagrad(0.3, initial_accumulator_value=0.25, eps=1e-12)
    update = jax.jit(tx.update)
    w, want = np.full((1, 1), 0.5), []
    state = tx.init(w)
    for g in GRADS:
        updates, state = update(np.full((1, 1), g), state)
        w = w + np.asarray(updates)
        want.append(float(w[0, 0]))
    np.testing.assert_allclose(stepped(rows.adagrad(0.3, 0.25), 0.5, GRADS), want, rtol=1e-5)


def test_the_optimizers_are_those_of_river():
    river = pytest.importorskip("river.optim")
    peers = (
        (rows.adagrad(0.3, eps=1e-8), river.AdaGrad(0.3), 0.5),
        (rows.ftrl(0.3, 1.0, 0.4, 0.2), river.FTRLProximal(0.3, 1.0, 0.4, 0.2), 0.0),
        (rows.ogd(0.3), river.SGD(0.3), 0.5),
    )
    for ours, theirs, start in peers:
        weights, found = {"w": start}, stepped(ours, start, GRADS)
        for t, g in enumerate(GRADS):
            weights = theirs.step(weights, {"w": float(g)})
            if t + 1 < len(GRADS) and start == 0.0:
                continue  # river's FTRL tells a weight when it next steps
            if start != 0.0:
                np.testing.assert_allclose(found[t], weights["w"], rtol=1e-4)


def test_two_events_of_a_row_in_one_round_both_count():
    optimizer = compiled(rows.ogd(0.1))
    both = optimizer.step(np.ones((2, 1)), np.array([0, 0]), np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(both, [[1 - 0.3], [1.0]], rtol=1e-6)
    ada = compiled(rows.adagrad(1.0, eps=0.0))
    slots = ada.step(ada.init(np.ones((2, 1))), np.array([0, 0]), np.array([[3.0], [4.0]]))
    np.testing.assert_allclose(slots, [[1 - 7 / 5, 25.0], [1.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("optimizer", [rows.ogd(0.1), rows.adagrad(0.1, 0.1), rows.ftrl(0.1)])
def test_repeats_are_found_by_pairs_and_by_sorting_alike(optimizer, monkeypatch):
    rng = np.random.default_rng(0)
    index, grads = rng.integers(0, 5, 12), rng.normal(size=(12, 3))
    slots = np.asarray(jax.jit(optimizer.init)(np.ones((7, 3))))

    # a new function each time: `jit` would not see that FEW has changed
    step = lambda *args, **how: np.asarray(jax.jit(lambda *a: optimizer.step(*a, **how))(*args))
    pairs = step(slots, index, grads)
    monkeypatch.setattr(rows, "FEW", 0)
    np.testing.assert_allclose(step(slots, index, grads), pairs, rtol=1e-5)
    np.testing.assert_array_equal(pairs[5:], slots[5:])  # rows that nobody asked for
    alone = np.array([6, 2])
    apart = step(slots, alone, grads[:2], apart=True)
    np.testing.assert_allclose(apart, step(slots, alone, grads[:2]), rtol=1e-6)


def test_factorization_by_hand():
    """One event: mean 3, biases 0, p = (1, 2), q = (3, 1), label 10; the score is 8."""
    tables = jax.device_put(mf.Tables(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 3.0, 1.0]])))
    online = compiled(mf.factorization(rows.ogd(0.1), tables, 3.0, penalty=0.0))
    index = np.zeros(1, np.int32)
    state = online.init(jax.random.key(0))
    assert float(online.predict(state, Asked(index, index))[0]) == 8.0
    state = online.learn(state, Answered(Asked(index, index), np.array([10.0]), np.ones(1)))
    found = mf.learned(rows.ogd(0.1), state, 1)
    np.testing.assert_allclose(found.user, [[0.2, 1 + 0.6, 2 + 0.2]], rtol=1e-6)
    np.testing.assert_allclose(found.item, [[0.2, 3 + 0.2, 1 + 0.4]], rtol=1e-6)


@pytest.mark.parametrize("forgetting", [1.0, 0.8])
def test_recursive_ridge_solves_the_weighted_normal_equations(forgetting):
    rng = np.random.default_rng(1)
    x, y, who = rng.normal(size=(9, 3)), rng.normal(size=9), rng.integers(0, 2, 9)
    mean, precision = np.array([0.5, -1.0, 0.0]), np.array([1.0, 2.0, 0.5])
    online = recursive_ridge(
        2, lambda item: jnp.asarray(x, jnp.float32)[item], jax.device_put(mean),
        jax.device_put(precision), forgetting=forgetting,
    )  # fmt: skip
    told = Answered(Asked(who, np.arange(9)), y, np.ones(9))
    state = jax.jit(online.learn)(jax.jit(online.init)(jax.random.key(0)), told)
    state = jax.device_get(state)
    for group in (0, 1):
        own = np.flatnonzero(who == group)
        weight = forgetting ** np.arange(len(own))[::-1]
        prior = forgetting ** len(own) * np.diag(precision)
        normal = (x[own] * weight[:, None]).T @ x[own] + prior
        want = np.linalg.solve(normal, (x[own] * weight[:, None]).T @ y[own] + prior @ mean)
        np.testing.assert_allclose(state.mean[group], want, atol=1e-4)


def test_a_retrain_reads_the_window_from_the_oldest_and_then_serves():
    """A sum that halves at every round shows what was learned, and in which order."""
    fading = Online(
        lambda key: jnp.zeros(()),
        lambda state, asked: jnp.broadcast_to(state, asked.user.shape),
        lambda state, told: jnp.where(told.mask[0] > 0, state / 2 + told.label[0], state),
    )
    online = retrained(fading, size=3, every=4, passes=1, batch=1)
    state = online.init(jax.random.key(0))
    zero = np.zeros(1, np.int32)
    seen = []
    for label in (1.0, 2.0, 4.0, 8.0, 100.0):
        state = jax.jit(online.learn)(
            state, Answered(Asked(zero, zero), np.array([label]), np.ones(1))
        )
        seen.append(float(state.serving))
    assert seen == [0.0, 0.0, 0.0, (2 / 2 + 4) / 2 + 8, (2 / 2 + 4) / 2 + 8]
