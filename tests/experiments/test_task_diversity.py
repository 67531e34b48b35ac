"""The experiment on the tasks of a batch: its registration, its rule, its worlds, its record."""

import tomllib
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import HERE
from experiments.domains import diversity_report as report
from experiments.domains import diversity_worlds as worlds
from experiments.domains import task_diversity as experiment
from metajax import benchmark
from metajax.benchmark import belief
from metajax.evaluation import ordinal
from metajax.results import records
from metajax.settings import Data, Output, SplitOptions
from metajax.types import UserError


def registered() -> dict:
    return tomllib.loads((HERE.parent / "paper/registrations/task-diversity.toml").read_text())


def test_what_runs_by_default_is_what_was_registered():
    told, config = registered(), experiment.Config()
    assert (told["dataset"], told["split_seed"]) == (config.data.dataset, config.split_seed)
    assert (config.data.dataset, config.split_seed) == report.REGISTERED
    assert (told["method"], told["against"]) == (report.DPP, report.UNIFORM)
    assert told["margin"] == report.MARGIN and told["scenarios"] == [report.REAL]
    for name, value in told["budget"].items():
        assert value == (list(config.rates) if name == "rates" else getattr(config, name))


@pytest.mark.parametrize(("shift", "said"), [(0.0, "holds"), (0.05, "fails"), (0.011, "does not")])
def test_the_rule_of_the_registration(shift, said):
    rng = np.random.default_rng(0)
    base, noise = rng.random((2, 300)), 0.02 * rng.normal(size=(2, 300))
    scores = {}
    for c in ("k=5", records.ALL):
        scores[records.Key(report.REAL, report.UNIFORM, c, "mae")] = base
        scores[records.Key(report.REAL, report.DPP, c, "mae")] = base + shift + noise
    arms = records.arms_of((report.UNIFORM, report.DPP))
    record = records.made("x", experiment.Config(), arms, scores, opened=())
    assert report.verdict(record)[0].startswith(said)


@pytest.mark.usefixtures("few_draws")
def test_ratings_are_judged_by_every_measure_and_the_rule_still_reads_absolute_errors(
    tmp_path, capsys, monkeypatch
):
    options = SplitOptions(protocol="users")
    problem = benchmark.load(Data("synthetic"), options)
    source, tasks = problem.valid
    at = lambda level: lambda source, tasks, key: np.full((1, *tasks.query.label.shape), level)
    names = (report.UNIFORM, report.ALIKE, report.HARD, report.DPP, report.RANDOM)
    arms = {name: at(3.0 + 0.1 * i) for i, name in enumerate(names)}
    world = SimpleNamespace(problem=problem)
    scores = worlds.Ratings.judged(world, arms, source, {"users": tasks})
    for key in [k for k in scores if k.metric == "mae"]:
        assert np.isfinite(scores[key]).all() and key._replace(metric="mse") in scores
        for metric in ordinal.PROPER if key.condition == records.ALL else ():
            assert np.isfinite(scores[key._replace(metric=metric)]).all()
    for control in (records.N0, records.N1, records.N2):
        assert records.Key(report.REAL, report.DPP, control, "mae") in scores

    simulated = {}
    for arm in (*names, report.BAYES):
        for scenario in (report.FREQUENT, report.RARE):
            for condition in report.SIMULATED:
                simulated[records.Key(scenario, arm, condition, "mse")] = np.ones((1, 9))
    known = [f"k={k}" for k in worlds.SHOTS if f"k={k}" in {key.condition for key in scores}]
    kept = {"shots": tuple(int(k[2:]) for k in known), "extra": belief.scale_of(problem)}
    monkeypatch.setattr(report.shots, "controls", lambda *args: print("controls in", args[4]))
    monkeypatch.setattr(report.shots, "curves", lambda *args: None)
    named = records.arms_of((*names, report.BAYES))
    config = experiment.Config()
    record = records.made("x", config, named, scores | simulated, method=report.DPP, **kept)
    report.report(record, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    places = [said.find(f"new users: {name} ") for name in ("RMSE", "nDCG@5", "MAE")]
    assert -1 < places[0] < places[1] < places[2] < said.find("MAE cal.") < said.find("CRPS")
    assert "paired differences in MAE" in said and "controls in mse" in said
    older = {k: v for k, v in (scores | simulated).items() if k.scenario != report.REAL}
    older |= {k: v for k, v in scores.items() if k.metric == "mae"}
    report.report(records.made("x", config, named, older, method=report.DPP, **kept), tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert report.shots.OLDER in said and "controls in mae" in said and "CRPS" not in said


def test_too_few_candidates_are_refused_before_anything_is_read():
    with pytest.raises(UserError, match="cannot be picked"):
        experiment.measured(experiment.Config(candidates=4))


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    config = experiment.Config(output=Output(from_records=True, out=tmp_path))
    if not records.path_of(report.name_of(config)).is_file():
        pytest.skip("no record of task_diversity is stored")
    experiment.main(config)
    assert "Registered null" in capsys.readouterr().out
    assert (tmp_path / "mae.png").is_file() and (tmp_path / "rare-kinds.png").is_file()
