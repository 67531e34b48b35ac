"""Progress: a bar with live metrics on a terminal, nothing elsewhere."""

from rich.console import Console

from metajax.training import progress


def test_quiet_where_there_is_no_terminal(capfd):
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
