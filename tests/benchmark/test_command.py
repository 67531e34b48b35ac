"""What a person at the command line sees when something is wrong: one line, and what to do."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.methods import fold_in, maml
from metajax import benchmark
from metajax.benchmark import baselines, command, harness, splits
from metajax.data.worlds import latent
from metajax.results import records, tables
from metajax.settings import Data, Output, Training
from metajax.training import devices, loop


def run(monkeypatch, capsys, *options: str, main=maml.main) -> tuple[object, str]:
    """The exit status and the message of an experiment called with the options."""
    monkeypatch.setattr(sys, "argv", ["maml", *options])
    with pytest.raises(SystemExit) as stop:
        command.cli(main, maml.Config)
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().out
    return stop.value.code, said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--no-such-option",), "--no-such-option"),
        (("--num-steps", "many"), "many"),
        (("--dataset",), "--dataset"),
        (("--dataset", "no-such-set"), "no-such-set"),
        (("--dataset", "ml-1m", "--data-dir", "/no/such/folder"), "/no/such/folder"),
        (("--dataset", "no-such-set", "--from-records"), "no record"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(monkeypatch, capsys, options, told):
    _, said = run(monkeypatch, capsys, *options)
    assert said.startswith("error: ") and told in said and "\n" not in said.strip()


def test_help_gives_each_field_of_the_docstring_a_line_of_its_own(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "--help")
    begins = [line.strip().partition(":")[0] for line in said.splitlines()]
    assert status == 0
    assert {"Reference", "Run", "Published", "Deviates"} <= set(begins)


def test_a_reader_that_goes_away_gets_no_traceback():
    """`--help | head -1`: the pipe is closed before the page is written."""
    code = "from experiments.methods import foma; from metajax.benchmark import command; "
    code += "command.cli(foma.main, foma.Config)"
    command_line = [sys.executable, "-c", code, "--help"]
    child = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout and child.stderr
    child.stdout.close()
    said = child.stderr.read().decode()
    assert (child.wait(), said) == (128 + signal.SIGPIPE, "")
    child.stderr.close()


def full(config: maml.Config) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/metrics.jsonl")


def odd(config: maml.Config) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_full_disk_is_told_in_one_line_and_other_failures_are_not_hidden(monkeypatch, capsys):
    _, said = run(monkeypatch, capsys, main=full)
    assert said.startswith("error: cannot write out/metrics.jsonl (No space left")
    assert "the same command" in said and "\n" not in said
    monkeypatch.setattr(sys, "argv", ["maml"])
    with pytest.raises(OSError, match="Input/output error"):
        command.cli(odd, maml.Config)


def test_a_missing_file_names_the_file_and_the_place(monkeypatch, capsys, tmp_path):
    (tmp_path / "ml-1m").mkdir()
    _, said = run(monkeypatch, capsys, "--dataset", "ml-1m", "--data-dir", str(tmp_path))
    assert "ratings" in said and str(tmp_path) in said and "\n" not in said.strip()


def _write_ratings(path: Path, last: str) -> None:
    rows = [f"{u}::{i}::{1 + (u + i) % 5}::{i}" for u in range(1, 30) for i in range(1, 20)]
    path.mkdir()
    (path / "ratings.dat").write_text("\n".join([*rows, last]) + "\n")
    users = "".join(f"{u}::F::25::1::0\n" for u in range(1, 31))
    (path / "users.dat").write_text(users)
    movies = "".join(f"{i}::Film {i} (1990)::Drama\n" for i in range(1, 21))
    (path / "movies.dat").write_text(movies)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("30::1::9::5", "scale"),
        ("30::1", "cut short"),
        ("30::1::nan::5", "nan"),
        ("30::1::x::5", "x"),
    ],
)
def test_a_damaged_ratings_file_is_told_in_one_line(monkeypatch, capsys, tmp_path, last, told):
    _write_ratings(tmp_path / "ml-1m", last)
    _, said = run(monkeypatch, capsys, "--dataset", "ml-1m", "--data-dir", str(tmp_path))
    assert said.startswith("error: ") and told in said.lower() and "\n" not in said.strip()


def test_users_with_too_few_interactions_are_told(monkeypatch, capsys, tmp_path):
    log = tmp_path / "log.csv"
    rows = "".join(f"{u},{i},{1 + (u + i) % 5}\n" for u in range(20) for i in range(5))
    log.write_text("user_id,item_id,rating\n" + rows)
    _, said = run(monkeypatch, capsys, "--dataset", str(log))
    assert "no user has 13 to 100 interactions" in said and "\n" not in said.strip()


def test_a_diverged_run_names_the_step(monkeypatch):
    config = maml.Config(
        data=Data("synthetic"), training=Training(seeds=1, num_steps=4, num_tasks=2)
    )
    monkeypatch.setattr(splits.named, "load", lambda *_: latent.rating_log(240, 120))
    loaded = benchmark.load(config.data)
    learner, _ = maml.build(config, loaded)

    found = baselines.trained_arm("A6", learner, optax.sgd(1e30), loaded, config.training)
    (said,) = found.settings["diverged"]
    assert re.search(r"not finite (at|after) outer step [1-4]", said)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.params))


@pytest.mark.slow
def test_an_experiment_leaves_a_record_a_table_and_a_plot(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(splits.named, "load", lambda *_: latent.rating_log(240, 120))
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "require_clean", lambda changed: None)
    config = maml.Config(
        output=Output(tmp_path, publish=True),
        data=Data("synthetic"),
        training=Training(seeds=2, num_steps=4, num_tasks=4),
        hidden=(8,),
    )
    record = fold_in.main(config)
    printed = capsys.readouterr().out
    assert "A2 fold-in" in printed and "user-cold" in printed
    assert (tmp_path / "k_shot.png").stat().st_size > 10_000
    mean_error = record.of("user_cold", "A0 item mean", "all", "mae").mean()
    assert f"{mean_error:.4f}" in printed

    stored = records.stored("fold_in-synthetic")
    assert tables.grid_of(stored).rows == tables.grid_of(record).rows
    whole = records.stored("fold_in-synthetic", tmp_path)
    for key, scores in record.scores.items():
        np.testing.assert_array_equal(whole.scores[key], scores)
        np.testing.assert_allclose(stored.scores[key], scores, atol=0.01)
    cold = record.of("user_cold", "A2 fold-in", "k=0", "mae")
    np.testing.assert_allclose(cold, record.of("user_cold", "A0 item mean", "all", "mae"), 1e-5)

    # 4 steps of 4 tasks, one gradient each; A4 takes the steps that were chosen for it
    arms = {arm.name: arm for arm in record.arms}
    assert arms["A3 joint"].gradients == (16, 0) and arms["A2 fold-in"].gradients == (0, 0)
    assert arms["A4 fine-tuned"].gradients == (0, arms["A4 fine-tuned"].settings["steps"])
    # beside the profile: nothing, a bias' sums, those of 16 factors and a constant
    profile = arms["A0 item mean"].bytes_per_task or 0
    assert (arms["A1 bias"].bytes_per_task or 0) - profile == 4 * 2
    assert (arms["A2 fold-in"].bytes_per_task or 0) - profile == 4 * (17**2 + 17)


@pytest.mark.slow
def test_a_plot_that_fails_loses_no_record(monkeypatch, capsys, tmp_path):
    def fails(*_):
        raise OSError("no fonts")

    monkeypatch.setattr(splits.named, "load", lambda *_: latent.rating_log(240, 120))
    monkeypatch.setattr(harness.plots, "k_shot", fails)
    config = maml.Config(
        output=Output(tmp_path),
        data=Data("synthetic"),
        training=Training(seeds=2, num_steps=4, num_tasks=4),  # compiled by the test above
        hidden=(8,),
    )
    with pytest.raises(OSError, match="no fonts"):
        fold_in.main(config)
    assert "A2 fold-in" in capsys.readouterr().out
    assert records.stored("fold_in-synthetic", tmp_path).method == "A2 fold-in"


def test_publishing_from_a_changed_checkout_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(records, "uncommitted_changes", lambda: True)
    code, said = run(monkeypatch, capsys, "--publish", "--dataset", "synthetic")
    assert "uncommitted changes" in str(code) and "\n" not in said


def test_an_arm_that_diverged_is_shown_and_stops_nothing():
    fine, gone = np.ones((2, 3)), np.array([[1.0, np.inf, 2.0]])
    assert records.interval(fine, "mae").mean == 1.0
    found = records.interval(gone, "mse")
    assert found.mean == np.inf and np.isnan(found.low) and found.num_units == 3
    assert records.difference(fine, gone).mean == -np.inf
    assert records.difference(gone, fine).mean == np.inf
    assert np.isnan(records.difference(fine, gone).low)


def test_operations_run_in_order_unless_the_user_says_otherwise(monkeypatch, capsys):
    name, _, _ = devices.IN_ORDER.partition("=")
    for given, expected in (
        ("", devices.IN_ORDER),
        ("--xla_dump_to=x", f"{devices.IN_ORDER} --xla_dump_to=x"),
        (f"{name}=true", f"{name}=true"),
    ):
        monkeypatch.setenv("XLA_FLAGS", given)
        run(monkeypatch, capsys, "--no-such-option")
        assert os.environ["XLA_FLAGS"] == expected


def test_a_program_that_may_wait_forever_is_warned_of(monkeypatch):
    """Two batches of linear systems side by side: jaxlib 0.10 on few cores, out of order."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.warns(UserWarning, match="call metajax.training.devices.in_order") as told:
        devices.warn_of_waiting("0.10.2", cores=2)
    assert len(told) == 1 and "jaxlib 0.10.2" in str(told[0].message)
    for version, cores in (("0.11.2", 2), ("0.10.2", 1), ("0.10.2", 16)):
        devices.warn_of_waiting(version, cores)  # a warning would be an error
    devices.in_order()
    devices.warn_of_waiting("0.10.2", cores=2)


