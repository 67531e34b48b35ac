"""The experiment of sessions: fixed policies, the stored record, refusals."""

import builtins

import jax
import numpy as np
import pytest

from experiments.decisions import long_term, long_term_report
from metajax.decide.choc_kale import ChocKale
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError


def test_the_least_and_the_most_kale_are_what_they_are_called():
    seen, _ = ChocKale().environment().reset(jax.random.key(0), 0.0)
    kale = np.asarray(seen.inputs["kale"]).sum(axis=1)
    assert long_term.by_kale(seen, 1.0).argmax() == kale.argmax()
    assert long_term.by_kale(seen, -1.0).argmax() == kale.argmin()


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_table_and_draws(tmp_path, capsys):
    if not records.path_of(long_term.NAME).is_file():
        pytest.skip("no record of long_term is stored")
    record = records.stored(long_term.NAME)
    long_term_report.report(record, tmp_path)
    assert "actor-critic" in capsys.readouterr().out
    assert (tmp_path / "session-reward.png").is_file()
    get = lambda arm: record.of(long_term_report.SCENARIO, arm, records.ALL, "return")
    for near, far in (
        (long_term_report.MYOPIC, long_term_report.DQN),
        (long_term_report.MYOPIC_SLATE, long_term_report.SLATE),
    ):
        assert records.difference(get(far), get(near)).low > 0  # gamma 0 must lose


def test_what_cannot_be_run_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        long_term.main(long_term.Config(output=Output(from_records=True)))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "metajax.decide" and "values" in (args[2] or ()):
            raise ModuleNotFoundError("No module named 'rlax'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'metajax\[decide\]'"):
        long_term.policies(long_term.Config(), ChocKale())
