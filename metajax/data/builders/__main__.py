"""``python -m metajax.data.builders NAME``: prepares a data set and prints its folder."""

import argparse
import sys
from pathlib import Path

from metajax.data.builders import prepare
from metajax.types import UserError


def main(arguments: list[str] | None = None) -> None:
    """Prepares one data set."""
    parser = argparse.ArgumentParser(prog="python -m metajax.data.builders", description=__doc__)
    parser.add_argument("name", help="of the data set")
    parser.add_argument("--data-dir", type=Path, help="the folder of data sets")
    parser.add_argument("--cache", type=Path, help="the folder of prepared data sets")
    parser.add_argument("--download", action="store_true", help="fetch what is not there")
    options = parser.parse_args(arguments)
    try:
        print(prepare(options.name, options.data_dir, options.cache, options.download))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
