"""The ranking of whole catalogues: its logs, its meta-learners, and a run from end to end."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from compiled import compiled

from experiments.field.ranking import meta, ranking, worlds
from metajax.benchmark import ranking as benchmark
from metajax.benchmark import ranking_ials
from metajax.types import Examples


@pytest.fixture(scope="module")
def met():
    rng = np.random.default_rng(0)
    taste = rng.integers(3, size=(60, 1)) == rng.integers(3, size=(1, 24))
    return sp.csr_matrix((rng.random((60, 24)) < np.where(taste, 0.6, 0.1)).astype(np.float32))


def begin(met, dim=6) -> meta.Start:
    vectors = ranking_ials.ials_items(met, dim=dim, unobserved=0.1, penalty=0.01)
    return meta.Start(vectors, 0.1, 0.5, np.ones(met.shape[1], bool))


def test_the_meta_ridge_begins_as_the_fold_in_of_implicit_als(met):
    start = begin(met)
    made = compiled(meta.learner(start, "ridge"))
    scores = meta.scorer_of(made, made.init(jax.random.key(0), None))(met[:5])
    h = start.vectors
    for row, score in zip(met[:5].toarray(), scores, strict=True):
        normal = (h.T * row) @ h + 0.1 * h.T @ h + 0.5 * np.eye(6)
        np.testing.assert_allclose(score, 8 * h @ np.linalg.solve(normal, h.T @ row), atol=2e-3)


@pytest.mark.parametrize("head", ["ridge", "mean"])
def test_items_one_by_one_are_items_all_at_once(met, head):
    made = compiled(meta.learner(begin(met), head))
    params, key = made.init(jax.random.key(0), None), jax.random.key(0)
    items = np.array([3, 7, 11])
    rows = lambda x: Examples(x, np.ones(x.shape), np.ones(x.shape))
    cold = made.start(params, ())
    once, each = made.adapt(params, cold, rows(items), key), cold
    for item in items:
        each = made.adapt(params, each, rows(item[None]), key)
    every = np.arange(24)
    np.testing.assert_allclose(
        made.predict(params, each, every), made.predict(params, once, every), rtol=1e-4, atol=1e-5
    )
    padded = Examples(np.array([3, 7, 11, 5]), np.ones(4), np.array([1.0, 1, 1, 0]))
    found = made.predict(params, made.adapt(params, cold, padded, key), every)
    np.testing.assert_allclose(found, made.predict(params, once, every), rtol=1e-4, atol=1e-5)


def test_tasks_show_some_items_of_a_user_and_ask_for_others(met):
    batch = jax.device_get(jax.jit(meta.sampler(40))(meta.users_of(met), jax.random.key(0)))
    for i in range(40):
        shown = batch.support.inputs[i][batch.support.mask[i] > 0]
        asked = batch.query.inputs[i][batch.query.mask[i] > 0]
        both = np.concatenate([shown, asked])
        assert len(shown) >= 1 and len(asked) >= 1 and len(np.unique(both)) == len(both)
        assert any(set(both) == set(row.indices) for row in met), "all items are one user's"


def lists_of(met) -> benchmark.Lists:
    """Of each user the first two items as history, the rest relevant."""
    nth = np.cumsum(met.toarray(), axis=1) * met.toarray()
    history, relevant = (sp.csr_matrix(x.astype(np.float32)) for x in ((nth == 1), (nth > 2)))
    return benchmark.Lists(history, relevant, np.arange(24) != 20)


def test_training_is_stopped_by_the_quality_that_arms_are_chosen_by(met):
    made, lists = compiled(meta.learner(begin(met), "ridge")), [lists_of(met)]
    params = made.init(jax.random.key(0), None)
    quality = benchmark.quality(meta.scorer_of(made, params), lists)
    assert 0.1 < quality < 0.9
    found = jax.jit(meta.validation(made, lists))(params)
    np.testing.assert_allclose(-found, quality, atol=1e-6)


@pytest.mark.slow
def test_meta_training_finds_more_than_what_it_starts_from(met):
    options = {"seeds": 1, "num_steps": 150, "num_tasks": 16, "valid": [lists_of(met)]}
    trained = meta.fit(met, begin(met), "ridge", 0.01, **options, patience=100)
    untrained = meta.fit(met, begin(met), "ridge", 1e-9, **options)
    assert trained.valid[0] > untrained.valid[0] + 0.02
    found = benchmark.quality(trained.scorers[0], [lists_of(met)])
    assert found == pytest.approx(trained.valid[0], abs=1e-5), "the best step's parameters"


def test_the_words_and_baskets_of_the_shop(tmp_path):
    folder = tmp_path / "online-retail"
    folder.mkdir()
    np.savez(
        folder / "online_retail.npz",
        invoice_customer=np.array([0, 1, 0]),
        invoice_n_items=np.array([2, 1, 2]),
        item=np.array([0, 2, 1, 0, 1]),
        is_product=np.array([True, True, False]),
        description=np.array(["RED BAG", "red cup", "POSTAGE"]),
    )
    table = worlds.online_retail(tmp_path)
    pairs = sorted(zip(table.user_ids[table.user], table.item, strict=True))
    assert pairs == [(0, 0), (0, 1), (1, 1)], "bought twice is met once, postage is no product"
    assert table.item_features.sizes == {"word": 2}, "red alone is said twice"
    world = worlds.load("online-retail", tmp_path)
    assert world.threshold == -np.inf and world.content.shape[0] == 3


def test_areas_of_a_site_are_told_by_the_words_of_their_titles(tmp_path):
    folder = tmp_path / "msweb"
    folder.mkdir()
    areas = 'A,1,1,"MS Word","/w"\nA,2,1,"MS Excel","/e"\nA,3,1,"Word Support","/s"\n'
    (folder / "anonymous-msweb.data").write_text(areas + 'C,"7",7\nV,1,1\nV,2,1\nV,3,1\n')
    (folder / "anonymous-msweb.test").write_text('C,"8",8\nV,3,1\n')
    content = worlds.load("msweb", tmp_path).content
    assert content is not None
    common = (content @ content.T).toarray()
    np.testing.assert_array_equal(common, [[2, 1, 1], [1, 1, 0], [1, 0, 1]])


@pytest.mark.slow
def test_a_run_leaves_a_record_that_is_read_again(tmp_path, capsys):
    config = ranking.Config(
        output=ranking.Output(out=tmp_path),
        dataset=("synthetic",),
        trials=1,
        seeds=1,
        trial_steps=10,
        num_steps=10,
        num_tasks=4,
    )
    (record,) = ranking.main(config)
    assert {arm.settings["trials"] for arm in record.arms} == {1}
    assert (tmp_path / "ranking-synthetic.png").is_file()
    assert record.opened[0].times_opened == 1 and set(record.tasks) == {"user_cold", "item_cold"}
    capsys.readouterr()
    (again,) = ranking.main(config)
    assert "done before" in capsys.readouterr().err
    assert again.opened == record.opened
    assert dataclasses.replace(again, scores={}).arms == dataclasses.replace(record, scores={}).arms
