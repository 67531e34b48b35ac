"""``python -m metajax.data describe``: what a log holds, counted by hand, and clear refusals."""

import subprocess
import sys

import pytest

from metajax.benchmark import problem
from metajax.data import describe, split
from metajax.data.__main__ import main
from metajax.data.logs import read
from metajax.data.sources import named
from metajax.data.worlds import latent
from metajax.settings import Data
from metajax.types import UserError

ROWS = [
    # user, item, rating, timestamp: 2 users, 3 items, one pair twice, 1970-01-01 to 1970-01-02
    ("a", "x", 5, 0),
    ("a", "y", 4, 10),
    ("a", "x", 2, 86400),
    ("b", "z", 1, 10),
]


@pytest.fixture()
def path(tmp_path):
    file = tmp_path / "mine.csv"
    lines = ["user,item,rating,timestamp", *(",".join(map(str, row)) for row in ROWS)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_counts_by_hand(path):
    facts = dict(describe.summary(read.load(path)))
    assert facts["interactions"] == "4, 1 of a pair that occurred before"
    assert facts["users, items"] == "2, 3"
    assert facts["density"] == "50.000% of all pairs"  # 3 of 6
    assert facts["rows of a user"].startswith("1 (0 %)")
    assert facts["rows of a user"].endswith("3 (100 %)")
    assert facts["labels"] == "1 to 5, mean 3.0000"
    assert facts["positive rate"] == "0.5000 above 3"
    assert facts["shares of labels"] == "1: 25.0%, 2: 25.0%, 4: 25.0%, 5: 25.0%"
    assert (
        facts["times"]
        == "1970-01-01 to 1970-01-02, 3 distinct, 0.0% of rows tied within their user"
    )
    assert facts["user features"] == "none"


def test_a_log_too_small_for_a_split_says_why(path):
    told = dict(describe.tasks(read.load(path)))
    assert told.keys() == describe.RULES.keys()
    assert all(text.startswith("none: ") for text in told.values())
    assert "10 are needed" in told["user-disjoint (metarec)"]


def test_the_tasks_are_those_of_the_splits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["describe", "synthetic"])
    out = capsys.readouterr().out.splitlines()
    line = next(text for text in out if text.startswith("user-disjoint"))
    made = split.user_disjoint(named.load("synthetic"))
    assert f"train {made.train.num_tasks:,}, valid user-cold" in line
    assert made.checksum() in line


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("no-such-set", "no data set 'no-such-set'"),
        ("nowhere/mine.csv", "no such file"),
        ("mine.xlsx", "no such file"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(dataset, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["describe", dataset])
    assert str(stop.value.code).startswith("error: ") and message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)
    assert capsys.readouterr().out == ""


def test_the_command_exits_with_a_line_and_no_traceback(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "metajax.data", "describe", str(empty)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "the file is empty" in done.stderr


def test_an_own_log_is_described(path, capsys):
    main(["describe", str(path)])
    assert "data set                mine, checksum " in capsys.readouterr().out


def test_an_experiment_takes_the_path_of_an_own_log(tmp_path):
    table = latent.rating_log(num_users=200, num_items=100)
    rows = zip(table.user, table.item, table.label, strict=True)
    lines = ["user,item,rating", *(f"u{u},i{i},{r:g}" for u, i, r in rows)]
    file = tmp_path / "shop.csv"
    file.write_text("\n".join(lines) + "\n")
    ready = problem.load(Data(str(file)), num_support=8)
    assert ready.table.name == "shop" and ready.split.protocol == "melu-redrawn"
    assert ready.table.num_users == 200 and len(ready.table) == len(table)
    assert named.short_name(str(file)) == "shop"


def test_an_own_log_too_small_for_an_experiment_is_told_in_one_line(path):
    with pytest.raises(UserError, match="give a larger log") as told:
        problem.load(Data(str(path)))
    assert "\n" not in str(told.value)
