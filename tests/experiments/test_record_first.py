"""A record is written before anything is printed or drawn, and nothing that fails then loses it."""

import sys

import order
import pytest

from experiments import HERE, sources
from experiments.speed import bandits, benchmark
from metajax.results import records
from metajax.settings import Stored
from metajax.training import progress

NO_RECORD = {
    "methods.evidence": "prints what a trained model says of one person",
    "trust.flower": "a server and its clients, whose result are parameters",
    "speed.worker": "a process of the benchmark, which answers on a pipe",
    "speed.device_worker": "a process of the benchmark, which answers on a pipe",
    "pages.classics": "writes a page of stored records",
    "pages.decision_tables": "writes a page of stored records",
    "pages.index": "writes the list of experiments",
    "tools.suite": "starts other commands, each with its own record",
}
IN_A_LIST = {
    "field.tables.tables": ("run_part", "run_clicks"),
    "large.regimes.regimes": ("drifting", "shelved", "long_window"),
}
"""Commands whose ``main`` takes the functions that make their records from a list."""


def functions() -> list[str]:
    """The dotted names of the functions that make records."""
    paths = [path for _, _, path in sources()] + [HERE / "speed" / "tables.py"]
    modules = [".".join(p.relative_to(HERE).with_suffix("").parts) for p in paths]
    return [
        f"experiments.{module}.{name}"
        for module in sorted(modules)
        if module not in NO_RECORD
        for name in IN_A_LIST.get(module, ("main",))
    ]


def test_a_record_is_written_before_anything_is_shown():
    early = []
    for name in functions():
        writes, places = order.followed(name)
        assert writes, f"{name} writes no record; name it in NO_RECORD or IN_A_LIST"
        early += places
    assert not early, "\n".join(
        ["progress.say tells of a run that goes on;", *dict.fromkeys(early)]
    )


PLANTED = """
from metajax.results import plots, records
from metajax.training import progress

def made(config):
    progress.say("on its way")
    {early}
    records.write("out", "name", 1)
    print("after")

def shown(made, config):
    return made(config)

def main(config):
    if config.only:
        print("no record")
        return
    shown(made, config)
    plots.arms([], "arms.png", "accuracy")
"""


@pytest.mark.parametrize("early", ["pass", "print(1)", "plots.arms([], 'early.png', '')"])
def test_what_is_planted_too_early_is_found(early, tmp_path, monkeypatch):
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "planted.py").write_text(PLANTED.format(early=early))
    monkeypatch.setattr(order, "ROOT", tmp_path)
    for told in (order.source, order.names, order.settled, order.defined):
        told.cache_clear()
    writes, places = order.followed("experiments.planted.main")
    for told in (order.source, order.names, order.settled, order.defined):
        told.cache_clear()
    assert writes and len(places) == (early != "pass")
    assert early == "pass" or places[0].startswith("experiments.planted, line 7: ")


def test_a_plot_that_fails_leaves_the_record(tmp_path, monkeypatch):
    def broken(*given, **told):
        raise RuntimeError("no font")

    monkeypatch.setattr(bandits, "missing", lambda: None)
    monkeypatch.setattr(bandits, "ours", lambda *given: bandits.Timed(1, 1.0, 1.0, 0.5))
    for way in ("gymnasium_loop", "mabwiser_loop"):
        monkeypatch.setattr(bandits, way, lambda *given: bandits.Timed(1, 1.0, 1.0, 0.5))
    monkeypatch.setattr(bandits.tables, "terminal", broken)
    config = benchmark.Config(output=Stored(tmp_path), workload=("bandits",))
    with pytest.raises(RuntimeError, match="no font"):
        benchmark.main(config)
    assert len(records.read(tmp_path / f"{bandits.NAME}.record").extra["rows"]) == 4


class Gone:
    """A stream that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError

    flush = write


def test_a_line_of_progress_that_cannot_be_printed_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    progress.say("half done")
