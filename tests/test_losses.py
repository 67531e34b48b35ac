"""Losses equal pencil arithmetic; padding is invisible, empty tasks are harmless."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from metajax import losses

LN2, LN3 = math.log(2), math.log(3)
ORDINAL = losses.ordinal((0.0, 1.0, 2.0))
LOSSES = [
    losses.squared_error,
    losses.absolute_error,
    losses.huber,
    losses.log_loss,
    ORDINAL,
    losses.bpr,
    losses.softmax,
]
compiled_loss = functools.cache(jax.jit)
differentiated = functools.cache(lambda loss: jax.jit(jax.value_and_grad(loss)))
each = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)

# One case per loss: two or three real rows, then one row of padding that must not count.
BY_HAND = [
    (losses.squared_error, [1, 2, 0, 9], [3, 2, 1, 0], (4 + 0 + 1) / 3),
    (losses.absolute_error, [1, 2, 0, 9], [3, 2, 1, 0], (2 + 0 + 1) / 3),
    (losses.huber, [1, 2, 0, 9], [3, 2, 1, 0], (1.5 + 0 + 0.5) / 3),
    # sigmoid(ln 3) = 3/4: -ln 1/2, -ln 1/4, -ln 3/4.
    (losses.log_loss, [0, LN3, LN3, 9], [1, 0, 1, 1], (LN2 + 2 * LN2 + math.log(4 / 3)) / 3),
    # The cuts are 1/2 and 3/2: sigmoid(0), 1 - sigmoid(ln 3), sigmoid(1/2) - sigmoid(-1/2).
    (ORDINAL, [0.5, 0.5 + LN3, 1, 9], [0, 0, 1, 2], (3 * LN2 - math.log(math.tanh(0.25))) / 3),
    # The pairs of the first row with the others; margins ln 3 and 0.
    (losses.bpr, [LN3, 0, LN3, 9], [2, 1, 1, 0], (math.log(4 / 3) + LN2) / 2),
    # Probabilities 1/6, 2/6, 3/6; label shares 1/4, 3/4, 0.
    (losses.softmax, [0, LN2, LN3, 9], [1, 3, 0, 5], (math.log(6) + 3 * LN3) / 4),
]


@pytest.mark.parametrize(
    ("loss", "score", "label", "expected"), BY_HAND, ids=[case[0].__name__ for case in BY_HAND]
)
def test_by_hand(loss, score, label, expected):
    score, label = np.array(score, float), np.array(label, float)
    found = compiled_loss(loss)(score, label, np.array([1.0, 1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_probabilities_of_all_levels_sum_to_one_and_the_nearest_is_likeliest():
    levels = np.array([1.0, 2.0, 3.0, 4.5])
    of = losses.ordinal(levels.tolist(), 0.4)
    of_one = lambda score, label: of(score[None], label[None], jnp.ones(1))
    each_level = jax.jit(jax.vmap(of_one, (None, 0)))
    for score, nearest in ((-50.0, 0), (1.9, 1), (3.2, 2), (60.0, 3)):
        chance = np.exp(-np.asarray(each_level(score, levels)))
        assert chance.sum() == pytest.approx(1.0, abs=1e-6) and chance.argmax() == nearest


def test_every_loss_has_a_case_by_hand():
    assert [case[0] for case in BY_HAND] == LOSSES


@each
def test_an_empty_task_has_loss_and_gradient_zero(loss):
    score, label = np.array([3.0, -1.0, 1e4]), np.array([1.0, 0.0, 1.0])
    value, gradient = differentiated(loss)(score, label, np.zeros(3))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@each
def test_a_task_without_rows_at_all_has_loss_zero(loss):
    assert float(compiled_loss(loss)(np.zeros(0), np.zeros(0), np.zeros(0))) == 0.0


@pytest.mark.parametrize("loss", [losses.bpr])
def test_a_pairwise_loss_without_a_preference_is_zero(loss):
    value, gradient = differentiated(loss)(np.array([1.0, 5.0]), np.ones(2), np.ones(2))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(2))


def test_a_listwise_loss_without_a_click_is_zero():
    value, gradient = differentiated(losses.softmax)(np.arange(3.0), np.zeros(3), np.ones(3))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@each
def test_padding_is_invisible(loss):
    """Wherever the padding stands and whatever it holds, value and gradient stay the same."""
    score, label = np.array([0.3, -1.2, 0.8]), np.array([1.0, 0.0, 0.0])
    real = np.array([1, 3, 4])
    padded = [np.full(6, 1e4), np.full(6, 7.0), np.zeros(6)]
    for wide, x in zip(padded, (score, label, 1.0), strict=True):
        wide[real] = x
    value, gradient = differentiated(loss)(score, label, np.ones(3))
    value_padded, gradient_padded = map(np.asarray, differentiated(loss)(*padded))
    assert float(value_padded) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(gradient_padded[real], gradient, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(gradient_padded, real), np.zeros(3))


@each
def test_the_order_of_rows_does_not_matter(loss):
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=6), rng.integers(0, 2, 6).astype(float)
    mask, shuffle = np.array([1.0, 1, 0, 1, 1, 0]), rng.permutation(6)
    one = compiled_loss(loss)(score, label, mask)
    other = compiled_loss(loss)(score[shuffle], label[shuffle], mask[shuffle])
    assert float(one) == pytest.approx(float(other), rel=1e-5)


@each
def test_first_and_second_derivatives_equal_finite_differences(loss):
    """A meta-gradient differentiates twice; the scores stand clear of every kink."""
    with jax.enable_x64(True):
        score = jnp.array([0.3, -1.4, 0.9, 2.2, -0.6])
        label, mask = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
        of = jax.jit(lambda s: loss(s, label, mask))
        check_grads(of, (score,), order=2, rtol=1e-5, atol=1e-5)


@each
def test_extreme_scores_keep_value_and_gradient_finite(loss):
    score, label = np.array([1e4, -1e4, 0.0]), np.array([0.0, 1.0, 1.0])
    value, gradient = map(np.asarray, differentiated(loss)(score, label, np.ones(3)))
    assert np.isfinite(value) and value > 0
    assert np.isfinite(gradient).all() and np.any(gradient != 0)


@each
def test_vmap_over_tasks_is_a_loop_over_tasks(loss):
    rng = np.random.default_rng(1)
    score, label = rng.normal(size=(3, 5)), rng.integers(0, 2, (3, 5)).astype(float)
    mask = np.array([[1.0] * 5, [1.0, 0.0, 1.0, 0.0, 0.0], [0.0] * 5])
    together = jax.jit(jax.vmap(loss))(score, label, mask)
    alone = [compiled_loss(loss)(score[i], label[i], mask[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_class_cross_entropy_by_hand():
    """Probabilities 1/6, 2/6, 3/6 and the classes 2 and 0; the padding names no class at all."""
    score = np.array([[0.0, LN2, LN3], [0.0, LN2, LN3], [9.0, 0.0, 0.0]])
    label, mask = np.array([2.0, 0.0, 7.0]), np.array([1.0, 1.0, 0.0])
    value, gradient = differentiated(losses.class_cross_entropy)(score, label, mask)
    assert float(value) == pytest.approx((LN2 + math.log(6)) / 2, rel=1e-6)
    # The gradient is (probability - one-hot label) / rows.
    expected = [[1 / 12, 2 / 12, -3 / 12], [-5 / 12, 2 / 12, 3 / 12], [0, 0, 0]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_class_cross_entropy_of_an_empty_task_is_zero():
    score, label = np.array([[3.0, -1e4], [0.0, 1.0]]), np.array([1.0, 5.0])
    value, gradient = differentiated(losses.class_cross_entropy)(score, label, np.zeros(2))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


def test_class_cross_entropy_has_the_derivatives_of_finite_differences():
    with jax.enable_x64(True):
        score, label = jnp.array([[0.3, -1.0, 0.2], [1.0, 2.0, 0.5]]), jnp.array([1, 2])
        check_grads(
            jax.jit(lambda s: losses.class_cross_entropy(s, label, jnp.ones(2))),
            (score,),
            order=2,
            rtol=1e-5,
        )


def test_misordered_pairs_by_hand():
    misordered = compiled_loss(losses.misordered)
    score = np.array([[3.0, 1.0, 2.0, 9.0], [1.0, 1.0, 5.0, 0.0]])
    label = np.array([[1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 1.0, 9.0]])
    mask = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    # first task: 2 over 1 wrong, 3 over 1 wrong, 3 over 2 right; second: a tie, and one wrong
    np.testing.assert_allclose(misordered(score[0], label[0], mask[0]), 2 / 3)
    np.testing.assert_allclose(misordered(score[1], label[1], mask[1]), 1.5 / 2)
    np.testing.assert_allclose(misordered(score, label, mask), 3.5 / 5)
    assert misordered(score[0], label[0], 0 * mask[0]) == 0
