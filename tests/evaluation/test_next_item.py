"""Histories in order, what is held out of them, and the place of the next item among the others."""

import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.histories import sequences
from metajax.data.histories.sequences import HeldOut
from metajax.data.table import Features, Interactions
from metajax.evaluation import next_item
from metajax.types import UserError

LINES = "2 7\n2 5\n1 5\n2 9\n1 7\n2 3\n1 9\n"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "log.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write(LINES)
    return sequences.read_sasrec(path)


def test_histories_keep_the_order_of_the_file(small):
    assert small.item_ids.tolist() == [3, 5, 7, 9]
    assert small.items.tolist() == [1, 2, 3, 2, 1, 3, 0]  # person 1: 5 7 9; person 2: 7 5 9 3
    assert small.start.tolist() == [0, 3] and small.length.tolist() == [3, 4]


def test_the_last_item_is_the_test_and_the_one_before_it_the_validation(small):
    test = sequences.held_out(small, width=2)
    assert test.target.tolist() == [3, 0]
    assert test.history.tolist() == [[1, 2], [1, 3]] and test.length.tolist() == [2, 2]
    assert test.seen.tolist() == [[1, 2, 4], [2, 1, 3]]  # 4 is padding: no such item
    valid = sequences.held_out(small, width=3, back=2)
    assert valid.target.tolist() == [2, 3]
    assert valid.history.tolist() == [[1, 0, 0], [2, 1, 0]] and valid.length.tolist() == [1, 2]


def test_no_window_shows_a_held_out_item(small):
    windows = sequences.windows(small, width=2)
    draw = jax.jit(jax.vmap(lambda key: sequences.draw(windows, key, 2)))
    episodes = draw(jax.random.split(jax.random.key(0), 200))
    rows = np.concatenate([episodes.support.inputs, episodes.query.inputs], axis=1)
    real = np.concatenate([episodes.support.mask, episodes.query.mask], axis=1) > 0
    trained = {tuple(row[keep].tolist()) for row, keep in zip(rows, real, strict=True)}
    assert trained == {(1,), (2, 1)}  # person 1 has one trained item, person 2 has two


def timed_log() -> Interactions:
    """Ten events at times 0 .. 9, out of order; the moments of shares .5 and .8 are 5 and 8."""
    rows = [  # time, user, item
        (9, 0, 4), (0, 0, 0), (1, 1, 1), (2, 0, 2), (3, 2, 3),
        (4, 1, 0), (5, 0, 3), (6, 3, 1), (7, 0, 1), (8, 1, 4),
    ]  # fmt: skip
    time, user, item = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        name="timed", user=user.astype(np.int32), item=item.astype(np.int32),
        label=np.ones(10, np.float32), time=time.astype(np.int64), user_ids=np.arange(4),
        item_ids=np.arange(5), user_features=Features(), item_features=Features(), scale=(0, 1),
    )  # fmt: skip


def test_by_time_nothing_after_a_moment_is_trained_on_or_read_before_it():
    """By pencil: user 0 takes 0 2 | 3 1 | 4, user 1 takes 1 0 | | 4, user 2 only 3, user 3 | 1."""
    data = sequences.by_time(timed_log(), (0.5, 0.8))
    assert data.trained.tolist() == [2, 2, 1, 0]
    valid, test = sequences.held_out(data, 3, 2), sequences.held_out(data, 3, 1)
    assert valid.person is not None and test.person is not None
    assert valid.person.tolist() == [0] and valid.target.tolist() == [3]
    assert valid.history.tolist() == [[0, 2, 0]] and valid.seen.tolist() == [[0, 2]]
    assert test.person.tolist() == [0, 1] and test.target.tolist() == [4, 4]
    assert test.history.tolist() == [[2, 3, 1], [1, 0, 0]] and test.length.tolist() == [3, 2]
    assert test.seen.tolist() == [[0, 2, 3, 1], [1, 0, 5, 5]]
    windows = sequences.windows(data, 2)
    covered = [data.items[f:e].tolist() for f, e in zip(windows.first, windows.last, strict=True)]
    assert covered == [[0, 2], [1, 0], [3]]
    assert data.digest() != data._replace(stops=None).digest()


def test_a_log_without_anybody_on_both_sides_gets_one_line():
    with pytest.raises(UserError, match="nobody has items on both sides"):
        sequences.by_time(timed_log(), (0.0, 0.5))


