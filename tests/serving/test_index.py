"""The best of a catalogue: those of a full sort, and of a large one nearly all of them."""

import numpy as np
import pytest

from metajax.serving import index, linear

NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize("size", [5, 50_001])
def test_the_best_of_all_scores_are_those_of_a_full_sort(size):
    scores = np.random.default_rng(0).normal(size=size).astype(np.float32)
    scores[[1, size - 1]] = 9.0
    hidden = np.array([2, 3])
    place, found = index.exact(scores, 4, hidden)
    order = [i for i in np.argsort(-scores, kind="stable") if i not in (2, 3)][:4]
    np.testing.assert_array_equal(place, order)
    np.testing.assert_array_equal(found, scores[order])


def test_all_hidden_is_nothing():
    place, found = index.exact(np.ones(3, np.float32), 2, np.arange(3))
    assert len(place) == len(found) == 0


def form(num_items: int, level=None) -> linear.Form:
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(40, 8))
    x = centers[rng.integers(40, size=num_items)] + 0.3 * rng.normal(size=(num_items, 8))
    offset, pooled = rng.normal(size=(2, num_items)).astype(np.float32) * 0.2
    prior = (np.zeros(8), np.ones(8))
    return linear.Form(x.astype(np.float32), offset, pooled, *prior, level, level, 2.0)


@pytest.mark.parametrize("level", [None, np.array([0.0, 0.05])])
def test_a_clustered_catalogue_finds_what_a_scan_finds(level):
    made = form(20_000, level)
    cut = index.Index(made, small=0, clusters=200, budget=6000)
    whole = index.Index(made)
    hits = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        items = rng.integers(20_000, size=3)
        state = linear.adapt(made, linear.start(made), items, rng.normal(size=3) * 4)
        place, scores = cut.best(made, state, 20, items)
        truth, best = whole.best(made, state, 20, items)
        np.testing.assert_allclose(scores, linear.predict(made, state)[place], rtol=1e-3, atol=1e-3)
        assert not set(place) & set(items)
        hits.append(len(set(place) & set(truth)) / 20)
        assert len(place) == 20 and scores[0] <= best[0] + 1e-3
    assert np.mean(hits) > 0.95


@pytest.mark.parametrize("level", [None, np.array([0.0, 0.05])])
@pytest.mark.parametrize("events", [0, 1])
def test_where_little_is_known_the_constants_decide_and_are_found(level, events):
    made = form(20_000, level)
    cut, whole = index.Index(made, small=0, clusters=200, budget=6000), index.Index(made)
    hits = []
    for seed in range(20 if events else 1):
        rng = np.random.default_rng(seed)
        items = rng.integers(20_000, size=events)
        state = linear.adapt(made, linear.start(made), items, 0.3 * rng.normal(size=events))
        found, truth = (one.best(made, state, 20, items)[0] for one in (cut, whole))
        hits.append(len(set(found) & set(truth)) / 20)
    assert np.mean(hits) > 0.95


def test_every_row_is_in_one_piece():
    made = form(50_000)
    cut = index.Index(made, small=0, clusters=400)
    assert cut.size.sum() == 50_000 and len(cut.size) <= 4 * 400
    np.testing.assert_array_equal(np.sort(cut.place), np.arange(50_000))
    np.testing.assert_array_equal(cut.firsts[1:], np.cumsum(cut.size)[:-1])


def test_more_than_the_budget_is_still_all():
    made = form(2000)
    cut = index.Index(made, small=0, clusters=50, budget=10)
    place, _ = cut.best(made, linear.start(made), 2000, NONE)
    np.testing.assert_array_equal(np.sort(place), np.arange(2000))
