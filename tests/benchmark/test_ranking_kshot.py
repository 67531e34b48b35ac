"""K-shot EASE: its closed form against a regression over every episode, written out."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from metajax.benchmark import ranking_kshot


@pytest.fixture(scope="module")
def met():
    rng = np.random.default_rng(0)
    return sp.csr_matrix((rng.random((14, 7)) < 0.55).astype(np.float32))


def episodes(met, shots):
    """Every way in which a user shows some items: (weight, shown with a constant, to be found)."""
    for row in met.toarray():
        items = np.flatnonzero(row)
        if len(items) < 2:
            continue
        ways = list(itertools.combinations(items, min(shots, len(items) // 2)))
        for way in ways:
            shown, found = np.zeros((2, len(row)))
            shown[list(way)] = 1
            found[np.setdiff1d(items, way)] = 1
            yield 1 / len(ways), np.append(shown, 1), found


@pytest.mark.parametrize("shots", [1, 3])
def test_it_is_the_ridge_regression_over_all_episodes(met, shots):
    penalty, growth = 0.7, 0.5
    weight, shown, found = (np.array(x) for x in zip(*episodes(met, shots), strict=True))
    ridge = np.diag([penalty * shots**growth] * 7 + [0.0])  # the intercept has none
    normal = (shown.T * weight) @ shown + ridge
    learned = np.linalg.solve(normal, (shown.T * weight) @ found)
    asked = np.array([np.eye(7)[i : i + shots].sum(0) for i in range(7 - shots)])
    fit = ranking_kshot.kshot_ease(met)
    scores = fit(penalty=penalty, growth=growth, active=0.0)(sp.csr_matrix(asked))
    expected = np.column_stack([asked, np.ones(len(asked))]) @ learned
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_history_has_the_regression_of_the_nearest_number(met):
    fit = ranking_kshot.kshot_ease(met)()
    history = sp.csr_matrix(np.tril(np.ones((5, 7)), -1))  # of 0 to 4 items
    together = fit(history)
    for i in range(5):
        np.testing.assert_allclose(fit(history[i]), together[i : i + 1], atol=1e-6)
    popular = np.asarray(met[np.diff(met.indptr) >= 2].sum(axis=0)).ravel()
    assert together[0].argmax() == popular.argmax()


def test_active_users_weigh_more_if_asked(met):
    even, odd = (ranking_kshot.moments(met, 1, active) for active in (0.0, 1.0))
    n = np.diff(met.indptr)
    n = n[n >= 2]
    rows = met[np.diff(met.indptr) >= 2].toarray()
    np.testing.assert_allclose(even.wanted, (rows * ((n - 1) / n)[:, None]).sum(0), rtol=1e-6)
    np.testing.assert_allclose(odd.wanted, (rows * (n - 1)[:, None]).sum(0) / n.mean(), rtol=1e-6)


def test_its_parts_can_be_left_out(met):
    """One regression is that of its number of items, and without an intercept no ridge has one."""
    history = sp.csr_matrix(np.tril(np.ones((4, 7)), -1)[1:])  # of 1 to 3 items
    whole, growth = ranking_kshot.kshot_ease(met), {"growth": 0.0}
    three = ranking_kshot.kshot_ease(met, levels=(3,))(**growth)(history)
    np.testing.assert_allclose(three[2:], whole(**growth)(history)[2:], atol=1e-6)
    assert np.abs(three[0] - whole(**growth)(history)[0]).max() > 1e-3
    weight, shown, found = (np.array(x) for x in zip(*episodes(met, 1), strict=True))
    shown = shown[:, :-1]
    learned = np.linalg.solve((shown.T * weight) @ shown + np.eye(7), (shown.T * weight) @ found)
    fit = ranking_kshot.kshot_ease(met, intercept=False)
    scores = fit(active=0.0)(sp.csr_matrix(np.eye(7)))
    np.testing.assert_allclose(scores, learned, atol=1e-5)