def test_windows_cover_a_long_history_and_never_leave_it():
    length = 25
    data = sequences.assemble("x", np.repeat([0, 1], length), np.arange(2 * length))
    windows = sequences.windows(data, width=8)
    assert len(windows.end) == 6  # 23 trained items each: 3 windows
    draw = jax.jit(jax.vmap(lambda key: sequences.draw(windows, key, 8)))
    episodes = draw(jax.random.split(jax.random.key(0), 500))
    items = np.where(episodes.support.mask > 0, episodes.support.inputs, -1)
    last = np.asarray(episodes.query.inputs)
    assert set(range(23)) <= set(items.ravel()) | set(last.ravel())
    assert not {23, 24, 48, 49} & (set(items.ravel()) | set(last.ravel()))
    gap = np.where(items >= 0, last - items, 0)
    assert gap.max() <= 7  # all of one person, in order


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("1 2\n1 x\n", "whole numbers"), ("1 2\n1 3\n", "3 items per person"), ("", "3 items")],
)
def test_a_damaged_log_gets_one_line(tmp_path, text, sentence):
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        sequences.read_sasrec(path)


def test_a_missing_log_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="no file"):
        sequences.read_sasrec(tmp_path / "none.txt")


def test_the_published_file_is_the_published_one(data_dir):
    data = sequences.read_sasrec(data_dir)
    assert (len(data.length), data.num_items, len(data.items)) == (6040, 3416, 999611)


def test_the_place_counts_what_stands_above_among_the_candidates():
    score = jnp.array([5.0, 4.0, 3.0, 2.0, 1.0])
    key = jax.random.key(0)
    place = lambda candidate: int(next_item.rank(score, jnp.array(2), jnp.array(candidate), key))
    assert place([1, 1, 1, 1, 1]) == 2
    assert place([0, 1, 1, 1, 1]) == 1
    assert place([0, 1, 0, 1, 1]) == 1  # the target is a candidate whatever the mask says


def test_a_constant_scorer_gets_chance():
    keys = jax.random.split(jax.random.key(0), 3000)
    place = lambda key: next_item.rank(jnp.zeros(5), jnp.array(1), jnp.ones(5), key)
    counts = np.bincount(np.asarray(jax.jit(jax.vmap(place))(keys)), minlength=5)
    assert abs(counts / 3000 - 0.2).max() < 0.03


def test_metrics_of_a_place_by_pencil():
    found = next_item.rank_metrics(np.array([0, 3, 10]))
    np.testing.assert_allclose(found["hit@10"], [1, 1, 0])
    np.testing.assert_allclose(found["ndcg@10"], [1, 1 / math.log2(5), 0], rtol=1e-6)
    np.testing.assert_allclose(found["ndcg@5"], [1, 1 / math.log2(5), 0], rtol=1e-6)
    np.testing.assert_allclose(found["mrr"], [1, 1 / 4, 1 / 11], rtol=1e-6)


def test_three_protocols_of_one_score_table():
    num_items, people = 300, 5
    rng = np.random.default_rng(0)
    table = rng.normal(size=(people, num_items)).astype(np.float32)
    seen = np.array([[i, 10 + i, num_items] for i in range(people)], np.int32)
    target = np.array([50 + i for i in range(people)], np.int32)
    held = HeldOut(np.zeros((people, 2), np.int32), np.ones(people, np.int32), target, seen)
    scorer = lambda person, history, length: jnp.asarray(table)[person]
    found = next_item.ranks(scorer, held, num_items, jax.random.key(0), batch_size=2)
    for i in range(people):
        above = np.flatnonzero(table[i] > table[i, target[i]])
        assert found[next_item.UNMASKED][i] == len(above)
        assert found[next_item.FULL][i] == len(set(above) - {i, 10 + i})
    share = np.asarray(found[next_item.SAMPLED]) / np.maximum(np.asarray(found[next_item.FULL]), 1)
    assert (found[next_item.SAMPLED] <= 100).all() and abs(share.mean() - 100 / 297) < 0.1


def test_lists_hold_the_best_unseen_items_and_their_spread_is_counted():
    scores = jnp.array([[5.0, 4, 3, 2, 1], [1.0, 2, 3, 4, 5], [0.0, 9, 0, 8, 7]])
    seen = np.array([[0, 5], [4, 3], [5, 5]])  # 5 is padding: no such item
    held = HeldOut(np.zeros((3, 1), int), np.ones(3, int), np.zeros(3, int), seen)
    found = next_item.lists(lambda person, h, n: scores[person], held, 5, k=2, batch_size=2)
    assert found.tolist() == [[1, 2], [2, 1], [1, 3]]
    met = np.array([10, 40, 20, 20, 0])  # percentiles .3, .9, .6, .6, .1
    coverage, popularity = next_item.spread(np.asarray(found), met)
    assert coverage == 0.6
    np.testing.assert_allclose(popularity, [0.75, 0.75, 0.75])
