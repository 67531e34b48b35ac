"""Search: the budget curve against enumeration, TPE."""

import dataclasses
import itertools

import numpy as np
import pytest

from experiments.tools import search as tuning
from metajax.results import records
from metajax.settings import Output, Training
from metajax.tuning import search
from metajax.types import UserError


def test_the_budget_curve_is_the_mean_over_all_draws():
    scores = [0.3, 0.1, 0.4, 0.2]
    for n in (1, 2, 3):
        draws = [min(draw) for draw in itertools.product(scores, repeat=n)]
        assert search.expected_best(scores)[n - 1] == pytest.approx(np.mean(draws))


SPACE = {"x": search.Real(-2.0, 2.0), "k": search.Whole(1, 5), "c": search.Choice(("a", "b"))}


def bowl(settings, watch) -> float:
    watch(1, {"valid": 9.0})
    return (settings["x"] - 0.5) ** 2 + 0.1 * (settings["k"] - 3) ** 2 + (settings["c"] == "b")


def test_tpe_finds_the_bowl_and_names_what_matters():
    pytest.importorskip("optuna")
    found = search.tune(bowl, SPACE, 40)
    assert found.best["c"] == "a" and abs(found.best["x"] - 0.5) < 0.4 and found.score < 0.3
    assert len(found.trials) == 40 and set(found.importance) == set(SPACE)
    assert sum(found.importance.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("stopped", [1, 4])
def test_a_search_goes_on_where_it_stood_and_stops_when_done(tmp_path, stopped):
    """The trial that a person stopped, the first or a later one, is no part of the budget."""
    pytest.importorskip("optuna")
    begin, calls = search.middle(SPACE), []

    def counted(settings, watch):
        calls.append(settings)
        if len(calls) == stopped:
            raise KeyboardInterrupt
        return bowl(settings, watch)

    run = lambda trials: search.tune(counted, SPACE, trials, folder=tmp_path, first=begin)
    with pytest.raises(KeyboardInterrupt):
        run(6)
    found = run(6)
    states = [trial.state for trial in found.trials]
    assert states.count("complete") == 6 and states.count(search.INTERRUPTED) == 1
    assert found.spent == 6
    assert len(calls) == 7 and calls[0] == begin
    assert calls.count(begin) == (2 if stopped == 1 else 1), "what comes first is tried"
    assert run(6).best == found.best and len(calls) == 7
    assert len(run(7).trials) == 8 and len(calls) == 8


def test_hopeless_trials_are_pruned_and_diverged_ones_survived():
    pytest.importorskip("optuna")
    steps = []

    def objective(settings, watch):
        if settings["x"] < -1.0:
            raise UserError("the loss is not finite")
        for step in range(1, 11):
            watch(step, {"valid": settings["x"] + 10.0 / step})
            steps.append(step)
        return settings["x"]

    found = search.tune(objective, {"x": search.Real(-2.0, 2.0)}, 25)
    states = {t.state for t in found.trials}
    assert {"complete", "pruned"} <= states and len(steps) < 250
    assert found.score >= -1.0
    nothing = {"x": search.Real(-2.0, -1.5)}
    with pytest.raises(UserError, match="every run diverged"):
        search.tune(objective, nothing, 2)


def test_ranges_are_read_and_mistakes_told():
    space = tuning.parse_space(["a=log:0.1:1", "b=real:0:2", "c=int:1:4", "d=of:x,y"])
    assert space == {
        "a": search.Real(0.1, 1.0, True),
        "b": search.Real(0.0, 2.0),
        "c": search.Whole(1, 4),
        "d": search.Choice(("x", "y")),
    }
    for wrong in ("a", "a=log:1", "a=int:0.5:2", "a=maybe:1:2"):
        with pytest.raises(UserError, match="is no setting with its range"):
            tuning.parse_space([wrong])


@pytest.mark.slow
def test_the_command_tunes_an_experiment_and_goes_on(tmp_path, capsys):
    pytest.importorskip("optuna")
    config = tuning.Config(
        "maml",
        space=("inner_rate=log:0.01:0.5", "inner_steps=int:1:2"),
        output=Output(tmp_path),
        training=Training(seeds=1, num_steps=8, num_tasks=4),
        trials=2,
    )
    tuning.main(config)
    capsys.readouterr()
    tuning.main(dataclasses.replace(config, trials=3))
    told = capsys.readouterr().out
    tuning.main(dataclasses.replace(config, output=Output(tmp_path, from_records=True)))
    assert told.startswith(capsys.readouterr().out)
    made = records.stored("search-maml-synthetic", tmp_path)
    assert len(made.extra["trials"]) == 3 and set(made.extra["best"]) == {
        "inner_rate",
        "inner_steps",
    }
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "budget.png",
        "importance.png",
        "parallel.png",
    }
    assert "opened" not in str(made.extra)


@pytest.mark.parametrize(
    ("experiment", "space", "said"),
    [
        ("nothing", "a=int:1:2", "no experiment 'nothing'"),
        ("", "a=int:1:2", "name one experiment to tune"),
        ("sinusoid", "a=int:1:2", "experiment 'sinusoid' cannot be tuned"),
        ("maml", "inner_speed=log:1:2", "no setting 'inner_speed'; there are inner_rate"),
        ("maml", "hidden=of:a,b", "'hidden' is no number and no word"),
    ],
)
def test_a_search_that_cannot_be_made_is_told_before_any_work(experiment, space, said):
    with pytest.raises(UserError, match=said):
        tuning.main(tuning.Config(experiment, space=(space,)))