def test_seeds_go_side_by_side_in_groups_where_that_is_asked(monkeypatch, tmp_path):
    """Five seeds, two at a time: three programs, each with its own keys and checkpoints."""
    calls = []

    def fit(recipe, sample, data, keys, num_steps, *, checkpoint, go_on, **rest):
        assert go_on
        calls.append((keys, checkpoint))
        value = np.asarray(jax.random.key_data(keys))[:, :1].astype(np.float64)
        lost = (loop.Diverged(1, 3, 1),) if len(calls) == 2 else ()
        params = {"w": jnp.asarray(value)}
        blocks = value.repeat(1 if len(calls) == 2 and rest["patience"] else 2, axis=1)
        state = loop.TrainState(None, None, keys, np.full(len(keys), 2 * blocks.shape[1]))
        return loop.Fitted(params, value[:, 0], {"valid": blocks}, state, 2.0, lost)

    monkeypatch.setattr(baselines.loop, "fit", fit)
    monkeypatch.setattr(baselines.loop, "recipe", lambda learner, tx: None)
    split = types.SimpleNamespace(num_query=1)
    ready = types.SimpleNamespace(split=split, train=None)
    training = Training(seeds=5, seeds_at_once=2, num_steps=4)
    found = baselines.trained_arm("A6", None, None, ready, training, tmp_path)
    assert [len(keys) for keys, _ in calls] == [2, 2, 1]
    assert [path.name for _, path in calls] == ["A6-group-1", "A6-group-2", "A6-group-3"]
    data = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(1), 5)))[:, 0]
    assert found.settings["best_step"] == data.tolist(), "the keys of all seeds, in their order"
    np.testing.assert_allclose(found.params["w"][:, 0], data.astype(np.float32))
    assert found.history["valid"].shape == (5, 2) and found.seconds >= 6.0
    (said,) = found.settings["diverged"]  # the second seed of the second group of two
    assert said.startswith("the loss of seed 3 is not finite at outer step 3; lower")
    calls.clear()
    whole = dataclasses.replace(training, seeds_at_once=0)
    baselines.trained_arm("A6", None, None, ready, whole, tmp_path)
    assert [path.name for _, path in calls] == ["A6"]
    calls.clear()
    until = dataclasses.replace(training, patience=2)
    found = baselines.trained_arm("A6", None, None, ready, until, tmp_path)
    short = np.isnan(found.history["valid"])
    assert short.tolist() == [[False, False]] * 2 + [[False, True]] * 2 + [[False, False]]
    assert found.settings["num_steps"] == 4, "of the longest group"
