"""An experiment of one's own, in an empty folder, written by the letter of the tutorial.

The file is put together from the blocks of docs/tutorial.md and nothing else.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from metajax.results import records

pytestmark = pytest.mark.slow  # a whole table: a minute on two cores
ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = ("--seeds", "1", "--num-steps", "4", "--num-tasks", "2")
ARMS = ("A0 item mean", "A3 joint", "A6 level", "B1 level")


def block(holding: str) -> str:
    """The one block of code of the tutorial that has a text in it."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    found = [code for code in re.findall(r"```py\w*\n(.*?)```", text, re.DOTALL) if holding in code]
    assert len(found) == 1, holding
    return found[0]


def run(folder: pathlib.Path, *arguments: str) -> str:
    """What Python prints in the folder, metajax being importable as if it were installed."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), COLUMNS="160")
    environment["METAJAX_RESULTS"] = str(folder / "results")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with a log and ``level.py``, whose experiment a suite has run."""
    folder = tmp_path_factory.mktemp("own")
    parts = ("def level(", "class Config(", "benchmark.cli(")
    (folder / "level.py").write_text("\n".join(block(part) for part in parts))
    run(folder, "-c", block("csv.writer"))
    settings = "seeds = 1\nnum_steps = 4\nnum_tasks = 2\nnum_support = 16\n"
    (folder / "mine.toml").write_text(f'[[members]]\ndataset = "my_ratings.csv"\n{settings}')
    said = run(folder, "-m", "experiments", "suite", "mine.toml", "--module", "level")
    assert "level-my-ratings.csv" in said.replace("_", "-") and "done" in said
    return folder


def test_it_leaves_a_record_with_its_own_arms_and_prints_it_again(place):
    (path,) = place.glob("out/suite-mine/*/*.record")
    record = records.read(path)
    assert record.method == "A6 level" and set(ARMS) < set(record.names())
    assert record.arm("B1 level").role == records.BASELINE
    assert record.arm("B1 level").settings == {"damping": 1.0}
    assert record.opened[0].times_opened == 1
    log = (path.parent / "log.txt").read_text()
    options = ("--dataset", "my_ratings.csv", "--out", str(path.parent), "--from-records")
    printed = run(place, "level.py", *options)
    numbers = re.findall(r"\d\.\d{3,}", printed)
    assert all(arm in printed for arm in ARMS) and len(numbers) > 20
    assert set(numbers) <= set(re.findall(r"\d\.\d{3,}", log)), "the table of the run itself"
    made = {path.name for path in place.iterdir()} - {"__pycache__"}
    assert made == {"level.py", "mine.toml", "my_ratings.csv", "out"}, "nothing lies elsewhere"


def test_the_queue_does_it_again_when_its_code_changes(place):
    again = run(place, "-m", "experiments", "suite", "mine.toml", "--module", "level", "--dry-run")
    assert "done" in again and "to do" not in again
    code = (place / "level.py").read_text()
    (place / "level.py").write_text(code.replace("(16,)", "(8,)"))
    again = run(place, "-m", "experiments", "suite", "mine.toml", "--module", "level", "--dry-run")
    (place / "level.py").write_text(code)
    assert "to do" in again and "its code has changed" in again


def test_it_can_be_tuned(place):
    pytest.importorskip("optuna")
    space = ("--space", "outer_rate=log:0.001:0.3", "--trials", "2")
    data = ("--dataset", "my_ratings.csv")
    said = run(place, "-m", "experiments", "search", "--module", "level", *data, *space, *SMALL)
    assert "outer_rate" in said and "valid mse" in said
    assert (place / "out" / "search-level-my_ratings" / "budget.png").is_file()
