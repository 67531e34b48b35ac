"""The recipes of `sasrec`: each trains, learns what comes next, and stands in the table."""

import jax
import numpy as np
import pytest

from experiments.large.sasrec import arms, blend, parts, sasrec
from metajax.data.histories import sequences as histories
from metajax.data.table import Features, Interactions
from metajax.evaluation import next_item
from metajax.results import records
from metajax.settings import Output


def walkers() -> histories.Sequences:
    """People who walk around a circle of twelve items, one step at a time."""
    place = np.arange(40)[:, None] * 5 + np.arange(8)[None, :]
    return histories.assemble("circle", np.repeat(np.arange(40), 8), (place % 12).reshape(-1))


def test_each_recipe_is_what_it_says():
    config = sasrec.Config(drawn=500)
    of = lambda name: sasrec.recipe_of(name, config, 90)
    assert of("gbce").num_negatives == 90 and of("gbce").shape == sasrec.build(config, 90).shape
    assert of("esasrec").shape.gated_residual and of("esasrec").popular == 0.5
    assert of("hstu").shape.pointwise and of("hstu").num_negatives == 0
    assert of("deep").shape.width == 128 and of("deep").shape.num_layers == 4
    assert of("wide").shape.width == 192 and of("wide").dropout == 0.4


def test_arms_of_a_time_split_score_the_people_who_are_asked():
    """Half of the people come back after the moment; the arms have a row for each of them alone."""
    time = np.arange(320) + np.where(np.arange(320) % 16 == 15, 1000, 0)
    data = walkers()
    table = Interactions(
        name="circle", user=np.repeat(np.arange(40), 8).astype(np.int32), item=data.items,
        label=np.ones(320, np.float32), time=time, user_ids=np.arange(40), item_ids=np.arange(12),
        user_features=Features(), item_features=Features(), scale=(0.0, 1.0),
    )  # fmt: skip
    found = histories.by_time(table, (0.4, 0.95))
    test = histories.held_out(found, 6, 1)
    assert 0 < len(test.target) < 40 and sasrec.asked(found)["untrained"] == 0
    assert arms.popularity(found, test).shape == (len(test.target), 12)
    best = arms.transitions(found, test, 1, 0.6).argmax(axis=1)
    assert (best == test.target).mean() == 1.0  # whoever walks takes the next place


def test_tables_of_neighbors_are_those_of_dense_arithmetic():
    """Random histories of nine items; of each row the best three columns are kept."""
    rng = np.random.default_rng(0)
    data = histories.assemble("random", np.repeat(np.arange(30), 6), rng.integers(0, 9, 180))
    person, item = arms.trained_part(data)
    held = histories.held_out(data, 1, 1)  # one item of history: scores are a row of the table
    met = np.zeros((30, 9))
    np.add.at(met, (person, item), 1.0)
    cosine = met.T @ met / np.outer(np.linalg.norm(met, axis=0), np.linalg.norm(met, axis=0))
    np.fill_diagonal(cosine, 0.0)
    nearest = np.where(cosine >= np.sort(cosine, axis=1)[:, -3:-2], cosine, 0.0)
    found = arms.item_knn(data, held, 3, 0.5)
    np.testing.assert_allclose(found, nearest[held.history[:, 0]], rtol=1e-5)
    followed = np.zeros((9, 9))
    for who in range(30):
        mine = item[person == who]
        np.add.at(followed, (mine[:-1], mine[1:]), 1.0)
        np.add.at(followed, (mine[:-2], mine[2:]), 0.5)
    rate = followed / (np.bincount(item, minlength=9)[:, None] + 5.0)
    found = arms.transitions(data, held, 2, 0.5)
    np.testing.assert_allclose(found, rate[held.history[:, 0]], rtol=1e-5)


def test_some_people_are_judged_and_all_are_trained_on():
    data = walkers()
    some = histories.asking(data, 7)
    test, every = (histories.held_out(x, 6, 1) for x in (some, data))
    assert len(test.target) == 7 and len(histories.held_out(some, 6, 2).target) == 7
    np.testing.assert_array_equal(test.history, every.history[test.person])
    assert some.digest() != data.digest() and histories.asking(data, 40) is data
    for name in ("first", "last", "end"):
        one, other = (getattr(histories.windows(x, 6), name) for x in (some, data))
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_factors_of_the_people_who_are_asked_score_them():
    data = walkers()
    held = histories.held_out(data, 6, 1)
    some = held._replace(person=np.array([3, 5]), target=held.target[[3, 5]])
    settings = arms.Factors(dim=4, epochs=1, batch=64)
    everybody, two = (arms.bpr(data, x, settings) for x in (held, some))
    np.testing.assert_array_equal(two, everybody[[3, 5]])


