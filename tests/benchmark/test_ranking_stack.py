"""The stack of rankers: its weights are the optimum, and it learns which arm to believe."""

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import special

from metajax.benchmark import ranking, ranking_stack


@pytest.fixture
def lists():
    """Users who find items 0 to 4 three times as often as the others."""
    rng = np.random.default_rng(0)
    likely = np.where(np.arange(20) < 5, 0.6, 0.2)
    relevant = sp.csr_matrix((rng.random((80, 20)) < likely).astype(np.float32))
    history = sp.csr_matrix((rng.random((80, 20)) < 0.15).astype(np.float32))
    return ranking.Lists(history, relevant, np.arange(20) != 7)


def right(histories):
    return np.tile((np.arange(20) < 5).astype(np.float32), (histories.shape[0], 1))


def noise(histories):
    return np.random.default_rng(3).normal(size=histories.shape)


def test_the_slope_is_zero_at_the_weights(lists):
    x = ranking_stack.features([right, noise], lists.history)
    np.testing.assert_allclose(x.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=2), 1, atol=1e-5)
    weight = ranking_stack.weights(x, lists)

    def loss(w):
        total = []
        for u in range(80):
            free = lists.candidates & (lists.history.toarray()[u] == 0)
            found = lists.relevant.toarray()[u][free] > 0
            log_p = special.log_softmax((w @ x[:, u].astype(np.float64))[free])
            total += [-log_p[found].mean()] if found.any() else []
        return np.mean(total) + ranking_stack.RIDGE / 2 * w @ w

    for step in 1e-3 * np.eye(2):
        assert (loss(weight + step) - loss(weight - step)) / 2e-3 == pytest.approx(0, abs=1e-3)
    assert weight[0] > 0.3 and abs(weight[1]) < 0.2


def test_a_history_has_the_weights_of_the_nearest_number(lists):
    turned = lists._replace(relevant=sp.csr_matrix(1.0 - lists.relevant.toarray()))
    score = ranking_stack.stack([right, noise], [lists, turned], (1, 20))
    few, many = np.zeros((2, 1, 20), np.float32)
    few[0, 8:10], many[0, 4:18] = 1, 1
    likes = lambda history: score(sp.csr_matrix(history))[0]
    assert likes(few)[:5].mean() > likes(few)[5:].mean()
    assert likes(many)[:5].mean() < likes(many)[5:].mean()


def test_the_stack_ranks_no_worse_than_what_it_is_made_of(lists):
    score = ranking_stack.stack([right, noise], [lists], (3,))
    ndcg = lambda s: np.nanmean(ranking.list_metrics(s, lists, jax.random.key(0))["ndcg@10"])
    assert ndcg(score) > ndcg(noise) + 0.1 and ndcg(score) > ndcg(right) - 0.02
