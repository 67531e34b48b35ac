"""The experiments with large models print their stored records, and refuse what is not there."""

import numpy as np
import pytest
from proper import assert_proper

from experiments.large import augment, text_cold
from experiments.large import report as large_report
from experiments.large.adapt_large import adapt_large
from experiments.large.attention import attention
from experiments.large.cold_sequences import cold_sequences
from experiments.large.distill import distill
from experiments.large.llm_distill import llm_distill
from experiments.large.llm_meta import llm_meta
from experiments.large.llm_rec import language, llm_rec, ranking
from experiments.large.llm_uses import llm_uses
from experiments.large.sasrec import sasrec
from experiments.shop import latency
from metajax.data.histories import sequences as histories
from metajax.data.sources import named
from metajax.evaluation import next_item
from metajax.models.language import vectors
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import UserError

EXPERIMENTS = {
    "attention": attention,
    "augment": augment,
    "cold_sequences": cold_sequences,
    "sasrec": sasrec,
    "text_cold": text_cold,
    "llm_rec": llm_rec,
    "llm_uses": llm_uses,
    "llm_meta": llm_meta,
    "llm_distill": llm_distill,
    "distill": distill,
    "latency": latency,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_missing_record_gets_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        EXPERIMENTS[name].main(EXPERIMENTS[name].Config(output=Output(from_records=True)))


def test_the_k_shot_question_has_no_record_either(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no record"):
        adapt_large.main(adapt_large.Config(output=Output(from_records=True)))


def test_a_table_prints_what_the_record_holds(tmp_path, capsys):
    config = sasrec.Config(output=Output(tmp_path))
    places = np.array([[0, 3, 10, 99]])
    scores = {
        records.Key("leave-one-out", "popularity", next_item.FULL, metric): values
        for metric, values in next_item.rank_metrics(places).items()
    }
    seconds, opened = {"popularity": 1.0}, (records.Opening(times_opened=1, split="0123"),)
    record = large_report.written(
        *("sasrec-x", "sasrec", "leave-one-out", ["popularity"], config, scores, seconds),
        opened=opened,
    )
    assert record.opened == opened
    again = records.stored("sasrec-x", tmp_path)
    np.testing.assert_array_equal(
        again.of("leave-one-out", "popularity", next_item.FULL, "hit@10"), [[1, 1, 0, 0]]
    )
    columns = [(next_item.FULL, "hit@10"), (next_item.SAMPLED, "hit@10")]
    large_report.show(record, columns, "Next item")
    shown = capsys.readouterr().out
    assert "0.5000 [" in shown and "published: " in shown


@pytest.mark.slow
def test_cold_items_have_distributions_whose_links_saw_other_items(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    draw = lambda texts, model, path: np.random.default_rng(5).normal(size=(len(texts), 3))
    monkeypatch.setattr(vectors, "cached", draw)
    asked, link_of = [], text_cold.link_of

    def kept(score, table, cold, levels):
        asked.append(np.unique(table.item[cold]))
        return link_of(score, table, cold, levels)

    monkeypatch.setattr(text_cold, "link_of", kept)
    config = text_cold.Config(Output(tmp_path / "out"), Data("synthetic"), dim=2, seeds=1)
    record = text_cold.main(config)
    assert_proper(record, "hidden items")
    table = named.load("synthetic")
    hidden = np.random.default_rng((7, 0)).random(table.num_items) < config.cold_share
    assert len(asked) == len(text_cold.ARMS) and all(len(items) for items in asked)
    assert not hidden[np.concatenate(asked)].any()
    levels = record.extra["ordinal"]["levels"]
    assert f"distribution over {levels} ratings" in capsys.readouterr().out


def test_places_of_a_beam_count_new_items_alone():
    found = np.array([[4, 7, 2, -1], [1, 0, 5, 6]])
    ranks = llm_rec.ranks(found, np.array([2, 9]), np.array([[4, 9], [8, 8]]))
    assert ranks.tolist() == [1, 1000]  # 7 stands above 2, 4 was seen; 9 was not found


def walkers(num_people: int = 12, num_items: int = 7, length: int = 9) -> histories.Sequences:
    """People who walk around a circle of items, each in strides of 1 or 2."""
    stride = 1 + np.arange(num_people)[:, None] % 2
    place = np.arange(num_people)[:, None] * 3 + stride * np.arange(length)[None, :]
    return histories.assemble(
        "circle", np.repeat(np.arange(num_people), length), (place % num_items).reshape(-1)
    )


def test_vectors_of_what_is_met_in_a_row_are_the_roots_of_mutual_information():
    """Counted in a loop; F F' of a symmetric matrix's scaled vectors is its absolute value."""
    data, people, n = walkers(), np.array([1, 2, 3, 8]), 7
    count = np.zeros((n, n))
    for person in people:
        row = data.items[data.start[person] :][: data.length[person] - 2]
        for i, first in enumerate(row):
            for second in row[i + 1 : i + 3]:
                count[first, second] += 1
                count[second, first] += 1
    p = count / count.sum()
    expected = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if p[i, j] > 0:
                expected[i, j] = max(0.0, np.log(p[i, j] / p[i].sum() / p[j].sum()))
    values, vectors = np.linalg.eigh(expected)
    found = language.met_in_a_row(data, people, n, reach=2)
    np.testing.assert_allclose(found @ found.T, (vectors * abs(values)) @ vectors.T, atol=1e-8)


def test_what_follows_is_counted_among_training_people_alone():
    data = walkers()
    held = histories.held_out(data, 4, 1)
    even = np.arange(0, 12, 2)  # who take the next item, and never the one after it
    test = np.array([1, 3])  # who take the one after it
    empty = held._replace(seen=np.full_like(held.seen, 99))
    np.testing.assert_array_equal(ranking.followed(data, empty, even, even), np.zeros(6))
    assert (ranking.followed(data, empty, even, test) > 0).all()
    assert (ranking.followed(data, empty, np.arange(1, 12, 2), test) == 0).all()


def test_people_are_in_one_group_each():
    parts = llm_rec.groups(101)
    assert sorted(np.concatenate(parts).tolist()) == list(range(101))
    assert [len(p) for p in parts] == [75, 10, 16]