def test_a_sum_of_logarithms_by_hand_takes_the_table_that_is_right():
    """One table knows the next item of everybody, the model and the other table know nothing."""
    one = blend.Blend(1.0, (0.5, 2.0), 0.0)
    tables = {"transitions": np.array([[0.99, 0.0]]), "item-kNN": np.array([[0.0, 0.9]])}
    expected = [np.log(0.3) + 2 * np.log(0.1), np.log(0.7) + 0.5 * np.log(0.01)]
    np.testing.assert_allclose(one(np.log([[0.3, 0.7]]), tables)[0], expected, rtol=1e-5)
    held = histories.held_out(walkers(), 4, 2)
    held = held._replace(seen=np.full((40, 1), 99))
    right, blank = np.zeros((2, 40, 12), np.float32)
    right[np.arange(40), held.target] = 1.0
    nothing = np.full((40, 12), -np.log(12.0), np.float32)
    found = blend.chosen(
        [nothing], {"transitions": right, "item-kNN": blank}, held, jax.random.key(0)
    )
    assert found[blend.BLENDED].weights[0] > 0 and found[blend.BLENDED].valid == 1.0
    assert found[blend.TABLES].base == 0.0 and found[blend.TABLES].valid == 1.0


@pytest.mark.slow
def test_parts_made_apart_are_the_table_made_at_once(tmp_path, monkeypatch):
    """Two processes share the work; what is kept is read, and nothing is trained twice."""
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sasrec, "load", lambda config: walkers())
    monkeypatch.setattr(parts, "simple_arms", lambda data, width, devices: {})
    monkeypatch.setattr(parts, "_blends", lambda *given: None)
    options = {"window": 6, "width": 8, "num_layers": 1, "epochs": 50, "dropout": 0.0, "seeds": 2}
    options |= {"drawn": 8, "rate": 0.02, "seeds_at_once": 0, "average": 0.9}
    output = Output(tmp_path / "out")
    assert sasrec.run(sasrec.Config(output, only=("sasrec",), **options)) is None
    once = (tmp_path / "out" / "parts" / "sasrec.jsonl").read_bytes()
    monkeypatch.setattr(parts.training, "fit", None)  # would fail, were it called
    record = sasrec.run(sasrec.Config(output, **options))
    assert record is not None
    assert (tmp_path / "out" / "parts" / "sasrec.jsonl").read_bytes() == once
    hit = record.of("leave-one-out", sasrec.SASREC, next_item.UNMASKED, "hit@10")
    assert hit.shape == (2, 40)
    both = record.of("leave-one-out", sasrec.SASREC + parts.TOGETHER, next_item.FULL, "ndcg@10")
    assert both.shape == (1, 40) and len(record.opened) == 2
    assert record.extra["coverage"][sasrec.SASREC][0] <= 1.0
    sasrec.compared(record)


def test_a_part_alone_has_a_name_of_its_own_and_a_record_if_it_is_published(tmp_path, monkeypatch):
    monkeypatch.setattr(sasrec, "load", lambda config: walkers())
    arm = parts.Judged(
        "SASRec, gBCE",
        {c: np.arange(40)[None, :] for c in (next_item.FULL, next_item.UNMASKED)},
        np.ones((1, 40)),
        [0.5],
        1.0,
        {},
    )
    opening = records.Opening("", "", "", 1)
    monkeypatch.setattr(parts, "made", lambda config, data, name, out: ([arm], opening))
    written = []
    monkeypatch.setattr(records, "write", lambda *given: written.append(given))
    make = lambda **options: sasrec.run(sasrec.Config(only=("gbce",), window=6, **options))
    assert make(output=Output(tmp_path)) is None and not written
    record = make(output=Output(tmp_path, publish=True))
    assert record is not None and record.names() == ["SASRec, gBCE"]
    assert written[0][:2] == (tmp_path, "sasrec-ml-1m-gbce")
    sasrec.compared(record)  # without SASRec there is nothing to compare it with
    assert sasrec.name_of(sasrec.Config(split="time")) == "sasrec-ml-1m-time"


@pytest.mark.slow
def test_every_recipe_learns_to_walk(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sasrec, "load", lambda config: walkers())
    options = {"window": 6, "width": 16, "num_layers": 1, "epochs": 200, "dropout": 0.0}
    options |= {"drawn": 8, "rate": 0.01}
    config = sasrec.Config(Output(tmp_path / "out"), also=("gbce", "esasrec", "hstu"), **options)
    record = sasrec.main(config)
    assert record is not None
    ndcg = lambda arm: record.of("leave-one-out", arm, next_item.UNMASKED, "ndcg@10").mean()
    for arm in (sasrec.SASREC, "SASRec, gBCE", "eSASRec", "HSTU, full softmax"):
        assert ndcg(arm) > 0.8, arm
    assert ndcg(blend.BLENDED) > 0.8
    assert ndcg("popularity") < 0.6  # a random place among twelve has .42
