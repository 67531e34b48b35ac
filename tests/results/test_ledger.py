"""The ledger of test tasks: every opening is written down, counted and told, across processes."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from metajax import places
from metajax.results import ledger, records, tables


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def opened(config=Config(), experiment="mine", tests="0123", **choices) -> records.Opening:
    return ledger.enter(ledger.freeze(config, choices), experiment, tests)


def counts(line: records.Opening) -> tuple[int | None, int | None]:
    return line.times_opened, line.configurations


def test_openings_are_counted_by_experiment_and_test_tasks():
    assert counts(opened()) == (1, 1)
    assert counts(opened(Config(0.2))) == (2, 2), "another configuration is allowed, and counted"
    assert counts(opened(Config(0.2), steps=5)) == (3, 2), "and so is another choice"
    assert counts(opened(experiment="other")) == (1, 1)
    assert counts(opened(tests="4567")) == (1, 1)


def test_another_process_counts_too(home):
    opened()
    code = (
        "import dataclasses\n"
        "from metajax.results import ledger\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Config:\n    rate: float = 0.7\n"
        "line = ledger.enter(ledger.freeze(Config(), {}), 'mine', '0123')\n"
        "print(line.times_opened, line.configurations)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2"]
    lines = (home / "ledger" / "0123.jsonl").read_text().splitlines()
    assert [json.loads(line)["experiment"] for line in lines] == ["mine", "mine"]


def test_what_is_published_counts_where_nobody_has_run_it(monkeypatch, tmp_path):
    first = opened()
    ledger.publish((first,), "mine", tmp_path)
    ledger.publish((first,), "mine", tmp_path)  # once is enough
    assert len((tmp_path / ledger.PUBLISHED).read_text().splitlines()) == 1
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "elsewhere"))
    ticket = ledger.freeze(Config(0.9), {})
    assert counts(ledger.enter(ticket, "mine", "0123", published=tmp_path)) == (2, 2)
    assert counts(ledger.enter(ticket, "other", "0123", published=tmp_path)) == (1, 1)


def test_a_line_cut_short_hides_no_other(home):
    opened()
    with (home / "ledger" / "0123.jsonl").open("a") as file:
        file.write('{"experiment": "mi\n')
    assert counts(opened(Config(0.2))) == (2, 2)


def test_a_ledger_that_cannot_be_written_is_told_and_stops_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "file"))
    assert counts(opened()) == (1, 1)
    assert "not in the ledger" in capsys.readouterr().err


def test_digests_of_test_tasks():
    images = np.arange(6).reshape(2, 3)
    base = ledger.checksum("5-way", images, jax.random.key(2))
    assert base == ledger.checksum("5-way", images.copy(), jax.random.key(2))
    assert base != ledger.checksum("5-way", images + 1, jax.random.key(2))
    assert base != ledger.checksum("5-way", images.T, jax.random.key(2))
    assert base != ledger.checksum("5-way", images, jax.random.key(3))


def test_the_table_says_how_often_and_under_how_many_configurations():
    record = records.Record("x", environment=records.Environment(date="today"))
    told = lambda *lines: tables.opened(dataclasses.replace(record, opened=lines))
    once = records.Opening(times_opened=1, configurations=1)
    assert told() == told(once) == told(records.Opening()) == "Test tasks opened once, on today."
    twice = records.Opening(times_opened=3, configurations=2)
    assert "opened 3 times by this experiment, under 2 configurations" in told(once, twice)


def test_the_place_is_the_users(home):
    assert places.state() == home


def test_openings_of_tasks_that_nobody_named_are_counted_apart(tmp_path):
    untold = {"config_hash": "a", "settings_hash": "", "frozen": "", "source": "an old record"}
    told = [
        {"experiment": "mine", "split": "", "written": "2026-01-01", **untold},
        {"experiment": "mine", "split": "", "written": "2026-01-02", **untold},
        {"experiment": "mine", "split": "0123", "written": "2026-01-03", **untold},
        {"experiment": "other", "split": "", "written": "2026-01-04", **untold},
        {"experiment": "other", "split": "0123", "written": "2026-01-05", **untold},
    ]
    (tmp_path / ledger.PUBLISHED).write_text("".join(json.dumps(line) + "\n" for line in told))
    line = ledger.enter(ledger.freeze(Config(), {}), "mine", "0123", published=tmp_path)
    assert counts(line) == (2, 2)
    assert (line.times_unnamed, line.times_by_others) == (2, 1)
    record = records.Record("x", environment=records.Environment(date="today"), opened=(line,))
    said = tables.opened(record)
    assert "Other experiments opened them once before." in said
    assert "Earlier records of it opened test tasks 2 times that they do not name." in said


def test_what_is_published_counts_for_who_opened_it(tmp_path):
    """Several test sets of one experiment are opened under names of their own."""
    line = ledger.enter(ledger.freeze(Config(), {}), "sinusoid-k5", "0123")
    ledger.publish((line,), "sinusoid", tmp_path)
    (told,) = ledger.lines(tmp_path / ledger.PUBLISHED)
    assert told["experiment"] == "sinusoid-k5"


def test_the_ledger_begins_with_what_the_history_of_records_is_certain_of():
    told = list(ledger.lines(records.RESULTS / ledger.PUBLISHED))
    past = [line for line in told if "source" in line]
    assert len(past) > 100
    for line in past:
        assert line["experiment"] and line["config_hash"] and line["written"]
        assert line["source"].startswith("record ")
        assert bool(line["frozen"]) == bool(line["settings_hash"]), "both are of the old ticket"
    of_t2 = [line for line in past if line["split"] == "87851aa3bc5c79bc"]
    assert len(of_t2) == 17, "16 versions of records of methods, and the survey of data sets"
    folds = [line for line in past if line["split"] == "20af7aec15068c04"]
    assert len(folds) == 2, "fold 0 of T1 was opened before the five folds were"
