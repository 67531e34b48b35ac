"""The commands list their options at once: none of the libraries that compute is imported."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from metajax import __main__ as entry
from metajax.benchmark import command
from metajax.commands import train

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTS = """
import contextlib, io, json, sys
from metajax import __main__ as entry

said = {}
for name in (*entry.COMMANDS, "describe"):
    sys.argv = ["metajax", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        entry.main()
    jax = sys.modules.get("jax")
    said[name] = out.getvalue(), jax is None or type(jax).__name__ == "_Library"
print(json.dumps(said))
"""
"""Each command's list of options, and whether it was given without JAX."""


@pytest.fixture(scope="module")
def lists() -> dict[str, tuple[str, bool]]:
    """The lists of options, all in one process of their own."""
    wide = dict(os.environ, COLUMNS="80")
    command_line = [sys.executable, "-W", "ignore", "-c", LISTS]
    done = subprocess.run(command_line, cwd=ROOT, env=wide, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_needs_none_of_the_libraries_that_compute(lists):
    assert set(lists) == {*entry.COMMANDS, "describe"}
    assert all("usage: " in said and "--help" in said for said, _ in lists.values())
    assert {name for name, (_, without) in lists.items() if not without} == set()


def test_help_is_the_same_with_the_libraries(lists, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command.parse(train.Config, ["--help"])
    options = capsys.readouterr().out.partition("options")[2]
    assert options and options == lists["train"][0].partition("options")[2]
