"""The Flower app: two client processes and a server over loopback, against the simulator."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from metajax.federated import flower
from metajax.types import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("address", ["", "9092", "localhost:", "localhost:port", "host:99999"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(UserError, match="give host:port") as error:
        flower.parsed(address)
    assert "\n" not in str(error.value)


def test_a_certificate_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no certificate .*ca\.pem"):
        flower.join(None, "127.0.0.1:9092", tmp_path)
    (tmp_path / "ca.pem").write_bytes(b"")
    with pytest.raises(UserError, match=r"no certificate .*server\.pem"):
        flower.serve(None, "127.0.0.1:9092", 1, tmp_path)


def test_an_address_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="cannot listen"):
            flower.serve(None, f"127.0.0.1:{port}", 1)


def test_another_model_is_refused():
    with pytest.raises(UserError, match="2 arrays arrived and the parameters have 1"):
        flower.tree_of([np.zeros(2), np.zeros(3)], {"w": np.zeros(2)})


def processes(folder: pathlib.Path, *roles: list[str]) -> list[subprocess.Popen]:
    """Processes of the experiment, one for each role."""
    environment = dict(os.environ, FLWR_TELEMETRY_ENABLED="0")
    base = [sys.executable, "-m", "experiments", "flower", "--out", str(folder)]
    return [
        subprocess.Popen(
            [*base, "--clients", "2", "--wait", "300", "--role", *role],
            cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for role in roles
    ]  # fmt: skip


def free_address() -> str:
    """An address that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def ended(running: list[subprocess.Popen], *, well: int) -> list[str]:
    """What processes said; the last ``well`` must have ended without an error."""
    try:
        said = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running[-well:]), said
    return said


def same_parameters(folder: pathlib.Path) -> None:
    ours, theirs = (np.load(folder / f"{name}.npz") for name in ("simulator", "server"))
    assert len(ours.files) > 3
    for name in ours.files:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-6)


@pytest.mark.slow
def test_two_client_processes_and_a_server_give_the_simulators_parameters(tmp_path):
    pytest.importorskip("flwr", reason="pip install metajax[federated]: docs/federated.md")
    at = ["--address", free_address(), "--rounds", "3"]
    roles = (["server"], ["client", "--number", "0"], ["client", "--number", "1"], ["simulator"])
    ended(processes(tmp_path, *([*role, *at] for role in roles)), well=4)
    same_parameters(tmp_path)


@pytest.mark.slow
def test_a_server_that_dies_goes_on_from_its_last_round(tmp_path):
    pytest.importorskip("flwr", reason="pip install metajax[federated]: docs/federated.md")
    clients = (["client", "--number", "0"], ["client", "--number", "1"])
    at = ["--address", free_address(), "--rounds", "400"]
    running = processes(tmp_path, *([*role, *at] for role in (["server"], *clients)))
    rounds, until = tmp_path / "rounds", time.monotonic() + 300
    while time.monotonic() < until and len([x for x in rounds.glob("*") if x.name.isdigit()]) < 2:
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.communicate()
    done = max(int(x.name) for x in rounds.glob("*") if x.name.isdigit())
    assert 0 < done < 400
    at = ["--address", free_address(), "--rounds", str(done + 2)]
    roles = (["server"], *clients, ["simulator"])
    said = ended(processes(tmp_path, *([*role, *at] for role in roles)), well=4)
    assert "goes on after round" in said[0]
    same_parameters(tmp_path)
