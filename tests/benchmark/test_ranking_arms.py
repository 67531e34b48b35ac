"""Arms that rank a catalogue: each against a dense closed form on a small world."""

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from metajax.benchmark import ranking, ranking_arms, ranking_ials
from metajax.data import split
from metajax.data.worlds import latent
from metajax.tuning import search


@pytest.fixture(scope="module")
def met():
    rng = np.random.default_rng(0)
    taste = rng.integers(3, size=(40, 1)) == rng.integers(3, size=(1, 15))
    dense = rng.random((40, 15)) < np.where(taste, 0.5, 0.08)
    return sp.csr_matrix(dense.astype(np.float32))


@pytest.fixture(scope="module")
def histories():
    return sp.csr_matrix((np.random.default_rng(1).random((6, 15)) < 0.2).astype(np.float32))


def test_popularity_counts_users(met, histories):
    scores = ranking_arms.popularity(met)()(histories)
    np.testing.assert_array_equal(scores, np.tile(met.toarray().sum(0), (6, 1)))


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(met, histories):
    x, penalty = met.toarray().astype(np.float64), 7.0
    weight = np.zeros((15, 15))
    for j in range(15):
        others = np.delete(np.arange(15), j)
        a = x[:, others]
        weight[others, j] = np.linalg.solve(a.T @ a + penalty * np.eye(14), a.T @ x[:, j])
    scores = ranking_arms.ease(met)(penalty=penalty)(histories)
    np.testing.assert_allclose(scores, histories.toarray() @ weight, atol=1e-5)


@pytest.mark.parametrize("kept", [1.0, 0.6])
def test_edlae_is_the_regression_of_the_expected_dropout(met, histories, kept):
    """The moments of dropped inputs: kept alone on the diagonal, kept squared beside it."""
    x, penalty = met.toarray().astype(np.float64), 7.0
    common = x.T @ x * kept**2
    np.fill_diagonal(common, x.sum(axis=0) * kept)
    weight = np.zeros((15, 15))
    for j in range(15):
        others = np.delete(np.arange(15), j)
        normal = common[np.ix_(others, others)] + penalty * kept**2 * np.eye(14)
        weight[others, j] = np.linalg.solve(normal, kept * x[:, others].T @ x[:, j]) * kept
    scores = ranking_arms.edlae(met)(penalty=penalty, kept=kept)(histories)
    np.testing.assert_allclose(scores, histories.toarray() @ weight, atol=1e-5)


def test_edlae_of_samples_is_the_closed_form(met):
    """Ridge regression on many drawn dropouts of the training rows comes to the same weights."""
    rng, x, kept, penalty, draws = np.random.default_rng(4), met.toarray(), 0.6, 7.0, 4000
    shown = np.concatenate([x * (rng.random(x.shape) < kept) for _ in range(draws)])
    others, wanted = np.arange(1, 15), np.tile(x[:, 0], draws)
    a = shown[:, others]
    normal = a.T @ a / draws + penalty * kept**2 * np.eye(14)
    sampled = np.linalg.solve(normal, a.T @ wanted / draws) * kept
    scores = ranking_arms.edlae(met)(penalty=penalty, kept=kept)(sp.identity(15, format="csr"))
    np.testing.assert_allclose(scores[1:, 0], sampled, atol=5e-3)


def test_slim_meets_the_conditions_of_its_optimum(met):
    x, alpha, share = met.toarray().astype(np.float64), 0.01, 0.5
    scorer = ranking_arms.slim(met)(alpha=alpha, l1_share=share, neighbors=15, num_sweeps=2000)
    weight = scorer(sp.identity(15, format="csr", dtype=np.float32)).astype(np.float64)
    assert (weight >= 0).all() and (np.diag(weight) == 0).all() and (weight > 0).sum() > 15
    slope = x.T @ (x @ weight - x) / len(x) + alpha * (1 - share) * weight
    others = ~np.eye(15, dtype=bool)
    active = weight > 0
    np.testing.assert_allclose(slope[active], -alpha * share, atol=2e-3)
    assert (slope[others & ~active] >= -alpha * share - 2e-3).all()


def test_slim_regresses_on_neighbors_alone(met):
    scorer = ranking_arms.slim(met)(neighbors=2)
    weight = scorer(sp.identity(15, format="csr", dtype=np.float32))
    assert ((weight > 0).sum(axis=0) <= 2).all()


