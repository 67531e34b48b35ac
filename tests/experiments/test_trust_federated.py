"""The experiments on federation and privacy: small runs, what they refuse, what they print."""

import numpy as np
import pytest

from experiments.trust import fed_report, federated, own_data, priv_report, private
from metajax.benchmark import command
from metajax.evaluation import judge, ordinal
from metajax.results import records
from metajax.settings import Data
from metajax.types import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))


def test_own_ratings_are_out_of_the_columns_that_a_client_learns_from():
    """By hand: the sums of an item, less one's own rating, over one rating less."""
    people = own_data.load(Data("synthetic"), 0, 200)
    sums = own_data.exact_sums(people)
    draw = own_data.drawer(people, 2.0, 8)
    import jax

    episode = jax.jit(draw)(own_data.own_data(people, sums), 3, jax.random.key(0))
    item, label = np.asarray(episode.support.inputs["item"]), np.asarray(episode.support.label)
    real = np.asarray(episode.support.mask) > 0
    expected = (sums.total[item] - (label - people.mean)) / (sums.count[item] - 1 + 2.0)
    np.testing.assert_allclose(
        np.asarray(episode.support.inputs["bias"])[real], expected[real], atol=1e-5
    )


@pytest.fixture
def happened(monkeypatch):
    """What a run did in order: "links" fitted on validation people, "test" opened."""
    done, fit, opened = [], judge.links_of, records.open_tests
    valid = own_data.load(Data("synthetic"), 0, 200).valid

    def fitted(arms, tasks, *given, **more):
        done.append("links")
        np.testing.assert_array_equal(tasks.query.label, valid.query.label)
        return fit(arms, tasks, *given, **more)

    monkeypatch.setattr(judge, "links_of", fitted)
    monkeypatch.setattr(records, "open_tests", lambda *x: done.append("test") or opened(*x))
    return done


def require_distributions(record, said):
    """Every arm has finite measures of its distribution, and they are in a table of their own."""
    for arm in record.names():
        for metric in ordinal.PROPER:
            values = record.of("new people", arm, records.ALL, metric)
            errors = record.of("new people", arm, records.ALL, "mse")
            assert values.shape == errors.shape and np.isfinite(values).all()
    assert record.extra["ordinal"]["levels"] > 2
    assert said.count("judge a distribution over") == 1 and "log-loss" in said


@pytest.mark.usefixtures("few_draws")
@pytest.mark.slow
def test_federated_runs_small_and_its_record_prints_the_table(tmp_path, capsys, happened):
    options = ["--preset", "quick", "--rounds", "4", "--clients", "4", "--judged", "10"]
    options += ["--arms", "FedAvg, fine-tuned", "FedMeta, MAML", "--inner-steps", "1"]
    config = command.parse(federated.Config, [*options, "--out", str(tmp_path)])
    record = federated.main(config)
    said = capsys.readouterr().out
    assert "target: validation MSE" in said and "FedMeta, MAML" in said
    assert happened == ["links", "test"]
    require_distributions(record, said)
    assert (tmp_path / "bytes.png").is_file()
    arm = record.arm("FedMeta, MAML")
    assert arm.settings["up"] == arm.settings["down"]  # nobody of four is dropped at 10 %
    again = records.read(tmp_path / "federated-synthetic.record")
    fed_report.report(again, tmp_path / "again")
    assert (
        capsys.readouterr().out.splitlines()[1:4]
        == said[said.index("synthetic: ") :].splitlines()[1:4]
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--arms", "FedMeta, MAML"], "--arms needs 'FedAvg"),
        (["--clients", "9999"], "a cohort of 9999"),
        (["--drop", "1"], "drops all"),
    ],
)
def test_federated_refuses_before_training(options, line, tmp_path):
    config = command.parse(
        federated.Config, ["--preset", "quick", "--out", str(tmp_path), *options]
    )
    with pytest.raises(UserError, match=line):
        federated.main(config)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.slow
def test_private_runs_small_and_its_record_prints_the_table(tmp_path, capsys, happened):
    pytest.importorskip("jax_privacy", reason="pip install metajax[privacy]")
    options = ["--preset", "quick", "--rounds", "2", "--judged", "10", "--shadow-people", "40"]
    options += ["--inner-steps", "1", "--num-support", "8", "--rate", "0.02"]
    config = command.parse(private.Config, [*options, "--out", str(tmp_path)])
    record = private.main(config)
    said = capsys.readouterr().out
    assert "both private: MSE" in said and "members, MAML and its sums, epsilon inf" in said
    assert happened == ["links", "test"]
    require_distributions(record, said)
    assert (tmp_path / "epsilon.png").is_file() and (tmp_path / "membership.png").is_file()
    assert priv_report.named_at("bias", 8.0) in record.names()
    priv_report.report(records.read(tmp_path / "private-synthetic.record"), tmp_path / "again")


@pytest.mark.parametrize("epsilon", ["0", "-1"])
def test_an_epsilon_of_nothing_is_refused_before_training(epsilon, tmp_path):
    pytest.importorskip("dp_accounting", reason="pip install metajax[privacy]")
    config = private.Config(epsilons=(float(epsilon),))
    with pytest.raises(UserError, match="give a number above 0"):
        private.measured(config)
