"""The command ``python -m metajax.data describe DATASET``: what a data set holds."""

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import shutil
import sys
from typing import Any

import tyro

from metajax.data import describe
from metajax.data.sources import named
from metajax.settings import ReadOptions, check
from metajax.types import UserError


@dataclasses.dataclass(frozen=True)
class Describe:
    """Shows what a data set holds: how its file is read, counts, and the tasks of each split."""

    dataset: tyro.conf.Positional[str]
    """synthetic, a named data set, or the path of your own log."""
    data_dir: pathlib.Path | None = None
    """Folder of the named data sets; by default METAJAX_DATA, else ./data."""
    read: ReadOptions = dataclasses.field(default_factory=ReadOptions)
    """How a log of your own is read, where detection would be wrong."""
    min_rows: int = 0
    """Leave out users with fewer rows."""


def main(arguments: list[str] | None = None) -> None:
    """Prints what a data set holds; what the user can mend is told in one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] != ["describe"] and not {"-h", "--help"} & {*given}:
            raise UserError(
                "say: python -m metajax.data describe DATASET (--help tells the options)"
            )
        options = _parse(given[1:] if given[:1] == ["describe"] else given)
        with contextlib.redirect_stderr(io.StringIO()):
            table = named.load(options.dataset, options.data_dir, options.read, options.min_rows)
        width = shutil.get_terminal_size((0, 0)).columns
        print(describe.show(table, width), flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(given: list[str]) -> Any:
    """The options of a command line.

    Raises:
      UserError: one is not understood.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(
                Describe,
                prog="python -m metajax.data describe",
                args=given,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        return check(found)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
        message = " ".join(itertools.takewhile(bool, lines))
    raise UserError(f"{message or 'the options are not understood'} (see --help)")


if __name__ == "__main__":
    main()