def test_item_knn_is_the_shrunk_cosine_of_the_nearest(met, histories):
    x = met.toarray().astype(np.float64)
    common, count = x.T @ x, x.sum(0)
    similar = common / (np.sqrt(np.outer(count, count)) + 3.0)
    np.fill_diagonal(similar, 0)
    kept = np.zeros_like(similar)
    for j in range(15):
        nearest = np.argsort(-similar[:, j])[:4]
        kept[nearest, j] = similar[nearest, j]
    found = ranking_arms.item_knn(met)(neighbors=4, shrink=3.0)(sp.identity(15, format="csr"))
    ties = np.isclose(np.sort(similar, axis=0)[-4], np.sort(similar, axis=0)[-5])
    np.testing.assert_allclose(found[:, ~ties], kept[:, ~ties], atol=1e-6)
    full = ranking_arms.item_knn(met)(neighbors=99, shrink=3.0)(histories)
    np.testing.assert_allclose(full, histories.toarray() @ similar, atol=1e-5)


SETTINGS = {"unobserved": 0.2, "penalty": 0.05, "scaling": 0.7}


def dense_vectors(x, other):
    """Row by row, every pair written out."""
    found = []
    for row in x:
        weight = SETTINGS["unobserved"] + row
        ridge = SETTINGS["penalty"] * (row.sum() + 0.2 * len(row)) ** SETTINGS["scaling"]
        normal = (other * weight[:, None]).T @ other + ridge * np.eye(other.shape[1])
        found.append(np.linalg.solve(normal, other.T @ row))
    return np.array(found)


@pytest.mark.parametrize("d", [3, 12])
def test_ials_solves_each_side_in_closed_form(met, histories, d):
    """Users of fewer items than a vector has numbers, and of more, are solved by two systems."""
    x = met.toarray().astype(np.float64)
    assert {3, 12} & set(x.sum(1)) and x.sum(1).min() < 3 < x.sum(1).max()
    items = np.random.default_rng(3).normal(size=(15, d)) * 0.1 / np.sqrt(d)
    for _ in range(4):
        users = dense_vectors(x, items)
        items = dense_vectors(x.T, users)
    scores = ranking_ials.ials(met)(dim=d, num_sweeps=4, seed=3, **SETTINGS)(histories)
    np.testing.assert_allclose(
        scores, dense_vectors(histories.toarray(), items) @ items.T, atol=1e-5
    )


ARMS = ranking_arms.RANKERS | ranking_arms.ABLATIONS


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_folds_in_a_user_without_history(met, name):
    prepare, space = ARMS[name]
    fit = prepare(met)
    scores = fit(**search.middle(space))(sp.csr_matrix((2, 15), dtype=np.float32))
    assert scores.shape == (2, 15) and np.isfinite(scores).all()
    if name == "R0 popularity" or ("K-shot" in name and "no intercept" not in name):
        assert np.ptp(scores) > 0
    else:
        np.testing.assert_allclose(scores, 0, atol=1e-6)


@pytest.mark.parametrize("name", [n for n, (_, space) in ARMS.items() if "discount" in space])
def test_a_discount_divides_by_a_power_of_popularity(met, histories, name):
    prepare, space = ARMS[name]
    fit, settings = prepare(met), search.middle(space)
    assert settings["discount"] == 0
    count = np.asarray(met.sum(axis=0)).ravel()
    plain, less = (fit(**settings | {"discount": d})(histories) for d in (0.0, 0.5))
    np.testing.assert_allclose(less, plain / np.sqrt(count), rtol=1e-5)
    assert np.abs(plain).max() > 0


def test_unknown_items_score_like_the_items_of_their_content(met, histories):
    content = sp.csr_matrix(np.eye(5, dtype=np.float32)[np.arange(15) % 5])
    known = np.arange(15) < 10
    base = ranking_arms.ease(met[:, known])()
    scores = ranking_arms.with_content(base, content, known, neighbors=2)(histories)
    plain = base(histories[:, known])
    np.testing.assert_allclose(scores[:, known], plain)
    np.testing.assert_allclose(scores[:, 12], (plain[:, 2] + plain[:, 7]) / 2, rtol=1e-5)


