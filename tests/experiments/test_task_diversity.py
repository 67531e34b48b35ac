"""The experiment on the tasks of a batch: its registration, its rule, its worlds, its record."""

import tomllib

import numpy as np
import pytest

from experiments import HERE
from experiments.domains import diversity_report as report
from experiments.domains import task_diversity as experiment
from metajax.results import records
from metajax.settings import Output
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
