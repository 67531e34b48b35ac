"""The off-policy experiment: a small world, a log of one's own, the stored record, refusals."""

import numpy as np
import pytest

from experiments.decisions import estimates, off_policy, off_policy_report
from metajax.benchmark import command
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError

SMALL = {"logs": 3, "rounds": 80, "resamples": 10}


def test_the_world_is_scored_under_every_condition():
    scores = off_policy.in_world(off_policy.Config(**SMALL))
    conditions = {key.condition for key in scores}
    assert conditions == set(off_policy.CONDITIONS)
    get = lambda arm, condition: scores[records.Key(off_policy.WORLD, arm, condition, "error")]
    same = get(estimates.IPS, "as logged"), get(estimates.IPS, "reward model wrong")
    np.testing.assert_array_equal(*same)  # IPS has no model
    away = np.abs(get(estimates.IPS, "propensities uniform")).mean()
    assert away > np.abs(same[0]).mean()
    assert all(value.shape == (1, 3) for value in scores.values())


def test_a_log_of_ones_own_gets_its_table_and_its_picture(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    rows = ["action,propensity,reward,target:a,target:b,target:c"]
    rows += [f"{'ab'[i % 2]},0.5,{i % 2},0.2,0.7,0.1" for i in range(40)]
    path.write_text("\n".join(rows))
    output = Output(out=tmp_path / "out")
    record = off_policy.main(off_policy.Config(output=output, log=path, resamples=10))
    told = record.extra[off_policy.OWN]
    np.testing.assert_allclose(told["unsupported"], 0.1, rtol=1e-5)  # c is never shown
    np.testing.assert_allclose(told["arms"][estimates.IPS][0], 0.7, rtol=1e-5)  # b earns 1
    said = capsys.readouterr().out
    assert "10.00% of the decisions of the policy in question are never shown" in said
    assert (tmp_path / "out" / "log.png").is_file()


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    if not records.path_of(off_policy.NAME).is_file():
        pytest.skip("no record of off_policy is stored")
    off_policy_report.report(records.stored(off_policy.NAME), tmp_path)
    assert "Open Bandit, women" in capsys.readouterr().out
    assert (tmp_path / "world.png").is_file() and (tmp_path / "open-bandit.png").is_file()


def test_what_cannot_be_run_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="give the CSV file"):
        off_policy.main(off_policy.Config(log=tmp_path / "none.csv"))
    with pytest.raises(UserError, match="leave it out with --log"):
        off_policy.main(off_policy.Config(output=Output(publish=True), log=tmp_path / "none.csv"))
    with pytest.raises(UserError, match="no data folder"):
        off_policy.main(off_policy.Config(data_dir=tmp_path / "nowhere"))
    with pytest.raises(SystemExit):
        command.parse(off_policy.Config, ["--help"])
