"""The command ``python -m metajax.data describe DATASET``: a name or the path of a log."""

import argparse
import sys

from metajax.data import describe
from metajax.data.sources import named
from metajax.types import UserError


def main(arguments: list[str] | None = None) -> None:
    """Prints what a data set holds; what the user can mend is told in one line."""
    parser = argparse.ArgumentParser(prog="python -m metajax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("describe", help="counts, density, activity, tasks of each split")
    one.add_argument("dataset", help="synthetic, a named data set, or the path of your own log")
    one.add_argument("--data-dir", help="folder of the named data sets")
    given = parser.parse_args(arguments)
    try:
        print(describe.show(named.load(given.dataset, given.data_dir)))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
