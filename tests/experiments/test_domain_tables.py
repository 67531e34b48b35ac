"""Tables of ratings over K: what leads, and what a record without squared errors says."""

import numpy as np
import pytest

from experiments.domains import (
    clusters,
    hybrid,
    knowledge_graph,
    multimodal,
    rates,
    shots,
    task_diversity,
)
from metajax.results import records, tables
from metajax.settings import Hardware, Training, replace

METRICS = {"mae": 0.5, "mse": 0.25, "ndcg@5": 0.5, "crps": 0.5}
HEADS = {"k=0": "K = 0", records.ALL: "K = 20"}


def made(metrics) -> records.Record:
    """Arm b has half of the errors of arm a, and half of its nDCG@5."""
    rng, scores = np.random.default_rng(0), {}
    for metric in metrics:
        base = METRICS[metric] + 0.01 * rng.random((2, 12))
        for condition in HEADS:
            for arm, times in (("a", 1.0), ("b", 0.5)):
                scores[records.Key("items", arm, condition, metric)] = times * base
    told = {"ordinal": {"levels": 5}}
    return records.made("made", clusters.Config(), records.arms_of("ab"), scores, extra=told)


@pytest.mark.usefixtures("few_draws")
def test_rmse_and_ndcg_lead_with_differences_and_mae_has_none(capsys):
    record = made(METRICS)
    assert shots.leading(record) == "mse"
    shots.ratings("t", record, "items", "ab", HEADS, [("b", "a")])
    said = " ".join(capsys.readouterr().out.split())
    order = ["t: RMSE", "differences in MSE", "t: nDCG@5", "differences in nDCG@5", "t: MAE"]
    places = [said.index(title) for title in [*order, "t, K = 20: distributions over ratings"]]
    assert places == sorted(places) and "differences in MAE" not in said
    rmse = records.interval(record.of("items", "a", "k=0", "mse"), "mse")
    assert f"{rmse:.4f}" in said and rmse.mean == pytest.approx(0.505, abs=0.002)
    assert shots.OLDER not in said


@pytest.mark.usefixtures("few_draws")
def test_a_record_of_absolute_errors_alone_prints_them_and_says_so(capsys):
    record = made(["mae"])
    assert shots.leading(record) == "mae"
    shots.ratings("t", record, "items", "ab", HEADS, [("b", "a")])
    said = " ".join(capsys.readouterr().out.split())
    assert "t: MAE" in said and "differences in MAE" in said and shots.OLDER in said
    assert "RMSE" not in said.replace(shots.OLDER, "")
    assert tables.CALIBRATED[0] not in said


ROOMS = (clusters, hybrid, knowledge_graph, multimodal, task_diversity)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__.rpartition(".")[2])
def test_a_training_is_what_the_settings_say(room):
    said = {"seeds": 2, "num_steps": 70, "num_tasks": 6}
    config = replace(room.Config(), **said, hardware=Hardware(3))
    assert rates.training_of(config) == Training(**said, num_support=32, devices=3, patience=0)


def test_settings_of_a_training_are_given_by_name_alone():
    """By place, a setting that is put between two others would shift all later ones."""
    with pytest.raises(TypeError):
        Training(2, 0, 70)  # pyright: ignore[reportCallIssue]
