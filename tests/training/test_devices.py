"""What is asked of JAX's devices, and when."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from metajax import places
from metajax.results import records
from metajax.settings import Output
from metajax.training import devices, progress
from metajax.types import UserError


def test_one_device_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    """A process that joins others must do so before JAX looks at its devices."""
    monkeypatch.setattr(jax, "device_count", lambda: pytest.fail("the devices are settled"))
    devices.make_available(1)


def test_more_devices_than_there_are_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax.config, "update", lambda *given: None)
    with pytest.raises(UserError, match="asks for more devices than there are: 1"):
        devices.make_available(3)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch):
    """The environment of the second of two processes that run a command together."""
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")


def test_what_is_written_together_lies_in_the_first_processs_folder(second_of_two, monkeypatch):
    theirs = pathlib.Path("/runs/process-1/out")  # a user's folder may have the name
    assert places.shared(places.own(theirs) / "trials") == theirs / "trials"
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert places.own(theirs) == places.shared(theirs) == theirs


def test_a_process_joins_the_others_with_its_share_of_the_devices(second_of_two, monkeypatch):
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.update({name: value}))
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: asked.update(given))
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    devices.make_available(6)
    assert (asked["jax_num_cpu_devices"], asked["num_processes"], asked["process_id"]) == (3, 2, 1)
    with pytest.raises(UserError, match="cannot share --devices 1;"):
        devices.make_available(1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JAX_NUM_PROCESSES", "two", "JAX_NUM_PROCESSES must be set to a number"),
        ("JAX_PROCESS_ID", "", "JAX_PROCESS_ID must be set to a number"),
        ("JAX_PROCESS_ID", "2", "must be below JAX_NUM_PROCESSES"),
    ],
)
def test_an_environment_that_makes_no_sense_gets_one_line(
    second_of_two, monkeypatch, name, value, said
):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: pytest.fail("it joins"))
    with pytest.raises(UserError, match=said):
        devices.make_available(2)


def test_only_the_first_process_writes_where_the_user_looks(second_of_two, tmp_path, capsys):
    assert Output(out=tmp_path).folder("maml") == tmp_path / "process-1"
    assert places.shared(tmp_path / "process-1" / "checkpoints") == tmp_path / "checkpoints"
    with progress.bar("a run", 2) as update:
        update(2, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_a_process_alone_has_the_whole_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PROCESS_ID", "1")  # a launcher's, without a place to meet
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    assert (places.processes(), places.process()) == (1, 0)
    assert Output(out=tmp_path).folder("maml") == places.shared(tmp_path) == tmp_path


@pytest.mark.slow
def test_two_processes_run_an_experiment_as_one_does(tmp_path):
    """The same scores of every arm, one table, one opening of the test, one whole set of files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "experiments", "maml", "--dataset", "synthetic"]
    command += ["--preset", "quick", "--seeds", "1", "--num-steps", "20"]
    where = lambda name: {**os.environ, "METAJAX_HOME": str(tmp_path / f"home-{name}")}
    run = lambda name, more, **also: subprocess.Popen(
        [*command, *more, "--out", str(tmp_path / name)],
        env=where(name) | also,
        stdout=subprocess.PIPE,
        text=True,
    )
    together = {"JAX_COORDINATOR_ADDRESS": meet, "JAX_NUM_PROCESSES": "2"}
    both = [run("two", ["--devices", "2"], **together, JAX_PROCESS_ID=str(i)) for i in range(2)]
    said = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "A6 MAML" in said[0] and "A6 MAML" not in said[1]
    alone = run("one", [])
    assert alone.communicate(timeout=900) and alone.returncode == 0
    one, two = (records.read(tmp_path / name / "maml-synthetic.record") for name in ("one", "two"))
    assert one.scores.keys() == two.scores.keys()
    for key, scores in one.scores.items():
        if key.metric == "mse":  # a list may turn round where two scores are all but equal
            step = 1 / 128  # of what a record keeps of a squared error
            np.testing.assert_allclose(two.scores[key], scores, rtol=1e-3, atol=step + 1e-6)
        assert two.scores[key].mean() == pytest.approx(scores.mean(), rel=5e-3, abs=5e-3)
    opened = (tmp_path / "home-two" / "ledger").glob("*.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in opened) == 1
    assert (tmp_path / "two" / "process-1" / "maml-synthetic.record").is_file()
    assert not (tmp_path / "two" / "process-1" / "checkpoints").exists()
