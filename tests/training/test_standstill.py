"""A run that waits for itself is ended; one that works or waits for its share of a core is not."""

import os
import subprocess
import sys
import time

import pytest

from metajax.training import devices, standstill

WAITS = """
import threading
from metajax.training import devices, standstill
devices.may_wait = lambda: True
{arm}
with standstill.watched(every=0.05, times=4):
    threading.Event().wait({seconds})
print("over")
"""


def run(arm: str, seconds: float) -> subprocess.CompletedProcess[str]:
    text = WAITS.format(arm=arm, seconds=seconds)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


def test_a_command_that_stands_still_ends_with_one_line():
    found = run("standstill.arm()", 50)
    assert found.returncode == os.EX_TEMPFAIL and found.stdout == ""
    lines = found.stderr.split("\n")
    assert lines[0] == "" and lines[1].startswith("error: nothing was computed") and not lines[2]


def test_a_library_ends_nobody():
    found = run("", 0.5)
    assert (found.returncode, found.stdout, found.stderr) == (0, "over\n", "")


@pytest.fixture
def ended(monkeypatch):
    """The statuses that this process would have ended with."""
    found: list[int] = []
    monkeypatch.setattr(devices, "may_wait", lambda: True)
    monkeypatch.setattr(standstill, "_armed", standstill.threading.Event())
    monkeypatch.setattr(os, "_exit", found.append)
    standstill.arm()
    return found


def test_a_run_that_computes_or_is_over_is_left_alone(ended):
    with standstill.watched(every=0.02, times=3):
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            sum(range(1000))
    time.sleep(0.2)
    assert not ended


def test_a_run_that_gets_no_share_of_a_core_is_left_alone(ended, monkeypatch):
    """It uses no time, but a thread of it is ready to run."""
    monkeypatch.setattr(standstill, "_anyone_runs", lambda: True)
    with standstill.watched(every=0.02, times=3):
        time.sleep(0.3)
    assert not ended


def test_only_few_cores_and_an_old_jaxlib_may_wait(monkeypatch):
    monkeypatch.setattr(devices.jax, "default_backend", lambda: "cpu")
    assert devices.may_wait("0.10.2", 2)
    assert not any(devices.may_wait(*of) for of in (("0.11.2", 2), ("0.10.2", 1), ("0.10.2", 16)))
    monkeypatch.setattr(devices.jax, "default_backend", lambda: "gpu")
    assert not devices.may_wait("0.10.2", 2)