def test_lists_and_their_metrics_by_pencil():
    # task 0: support 3, 1 (disliked), 4; query 0, 2. task 1: support 2; query 5, 1.
    tasks = split.Tasks(
        owner=np.array([7, 9]),
        start=np.array([0, 5]),
        length=np.array([5, 3]),
        other=np.array([3, 1, 4, 0, 2, 2, 5, 1]),
        label=np.array([1.0, 0, 1, 1, 1, 1, 1, 0]),
    )
    made = split.Split("", 0, np.zeros(0, int), tasks, {}, {}, num_query=2)
    lists = ranking.lists_of(tasks, made, 6, 1, np.arange(6))
    np.testing.assert_array_equal(lists.history.toarray().nonzero(), [[0, 1], [3, 2]])
    np.testing.assert_array_equal(lists.relevant.toarray().nonzero(), [[0, 0, 1], [0, 2, 5]])
    both = ranking.lists_of(tasks, made, 6, 2, np.arange(6))
    np.testing.assert_array_equal(both.history.toarray()[0], [0, 0, 0, 1, 1, 0])
    by_number = lambda histories: np.tile(np.arange(6.0), (histories.shape[0], 1))
    found = ranking.list_metrics(by_number, lists, jax.random.key(0))
    # task 0 lists 5 4 2 1 0: hits at 3 and 5 of 5; task 1 lists 5 first.
    ideal = 1 + 1 / np.log2(3)
    expected = [(1 / np.log2(4) + 1 / np.log2(6)) / ideal, 1.0]
    np.testing.assert_allclose(found["ndcg@10"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["recall@20"], [1, 1])
    cold = lists._replace(candidates=np.array([True, True, False, True, True, True]))
    only = ranking.list_metrics(by_number, cold, jax.random.key(0))
    np.testing.assert_allclose(only["ndcg@10"][0], 1 / np.log2(5), rtol=1e-6)


def test_the_arms_beat_popularity_and_are_chosen_on_validation():
    table = latent.rating_log(num_users=220, num_items=80)
    parts = split.user_disjoint(table, shares=(0.2, 0.2), min_rows=20)
    met = ranking.interactions_of(table, parts.train_rows, threshold=3.0)
    known = np.flatnonzero(np.asarray(met.sum(axis=0)).ravel())
    (tasks,) = parts.valid.values()
    lists = [ranking.lists_of(tasks, parts, 80, 10, known, threshold=3.0)]
    base = ranking.tuned(ranking_arms.popularity, {}, met, lists, 9)
    assert base.settings["trials"] == 1
    grid = {"penalty": search.Choice((1e6, 30.0))}
    chosen = ranking.tuned(ranking_arms.ease, grid, met, lists, 6)
    assert chosen.settings["valid"] > base.settings["valid"] + 0.01
    assert chosen.settings["penalty"] == 30.0 and chosen.settings["trials"] == 6
    again = ranking.quality(chosen.score, lists)
    assert again == pytest.approx(chosen.settings["valid"])


def test_ties_are_broken_at_random():
    wanted = sp.csr_matrix((np.ones(400), (np.arange(400), np.zeros(400, int))), shape=(400, 40))
    history = sp.csr_matrix((400, 40), dtype=np.float32)
    lists = ranking.Lists(history, wanted, np.ones(40, bool))
    flat = lambda histories: np.zeros((histories.shape[0], 40))
    found = ranking.list_metrics(flat, lists, jax.random.key(0), block=1)
    assert np.mean(found["recall@20"]) == pytest.approx(0.5, abs=0.1)


def test_users_and_items_of_a_ranking_are_new():
    table = latent.rating_log(num_users=220, num_items=80)
    made = ranking.ranking_of(table, shots=(1, 5), threshold=3.0, users=0.2)
    seen = np.asarray(made.met.sum(axis=1)).ravel() > 0
    every = {}
    for phase, scenarios in (("valid", made.valid), ("test", made.test)):
        known, new = scenarios["user_cold"], scenarios["item_cold"]
        for shots in (1, 5):
            lists = known[shots]
            assert (np.asarray(lists.history.sum(axis=1)).ravel() <= shots).all()
            assert lists.history.multiply(lists.relevant).nnz == 0
            assert (lists.relevant.toarray().sum(0) > 0)[~made.known].sum() == 0
            np.testing.assert_array_equal(lists.history.toarray(), new[shots].history.toarray())
        assert (known[1].history.toarray() <= known[5].history.toarray()).all()
        np.testing.assert_array_equal(known[1].relevant.toarray(), known[5].relevant.toarray())
        candidates = new[1].candidates
        assert not (candidates & made.known).any() and new[1].relevant.nnz > 0
        assert not (new[1].relevant.toarray().sum(0) > 0)[~candidates].any()
        every[phase] = candidates
    assert not (every["valid"] & every["test"]).any()
    assert seen.sum() < 0.65 * table.num_users
