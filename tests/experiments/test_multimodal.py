"""Modalities of new items: how they are read, what dropping does, what is refused, the tables."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from experiments.domains import graph_arms, graph_report, multimodal
from experiments.domains import multimodal_arms as arms
from metajax.data.sources.graph import Graph
from metajax.data.worlds.latent import rating_log
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import UserError

TABLE = rating_log(num_users=60, num_items=40)
SIZE = TABLE.num_items


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    blocks = {name: arms.alike(rng.normal(size=(SIZE, 3))) for name in multimodal.MODALITIES}
    return arms.with_blocks(graph_arms.of_items(TABLE, 0), blocks)


def test_a_word_has_one_bucket_and_texts_of_the_same_words_the_same_topics():
    counts = arms.hashed(["Star Trek: Generations", "generations of star trek", "", "Alone"])
    assert counts[0].multiply(counts[1]).sum() == 3 and counts[2].sum() == 0
    words = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    found = arms.topics(words, 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    first, second = [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]  # pairs that share all words of two texts
    joined = [first, first, second, second, [0] * 5]
    np.testing.assert_allclose(found @ found.T, joined, atol=1e-9)


def test_plot_words_by_hand_and_films_of_ml_100k_by_their_twin(tmp_path):
    path = tmp_path / "plot_words.npz"
    told: dict[str, Any] = {"movie_id": [7, 9], "n_words": [1, 2], "word": [2, 0, 2]}
    told |= {"count": [5, 1, 3], "ml100k_item": [1], "ml100k_to_ml1m": [9]}
    np.savez(path, **told)
    own = dataclasses.replace(TABLE, item_ids=np.array([1, 7, 9]), name="ml-1m")
    found = arms.plot_words(own, path).toarray()
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 5], [1, 0, 3]])
    small = dataclasses.replace(own, name="ml-100k")
    np.testing.assert_array_equal(
        arms.plot_words(small, path).toarray(), [[1, 0, 3], [0] * 3, [0] * 3]
    )
    np.savez(path, **(told | {"n_words": [1, 1]}))
    with pytest.raises(UserError, match="do not add up; get a complete copy"):
        arms.plot_words(own, path)


def test_what_is_unknown_stays_zero_and_a_permutation_keeps_the_rows():
    x = arms.alike(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(x, [[-1, 0], [1, 0], [0, 0]])
    blocks = {"a": np.arange(20.0)[:, None], "b": np.ones((20, 1))}
    found = arms.changed(blocks, out=("b",), permuted=("a",))
    np.testing.assert_array_equal(np.sort(found["a"], axis=0), blocks["a"])
    assert (found["a"] != blocks["a"]).mean() > 0.5 and not found["b"].any()


def test_with_all_dropped_it_trains_as_with_none_and_what_is_known_moves_the_start(problem):
    one, key = problem.example, jax.random.key(2)
    plain = arms.learner_of(problem)
    params = jax.jit(plain.init)(jax.random.key(0), one)
    bare = one._replace(profile=jax.tree.map(lambda x: 0 * x, one.profile))
    of = lambda learner, episode: float(jax.jit(learner.loss)(params, episode, key)[0])
    dropping = arms.learner_of(problem, 1.0)
    assert of(dropping, one) == pytest.approx(of(plain, bare)) != of(plain, one)
    score = lambda profile: plain.predict(params, plain.start(params, profile), one.query.inputs)
    other = jax.tree.map(lambda x: x + 1.0, one.profile)
    assert np.abs(score(one.profile) - score(other)).max() > 1e-3


def test_rows_are_all_there_and_only_the_method_and_its_kin_drop():
    rows = multimodal.trained_rows()
    assert len(rows) == 15 and len(multimodal.missing_rows()) == 8
    assert rows[multimodal.alone("plot")].out == ("titles", "genres", "cast")
    assert not rows[multimodal.PLAIN].dropout and rows[multimodal.ALL].dropout
    assert multimodal.MODALITIES == (arms.TITLES, arms.PLOT, arms.GENRES, arms.CAST)


def test_some_people_keep_all_their_ratings():
    some = arms.of_some(TABLE, 20, 0)
    assert len(np.unique(some.user)) == 20 and some.num_users == TABLE.num_users
    for user in np.unique(some.user):
        assert (some.user == user).sum() == (TABLE.user == user).sum()
    assert arms.of_some(TABLE, None, 0) is TABLE


def test_a_set_without_side_data_gets_one_line_before_training(tmp_path):
    own = multimodal.Config(data=Data(dataset="synthetic", data_dir=tmp_path))
    with pytest.raises(UserError, match="synthetic comes without plot words and cast; ml-100k and"):
        multimodal.measured(own)


def test_without_a_record_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        multimodal.main(multimodal.Config(output=Output(from_records=True)))


def test_the_tables_and_pictures_are_those_of_the_record(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = [*multimodal.trained_rows(), *multimodal.missing_rows()]
    key = lambda name, at: records.Key(graph_report.SCENARIO, name, at, "mse")
    scores = {key(n, c): 1 + rng.random((1, 30)) for n in names for c in multimodal.CONDITIONS}
    scores |= {key(multimodal.ALL, c): scores[key(multimodal.NOTHING, c)] - 0.5 for c in ("k=0",)}
    record = records.made(
        "multimodal", multimodal.Config(), records.arms_of(names), scores, shots=multimodal.SHOTS,
        scenario=graph_report.SCENARIO, extra={"known": {"plot": 3}, "items": 30},
    )  # fmt: skip
    multimodal.report(record, tmp_path)
    said = capsys.readouterr().out
    assert "30 new items: RMSE" in said
    assert "all, dropout - nothing" in said and "-0.5000*[-0.5000, -0.5000]" in said
    assert (tmp_path / "error.png").is_file() and (tmp_path / "differences.png").is_file()


@pytest.mark.slow
def test_a_whole_run_finds_the_modality_that_tells_and_not_the_permuted(tmp_path, monkeypatch):
    """The plot is what the world is made of: an item's mean rating; the rest is noise."""
    table = rating_log(num_users=150, num_items=150)
    count = np.bincount(table.item, minlength=150)
    level = np.bincount(table.item, table.label, 150) / np.maximum(count, 1)
    rng = np.random.default_rng(0)
    noise = lambda: arms.alike(rng.normal(size=(150, 3)))
    blocks = {name: noise() for name in multimodal.MODALITIES}
    blocks["plot"] = arms.alike(np.column_stack([level - level.mean(), level**2]))
    none = np.zeros(1, int)
    empty = Graph(none, none, none, np.array(["r"]), np.full(150, -1), 1)
    side = arms.Side(None, None, None, empty)
    monkeypatch.setattr(multimodal.named, "chosen", lambda data: table)
    monkeypatch.setattr(multimodal.named, "data_folder", lambda folder: tmp_path)
    monkeypatch.setattr(arms, "side_of", lambda *_: side)
    monkeypatch.setattr(arms, "blocks_of", lambda *_: blocks)
    given = {"seeds": 1, "num_steps": 60, "num_tasks": 16, "rates": (0.01,)}
    record = multimodal.main(multimodal.Config(Output(tmp_path), **given))
    get = lambda name: record.of(graph_report.SCENARIO, name, "k=0", "mse")
    gap = lambda pair: records.difference(*map(get, multimodal.pairs()[pair]))
    for pair in ("plot alone - nothing", "all - without plot", "all - plot permuted"):
        assert gap(pair).high < 0, pair
    for pair in ("titles alone - nothing", "genres alone - nothing", "all - without titles"):
        assert gap(pair).high > 0, pair
