"""The load test of the web service: small, with the true server in a process of its own."""

import numpy as np
import pytest

pytest.importorskip("starlette", reason="pip install metajax[serve]")
pytest.importorskip("uvicorn", reason="pip install metajax[serve]")

from experiments.speed import load
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError


def test_clients_are_timed_and_the_record_says_what_was_found(tmp_path, capsys):
    made = load.main(
        load.Config(
            Output(tmp_path), num_items=3000, dim=8, clients=3, requests=4, kinds=("spread",)
        )
    )
    assert (tmp_path / "load.png").is_file()
    assert records.read(tmp_path / "load.record").names() == [load.ADAPT, load.RANK, load.HTTP]
    of = lambda arm, metric: made.of("requests", arm, "spread", metric)
    for arm in made.names():
        assert of(arm, "wall ms").shape == (1, 12) and (of(arm, "wall ms") > 0).all()
    np.testing.assert_array_equal(of(load.ADAPT, "recall"), 1.0)  # a small one is searched whole
    shown = capsys.readouterr().out
    assert "3 clients at once, 3,000 x 8 items" in shown
    assert "10 ms at p99" in shown and "p99 less HTTP" in shown


def test_a_server_that_does_not_start_is_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match="metajax serve did not start"), load.serving(tmp_path):
        pass
    assert "is no model folder" in capfd.readouterr().err
