"""The command line of an experiment: a typed configuration in, one line for what is wrong."""

import contextlib
import io
import itertools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import tyro

from metajax.types import UserError


def cli(main: Callable[[Any], Any], config: type) -> None:
    """Runs ``main`` on a configuration from the command line.

    What the user can mend is told in one line on standard error, with exit status 1.
    """
    cache = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        main(parse(config, None, sys.modules[main.__module__].__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by the user; the same command goes on from the last checkpoint")


def parse(
    config: type, arguments: Sequence[str] | None = None, description: str | None = None
) -> Any:
    """The configuration from options, or from the command line.

    Raises:
      UserError: an option is not understood.
    """
    said = io.StringIO()
    prefixes = (tyro.conf.OmitArgPrefixes,)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, args=arguments, description=description, config=prefixes)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
        told = " ".join(itertools.takewhile(bool, lines))
        message = f"{told or 'the options are not understood'} (see --help)"
    raise UserError(message)
