"""The experiment `augment`: few tasks gain from mixing, and an order that is strict loses by it."""

import numpy as np
import pytest

from experiments.large import augment
from metajax.data.histories import sequences as histories
from metajax.settings import Output, replace
from metajax.training import loop


def walkers(num_people: int = 60, num_items: int = 20, length: int = 12) -> histories.Sequences:
    """People who walk around a circle of items, one step at a time."""
    place = np.arange(num_people)[:, None] * 7 + np.arange(length)[None, :]
    owner = np.repeat(np.arange(num_people), length)
    return histories.assemble("circle", owner, (place % num_items).reshape(-1))


def test_some_people_keep_their_histories():
    data = walkers()
    some = augment.some_people(data, np.array([3, 10]))
    assert some.num_items == 20 and some.length.tolist() == [12, 12]
    np.testing.assert_array_equal(some.items[12:], data.items[120:132])


@pytest.mark.slow
def test_all_arms_of_tasks_run_and_the_noise_hurts(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    config = replace(augment.Config(Output(tmp_path)), what="tasks", num_steps=20, people=40)
    kept = {k: v for k, v in augment.task_arms(config).items() if k in (augment.NONE, augment.MLTI)}
    monkeypatch.setattr(augment, "task_arms", lambda config: kept)
    record = augment.main(config)
    mean = lambda noise: record.of(augment.TASKS, augment.NONE, f"noise {noise}", "mse").mean()
    assert mean(0) < mean(2)


@pytest.mark.slow
def test_reordering_a_strict_order_hurts(tmp_path, monkeypatch):
    """Where next is the item before plus one, views in random order teach the wrong thing."""
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(augment.sasrec, "load", lambda config: walkers())
    options = {"window": 10, "width": 16, "num_layers": 1, "epochs": 60, "weight": 5.0}
    record = augment.main(replace(augment.Config(Output(tmp_path)), **options))
    ndcg = lambda arm: record.of(augment.LISTS, arm, "full", "ndcg@10").mean()
    assert ndcg(augment.NONE) > ndcg(augment.REORDER)


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_stood(tmp_path, monkeypatch):
    """What was trained before the stop is read, and the record is that of a run at once."""
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    options = {"what": "tasks", "num_steps": 60, "people": 5, "few": 4}
    whole = augment.run(augment.Config(Output(tmp_path / "whole"), **options))
    fit, calls = loop.fit, []

    def stopping(*given, **options):
        calls.append(options["title"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*given, **options)

    config = augment.Config(Output(tmp_path / "cut"), **options)
    monkeypatch.setattr(loop, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        augment.run(config)
    kept = {path.name for path in (tmp_path / "cut").glob("*/*")}
    assert len(kept) == 2
    monkeypatch.setattr(loop, "fit", fit)
    again = augment.run(config)
    for key, values in whole.scores.items():
        np.testing.assert_array_equal(again.scores[key], values)
