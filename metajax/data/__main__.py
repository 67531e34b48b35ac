"""The command ``python -m metajax.data describe DATASET``: what a data set holds."""

import contextlib
import dataclasses
import io
import os
import pathlib
import shutil
import sys

import tyro

from metajax.data import describe
from metajax.data.sources import named
from metajax.settings import ReadOptions, parsed
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
        rest = given[1:] if given[:1] == ["describe"] else given
        options = parsed(Describe, rest, prog="python -m metajax.data describe")
        with contextlib.redirect_stderr(io.StringIO()):
            table = named.load(options.dataset, options.data_dir, options.read, options.min_rows)
        width = shutil.get_terminal_size((0, 0)).columns
        print(describe.show(table, width), flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
