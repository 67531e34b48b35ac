"""A table of ratings from end to end: every arm, every measure, and what is missing is told."""

import contextlib
import dataclasses
import io
import pathlib
import sys
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from metajax import benchmark
from metajax.benchmark import baselines, belief, boosting, harness, problem, stacking, strong
from metajax.data import split
from metajax.data.worlds import latent
from metajax.results import records, tables
from metajax.settings import Data, Output, SplitOptions, Training

TINY = Training(seeds=1, num_steps=20, num_tasks=10, num_support=16)


@pytest.fixture(scope="module")
def ready():
    table = latent.rating_log(num_users=200, num_items=90)
    return problem.problem_of(table, split.user_disjoint(table, shares=(0.2, 0.2)), 16)


@pytest.fixture(scope="module")
def closed_forms(ready):
    return baselines.closed_form_arms(ready)


class Left(NamedTuple):
    """What an experiment leaves: its record, its folder, what it has published and printed."""

    record: records.Record
    folder: pathlib.Path
    published: records.Record
    printed: str


@pytest.fixture(scope="module")
def left(ready, closed_forms, tmp_path_factory):
    """An experiment whose arms need no training, from the problem to the plot."""
    folder = tmp_path_factory.mktemp("table")
    few = boosting.DEFAULT._replace(most_trees=8, min_rows=10, leaves=4)
    tuned = lambda arm, make, draws: make(draws)(few, "sklearn")
    more, notes = strong.combined(ready, closed_forms, TINY, tuned)
    output, data = Output(folder, publish=True), Data("synthetic")
    parts = SplitOptions(split_seed=3)
    config = harness.Config(output=output, data=data, training=TINY, split=parts)
    arms = {**closed_forms, **more}
    printed, none = io.StringIO(), lambda *_: None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(harness, "train_arms", lambda *_: (arms, notes))
        patch.setattr(records, "RESULTS", folder / "results")
        patch.setattr(records, "require_clean", none)
        record = benchmark.run_experiment(
            "t", config, none, {}, stacking.A9, protocol=lambda _: ready
        )
        published = records.stored("t-synthetic")
    return Left(record, folder, published, printed.getvalue())


@pytest.fixture(scope="module")
def record(left):
    return left.record


def test_an_experiment_leaves_a_record_a_table_and_a_plot(left):
    record, folder, published, printed = left
    assert "A2 fold-in" in printed and "user-cold" in printed
    assert (folder / "k_shot.png").stat().st_size > 10_000
    mean_error = record.of("user_cold", baselines.A0, "all", "mae").mean()
    assert f"{mean_error:.4f}" in printed
    assert tables.grid_of(published).rows == tables.grid_of(record).rows
    whole = records.stored("t-synthetic", folder)
    for key, scores in record.scores.items():
        np.testing.assert_array_equal(whole.scores[key], scores)
        np.testing.assert_allclose(published.scores[key], scores, atol=0.01)
    cold = record.of("user_cold", baselines.A2, "k=0", "mae")
    np.testing.assert_allclose(cold, record.of("user_cold", baselines.A0, "all", "mae"), 1e-5)


def test_bytes_of_a_person_are_those_beside_the_profile(record):
    """Nothing, a bias' sums, those of 16 factors and a constant."""
    size = {arm.name: arm.bytes_per_task or 0 for arm in record.arms}
    assert size[baselines.A1] - size[baselines.A0] == 4 * 2
    assert size[baselines.A2] - size[baselines.A0] == 4 * (17**2 + 17)


def test_every_arm_has_every_measure(record):
    known = [baselines.A0, baselines.A1, baselines.A2, baselines.A7]
    assert record.names() == [*known, boosting.A8, boosting.A8_ALONE, stacking.A9]
    for scenario in record.tasks:
        for arm in record.names():
            for metric in tables.MEASURES:
                values = record.of(scenario, arm, records.ALL, metric)
                assert np.isfinite(values).all(), (scenario, arm, metric)
    mean = lambda arm, metric: record.of("user_cold", arm, records.ALL, metric).mean()
    for metric in ("mse", "mae", "mae_calibrated", "log_loss", "crps"):
        assert mean(stacking.A9, metric) < mean(baselines.A0, metric), metric
    assert record.extra["ordinal"] == {"levels": 5, "even": False, "step": 1.0}
    untrained = {key.arm for key in record.scores if key.condition == records.N3}
    assert untrained == {*known, stacking.A9}, "trees have nothing to initialize"


def test_the_table_and_its_controls_can_be_read(record, tmp_path):
    screen = io.StringIO()
    tables.show(record, Console(file=screen, width=200))
    text = screen.getvalue()
    assert "A8 boosting alone" in text and "MSE: stack - arm" in text and "diverged" not in text
    assert "user-cold: MSE by group" in text and "few (" in text
    again = records.read(records.write(tmp_path, "t", record))
    assert tables.grid_of(again).rows == tables.grid_of(record).rows


def test_groups_are_by_training_ratings_where_a_task_has_some(ready):
    known = dataclasses.replace(ready, split=split.melu(ready.table, valid_users=0.3))
    found = problem.groups_of(known)
    assert "training ratings" in found["warm"] and "ratings" in found["user_cold"]
    assert "ratings" in problem.groups_of(ready)["user_cold"]


def test_without_the_extra_a_line_stands_below_the_table(ready, closed_forms, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    arms, notes = strong.combined(ready, closed_forms, TINY)
    assert list(arms) == [stacking.A9]
    need = "is left out: boosting needs scikit-learn: pip install metajax[boosting]."
    assert notes == [f"{boosting.A8} {need}", f"{boosting.A8_ALONE} {need}"]


def test_trees_are_fitted_on_as_many_tasks_as_a_trained_arm_sees():
    assert strong.num_draws(TINY, 5_000) == 200
    long = dataclasses.replace(TINY, num_steps=5_000)
    assert strong.num_draws(long, 5_000) == strong.MOST_DRAWS
    assert strong.num_draws(long, 300) == 1_200


@pytest.mark.parametrize(
    ("labels", "count", "even"),
    [
        (np.arange(1, 5.5, 0.5), 9, False),  # half stars
        (np.linspace(1, 5, 10), 10, False),  # ten stars
        (np.linspace(1, 5, 500), 41, True),  # a slider
    ],
)
def test_levels_of_scales_that_are_not_whole_stars(ready, labels, count, even):
    labels = np.float32(labels)
    rows = np.arange(len(labels))
    table = dataclasses.replace(
        ready.table,
        user=rows.astype(np.int32) % 5,
        item=rows.astype(np.int32) % 7,
        label=labels,
        time=None,
        state=None,
    )
    other = dataclasses.replace(
        ready, table=table, split=dataclasses.replace(ready.split, train_rows=rows)
    )
    levels = belief.levels_of(other)
    assert levels is not None and len(levels) == count
    told = belief.facts(levels, labels, 2.0)["ordinal"]
    assert told["even"] == even and told["levels"] == count
    assert told["step"] == pytest.approx(2 * 4 / (count - 1), rel=1e-4)


def test_clicks_alone_have_no_distribution(ready):
    table = dataclasses.replace(ready.table, label=np.ones_like(ready.table.label))
    assert belief.levels_of(dataclasses.replace(ready, table=table)) is None


def test_an_arm_that_could_still_improve_is_told():
    arm = lambda steps: baselines.Trained(None, {}, {"best_step": steps}, {}, 0.0)
    arms = {"A3": arm([20, 20]), "A6": arm([10, 20, 9])}
    (line,) = baselines.unfinished(arms, TINY)
    assert line.startswith("A3 was still getting better at its last step, 20")
