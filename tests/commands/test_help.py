"""The commands list their options at once: none of the libraries that compute is imported."""

import pathlib

import pytest
from option_lists import listed

from metajax import __main__ as entry
from metajax.benchmark import command
from metajax.commands import train

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lists() -> dict[str, tuple[str, bool]]:
    """The lists of options, all in one process of their own."""
    return listed(
        "from metajax import __main__ as entry",
        '(*entry.COMMANDS, "describe")',
        "[name]",
        "entry.main()",
    )


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
