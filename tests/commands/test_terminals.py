"""Hostile terminals and folders: nothing wraps into soup, nothing is lost."""

import io
import os
import pathlib
import re

import numpy as np
import pytest
from rich.console import Console

from metajax.data import __main__ as describe
from metajax.results import tables

HEADINGS = ["scenario", "arm", "MAE [95 %]", "RMSE", "nDCG@5", "MAE - A2", "MAE - A4", "N1 gap"]
ROW = ["user-cold (1,234)", "A6 MAML, paths shuffled", "0.7512 [0.741, 0.761]", "0.9431", "0.9120"]
ROW += ["-0.0123*[-0.020, -0.004]", "+0.0001 [-0.003, +0.003]", "+0.0312*[+0.020, +0.041]"]
GRID = tables.Grid("A title", HEADINGS, [ROW, ROW], 2, ["A note of a table."])


def shown(width: int, **terminal) -> str:
    """What a terminal of that width shows of a table."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **terminal)
    tables.terminal(GRID, console)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 150, 200])
def test_a_table_is_whole_at_any_width(width):
    said = shown(width)
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said and "..." not in said
    words = re.sub(r"\s+", " ", said)
    for cell in (*HEADINGS[2:], *ROW):
        for word in cell.split():
            assert word in words.replace(":", ""), f"{word} of {cell!r} is lost"


def test_without_color_there_is_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    tables.terminal(GRID, console)
    assert isinstance(console.file, io.StringIO)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", console.file.getvalue())


@pytest.mark.parametrize("folder", ["with spaces", "accents éñ 数", "a'quote"])
@pytest.mark.parametrize("width", ["60", "40", "0"])
def test_a_log_is_described_wherever_it_lies(folder, width, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("HOME", raising=False)
    path = tmp_path / folder / "my ratings é.csv"
    path.parent.mkdir()
    rows = [f"{u},{i},{1 + (u + i) % 5}" for u in range(30) for i in range(20)]
    path.write_text("\n".join(["user,item,rating", *rows]) + "\n")
    describe.main(["describe", str(path)])
    said = capsys.readouterr().out
    assert "my ratings é" in re.sub(r"\s+", " ", said)
    if width != "0":
        long = [line for line in said.splitlines() if len(line) > int(width)]
        assert not [line for line in long if " " in line.strip()], long


def test_a_log_that_may_only_be_read_is_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "own.csv"
    rng = np.random.default_rng(0)
    rows = [f"{u},{i},{rng.integers(1, 6)}" for u in range(30) for i in range(20)]
    path.write_text("\n".join(["user,item,rating", *rows]) + "\n")
    os.chmod(path, 0o444)
    os.chmod(tmp_path, 0o555)
    before = sorted(pathlib.Path(tmp_path).iterdir())
    monkeypatch.chdir(tmp_path)
    try:
        describe.main(["describe", "own.csv"])
    except SystemExit as stop:
        pytest.fail(str(stop.code))
    finally:
        os.chmod(tmp_path, 0o755)
    assert "600" in capsys.readouterr().out
    assert sorted(pathlib.Path(tmp_path).iterdir()) == before
