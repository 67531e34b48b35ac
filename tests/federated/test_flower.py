"""The Flower app: two client processes and a server over loopback, against the simulator."""

import os
import pathlib
import socket
import subprocess
import sys

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


@pytest.mark.slow
def test_two_client_processes_and_a_server_give_the_simulators_parameters(tmp_path):
    pytest.importorskip("flwr", reason="pip install metajax[federated]: docs/federated.md")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    base = [sys.executable, "-m", "experiments", "flower", "--out", str(tmp_path)]
    base += ["--address", address, "--rounds", "3", "--clients", "2", "--wait", "300"]
    environment = dict(os.environ, FLWR_TELEMETRY_ENABLED="0")
    roles = (["server"], ["client", "--number", "0"], ["client", "--number", "1"], ["simulator"])
    running = [
        subprocess.Popen(
            [*base, "--role", *role], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for role in roles
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0, 0, 0], said
    ours, theirs = (np.load(tmp_path / f"{name}.npz") for name in ("simulator", "server"))
    assert len(ours.files) > 3
    for name in ours.files:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-6)
