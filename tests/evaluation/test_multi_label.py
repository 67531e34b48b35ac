"""Measures of several labels: against scikit-learn, by hand, by trying every cutoff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as oracle

from metajax.evaluation import metrics, multi_label
from metajax.results import intervals
from metajax.types import UserError

RNG = np.random.default_rng(0)
SCORE = RNG.normal(size=(60, 4))
LABEL = (SCORE + RNG.normal(size=SCORE.shape) > 0.3) * 1.0
MASK = (RNG.random(SCORE.shape) < 0.8) * 1.0


def test_macro_f1_is_that_of_scikit_learn():
    found = multi_label.macro_f1(SCORE, LABEL, MASK, np.zeros(4))
    for i, f1 in enumerate(found):
        known = MASK[:, i] > 0
        assert f1 == pytest.approx(oracle.f1_score(LABEL[known, i], SCORE[known, i] > 0))


def test_the_average_precision_of_lists_is_that_of_scikit_learn():
    own = jax.jit(jax.vmap(lambda s, y, m, k: metrics.average_precision(s, y, m, k, k=4)))
    keys = jax.random.split(jax.random.key(0), 60)
    found = own(jnp.asarray(SCORE), jnp.asarray(LABEL), jnp.ones((60, 4)), keys)
    some = LABEL.sum(axis=1) > 0
    expected = oracle.label_ranking_average_precision_score(LABEL[some], SCORE[some])
    assert float(found[some].mean()) == pytest.approx(expected, rel=1e-5)


def test_no_cutoff_has_a_higher_f1_than_the_best():
    chosen = multi_label.best_cutoffs(SCORE, LABEL, MASK)
    best = multi_label.macro_f1(SCORE, LABEL, MASK, chosen)
    for cutoff in np.linspace(-3, 3, 200):
        assert (multi_label.macro_f1(SCORE, LABEL, MASK, np.full(4, cutoff)) <= best + 1e-12).all()


def test_a_constant_score_says_yes_to_everyone():
    flat = np.zeros((5, 1))
    chosen = multi_label.best_cutoffs(flat, np.ones((5, 1)), np.ones((5, 1)))
    assert chosen[0] < 0
    with pytest.raises(UserError, match="known of nobody"):
        multi_label.best_cutoffs(flat, flat, flat)


def test_calibration_error_by_hand():
    p = np.array([[0.05], [0.05], [0.95], [0.95]])
    yes = np.array([[0.0], [1.0], [1.0], [1.0]])
    found = multi_label.calibration_error(p, yes, np.ones((4, 1)))
    assert found[0] == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)


def test_a_ratio_of_sums_and_its_pairs():
    bottom = np.arange(1.0, 9.0)
    same = intervals.ratio_bootstrap((0.25 * bottom, bottom))
    assert (same.mean, same.low, same.high) == pytest.approx((0.25, 0.25, 0.25))
    gap = intervals.ratio_bootstrap((0.5 * bottom, bottom), (0.2 * bottom, bottom))
    assert (gap.low, gap.high) == pytest.approx((0.3, 0.3))
    with pytest.raises(UserError, match="cannot be paired"):
        intervals.ratio_bootstrap((bottom, bottom), (bottom[:3], bottom[:3]))
