"""Progress: a bar with live metrics on a terminal, a line each minute elsewhere."""

import types

import pytest
from rich.console import Console

from metajax.training import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock whose ``now`` the test sets."""
    found = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_a_short_run_is_quiet_where_there_is_no_terminal(capfd):
    with progress.bar("A3", 10) as update:
        update(10, {"loss": 1.0})
    out, err = capfd.readouterr()
    assert out == "" and err.strip() == ""


def test_a_terminal_shows_steps_time_left_and_metrics(monkeypatch, capfd):
    made = lambda stderr: Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", made)
    with progress.bar("A3 joint", 10) as update:
        update(5, {"loss": 0.125, "valid": 0.5})
    shown = capfd.readouterr().err
    assert "A3 joint" in shown and "5/10" in shown and "ETA" in shown
    assert "loss 0.1250" in shown and "valid 0.5000" in shown


def test_elsewhere_a_line_each_minute_tells_the_time_left(clock, capfd):
    """Compiled after 20 s; from then on ten steps take a second, and 2,000 are to do."""
    said = []
    with progress.bar("omniglot", 2000) as update:
        for done in range(0, 2001, 10):
            clock.now = 20 + done / 10
            update(done, {"loss": 0.5})
            said += [(clock.now, line) for line in capfd.readouterr().err.splitlines()]
    assert said == [
        (60, "omniglot: 400 of 2,000, loss 0.5000, 3 min left"),
        (120, "omniglot: 1,000 of 2,000, loss 0.5000, 2 min left"),
        (180, "omniglot: 1,600 of 2,000, loss 0.5000, 40 s left"),
    ]


def test_a_run_that_goes_on_counts_its_own_steps_only(clock, capfd):
    """Its first 100 steps take 100 s, and 900 are left: 15 minutes, wherever it started."""
    with progress.bar("w", 1800, start=800) as update:
        for clock.now, done in ((70.0, 800), (170.0, 900), (270.0, 1000)):
            update(done, {})
    assert capfd.readouterr().err.splitlines() == [
        "w: 800 of 1,800, time left unknown",
        "w: 900 of 1,800, 15 min left",
        "w: 1,000 of 1,800, 13 min left",
    ]


def test_the_only_update_so_far_counts_from_the_start(clock, capfd):
    with progress.bar("arms", 61) as update:
        clock.now = 65.0
        update(1, {"mae": 0.75})
    assert capfd.readouterr().err == "arms: 1 of 61, mae 0.7500, 1 h 05 min left\n"
    with progress.bar("steps", 60_000) as update:
        clock.now = 130.0
        update(20, {})
    assert capfd.readouterr().err == "steps: 20 of 60,000, time left unknown\n"
