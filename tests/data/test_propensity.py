"""Propensities: where they are true the weighed mean is unbiased, and the plain one is not."""

import numpy as np
import pytest
from scipy import special

from metajax.data import propensity
from metajax.data.worlds.chosen import liked_first
from metajax.types import UserError


def test_the_weighed_mean_is_that_of_all_pairs_and_the_plain_mean_is_not():
    """Horvitz and Thompson: the inverse of a true propensity makes up for what is not seen."""
    rng = np.random.default_rng(0)
    label = rng.integers(1, 6, (400, 100)).astype(float)
    p, plain, weighed = 0.5 * 0.5 ** (5 - label), [], []
    for _ in range(20):
        rated = rng.random(label.shape) < p
        weight = propensity.weights(p[rated])
        assert weight.mean() == pytest.approx(1.0)
        plain.append(label[rated].mean())
        weighed.append(np.average(label[rated], weights=weight))
    assert np.mean(plain) - label.mean() > 0.8
    assert np.mean(weighed) == pytest.approx(label.mean(), abs=0.05)


def test_naive_bayes_finds_propensities_that_depend_on_the_label_alone():
    log = liked_first(users=400, items=100, decay=0.5, most=0.6)
    rated = log.chosen > 0
    found = propensity.naive_bayes(log.chosen[rated], log.random[log.random > 0], rated.mean())
    true = log.propensity[rated]
    for label in range(2, 6):
        mine = log.chosen[rated] == label
        assert found[mine].mean() == pytest.approx(true[mine].mean(), rel=0.15)


def test_naive_bayes_by_hand():
    """Four of six rated are 5s, half of all are: P(rated | 5) = (4 / 6) (6 / 12) / (1 / 2)."""
    label = np.array([5.0] * 4 + [1.0] * 2)
    found = propensity.naive_bayes(label, np.array([5.0, 1.0]), 6 / 12)
    assert found.tolist() == pytest.approx([2 / 3] * 4 + [1 / 3] * 2)


def test_logistic_regression_finds_the_probabilities_that_features_decide():
    rng = np.random.default_rng(0)
    x, z = rng.integers(0, 2, (300, 2)).astype(float), rng.integers(0, 2, (80, 2)).astype(float)
    true = special.expit(-1.5 + x[:, :1] - z[None, :, 0] + 1.5 * x[:, 1:] * z[None, :, 1])
    found = propensity.logistic(rng.random(true.shape) < true, x, z)
    assert np.abs(found - true).max() < 0.05


def test_clipping_raises_the_lowest_propensities_only():
    p = np.array([0.01, 0.1, 0.2, 0.4])
    plain, clipped = propensity.weights(p), propensity.weights(p, 1 / 3)
    assert plain[0] / plain[1] == pytest.approx(10.0)
    assert clipped[0] == pytest.approx(clipped[1])
    assert clipped[2] / clipped[3] == pytest.approx(2.0)


def test_popularity_is_never_zero():
    assert propensity.popularity(np.zeros((5, 3))).min() > 0


@pytest.mark.parametrize(
    ("p", "told"),
    [([0.0, 0.5, 0.0], r"of 2 rated pair\(s\) is 0"), ([0.5, 1.5], "no probability")],
)
def test_propensities_of_zero_get_one_line(p, told):
    with pytest.raises(UserError, match=told):
        propensity.weights(np.array(p))
