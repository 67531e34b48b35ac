"""Many devices give what one gives: eight of a host, and two processes that talk over gloo."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import sharded_run

from metajax import outer, shard
from metajax.types import UserError

HERE = pathlib.Path(__file__).resolve().parent


def started(num_devices: int, *arguments: object) -> subprocess.Popen:
    """A process with so many devices that runs `sharded_run`."""
    environment = dict(os.environ, XLA_FLAGS="", JAX_NUM_CPU_DEVICES=str(num_devices))
    command = [sys.executable, str(HERE / "sharded_run.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def close(ours: dict, theirs: dict) -> None:
    for name in ("params", "table"):
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_mesh_of_one_device_is_the_plain_gradient():
    state = sharded_run.first_state()
    episodes = sharded_run.draw((), jax.random.key(3))
    arguments = (sharded_run.LEARNER, state.params, episodes, jax.random.key(4), 4)
    ours, info = jax.jit(lambda: shard.batch_gradient(shard.mesh(), *arguments))()
    plain, expected = jax.jit(lambda: outer.batch_gradient(*arguments))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, plain)
    np.testing.assert_allclose(info["loss"], expected["loss"], rtol=1e-6)


def test_devices_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="devices do not divide into groups of 3"):
        shard.mesh(3)


@pytest.mark.slow
def test_eight_devices_are_one_and_a_checkpoint_moves_between_them(tmp_path):
    """Two steps on eight devices, two more on two: four steps on one."""
    alone = told(started(1, 4, "-"))
    eight = told(started(8, 4, "-"))
    assert (alone["devices"], eight["devices"]) == (1, 8)
    close(eight, alone)
    first = told(started(8, 2, tmp_path))
    assert not np.allclose(first["params"][0], alone["params"][0], rtol=1e-5)
    last = told(started(2, 4, tmp_path))
    assert (last["devices"], last["steps"]) == (2, 2)
    close(last, alone)


@pytest.mark.slow
def test_two_processes_are_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [started(1, 3, "-", address, 2, i) for i in range(2)]
    first, second = [told(process) for process in both]
    alone = told(started(1, 3, "-"))
    assert first["devices"] == 2
    close(first, alone)
    close(second, alone)
