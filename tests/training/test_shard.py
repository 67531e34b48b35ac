"""Many devices give what one gives: eight of a host, and two processes that talk over gloo."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from training import sharded_run

from metajax.profiling import collectives
from metajax.training import devices, outer_gradient
from metajax.types import UserError

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def started(num_devices: int, *arguments: object) -> subprocess.Popen:
    """A process with so many devices that runs `sharded_run`."""
    environment = dict(
        os.environ, XLA_FLAGS="--xla_backend_optimization_level=0", PYTHONPATH=str(ROOT)
    )
    environment["JAX_NUM_CPU_DEVICES"] = str(num_devices)
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # all compile, and none waits for another
    command = [sys.executable, str(HERE / "sharded_run.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def close(ours: dict, theirs: dict) -> None:
    for name in ("params", "table"):
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_mesh_of_one_device_is_the_plain_gradient():
    state = sharded_run.first_state()
    episodes = sharded_run.draw((), jax.random.key(3))
    alone = outer_gradient.outer_gradient(sharded_run.LEARNER, 4)
    run = lambda gradient_fn: jax.jit(gradient_fn)(state.params, episodes, jax.random.key(4))
    (ours, info), (plain, expected) = run(devices.dealt(devices.mesh(), alone)), run(alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, plain)
    np.testing.assert_allclose(info["loss"], expected["loss"], rtol=1e-6)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict:
    """What `two_devices` tells."""
    script, folder = HERE / "two_devices.py", tmp_path_factory.mktemp("two") / "checkpoints"
    place = dict(os.environ, PYTHONPATH=str(ROOT))
    place["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
    place.pop("JAX_NUM_CPU_DEVICES", None)
    command = [sys.executable, "-W", "error", str(script), str(folder)]
    return told(subprocess.Popen(command, env=place, stdout=subprocess.PIPE, text=True))


@pytest.mark.parametrize("training", ["meta_learning", "sequences", "tables", "carried"])
def test_a_training_on_two_devices_is_that_on_one(both, training):
    """Tasks dealt in chunks, rows of one batch dealt by the compiler, touched rows of a table."""
    one, two = both[training]
    assert len(one) == len(two) > 3
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


def test_a_training_on_two_devices_goes_on_bit_for_bit(both):
    """From a checkpoint after 3 of 4 steps to 7, as if it had been asked for 7 at once."""
    straight, resumed = both["resumed"]
    assert straight == resumed


def test_parameters_come_back_on_one_device(both):
    assert both["lies_on"] == [1]


def test_more_devices_than_there_are_get_one_line(both):
    assert both["refused"].startswith("--devices 3 asks for more devices than there are: 2 (cpu)")


def test_tasks_that_do_not_divide_over_devices_get_one_line(both):
    assert both["uneven"].startswith("5 tasks of a step do not divide over 2 devices; ask for")


def test_a_batch_of_a_later_training_is_refused_before_the_first():
    devices.check_even(4, 32, "windows")
    with pytest.raises(UserError, match="30 windows of a step do not divide over 4 devices; ask"):
        devices.check_even(4, 30, "windows")


def test_devices_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="devices do not divide into groups of 3"):
        devices.mesh(3)


def test_bytes_of_collectives_are_counted_from_the_program():
    """Two all-reduces of 4 * 6 + 2 * 3 bytes, one asynchronous gather of 16 floats; no others."""
    program = """
  %ar = (f32[2,3]{1,0}, /*index=1*/bf16[3]{0}) all-reduce(%a, %b), to_apply=%add
  %ags = (f32[8]{0}, f32[16]{0}) all-gather-start(f32[8]{0} %x), dimensions={0}
  %agd = f32[16]{0} all-gather-done((f32[8]{0}, f32[16]{0}) %ags)
  %s = s32[] all-reduce(s32[] %n), to_apply=%add
  %sum = f32[100]{0} add(f32[100]{0} %y, f32[100]{0} %z), metadata={op_name="all-reduce"}
"""
    assert collectives.collective_bytes(program) == {"all-reduce": 24 + 6 + 4, "all-gather": 64}


@pytest.mark.slow
def test_a_step_sends_the_gradient_of_the_shared_parameters_and_little_else():
    """Eight devices: the parameters' bytes, and as much again at most (the loss, the padding)."""
    eight = told(started(8, 1, "-"))
    size = 4 * sum(len(x) for x in eight["params"])
    assert size <= eight["collectives"]["all-reduce"] <= size + 64


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


def two_processes(num_steps: int, folder: object) -> list[subprocess.Popen]:
    """Two processes of one device each that train together over the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [started(1, num_steps, folder, address, 2, i) for i in range(2)]


@pytest.mark.slow
def test_two_processes_are_one():
    first, second = [told(process) for process in two_processes(3, "-")]
    alone = told(started(1, 3, "-"))
    assert first["devices"] == 2
    close(first, alone)
    close(second, alone)


@pytest.mark.slow
def test_a_killed_process_leaves_a_state_from_which_the_job_goes_on(tmp_path):
    """One of two is killed behind its third step; both are started again and end as one would."""
    first, second = two_processes(500, tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("step 3"):
            break
    second.kill()
    try:
        first.wait(20)
    except subprocess.TimeoutExpired:  # it waits for the other: a launcher ends the rest of a job
        first.kill()
    assert first.wait(20) != 0 and second.wait(20) == -signal.SIGKILL
    for process in (first, second):
        process.communicate()  # closes its pipes
    left = [told(process) for process in two_processes(12, tmp_path)]
    alone = told(started(1, 12, "-"))
    assert 1 <= left[0]["steps"] <= 10 and left[0]["devices"] == 2
    for each in left:
        close(each, alone)
