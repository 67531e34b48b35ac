"""The command line of an experiment: a typed configuration in, one line for what is wrong."""

import contextlib
import io
import itertools
import pathlib
import sys
from collections.abc import Callable
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
    settings = _parse(config, sys.modules[main.__module__].__doc__)
    try:
        main(settings)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped by the user; the same command goes on from the last checkpoint")


def _parse(config: type, description: str | None) -> Any:
    """The configuration from the command line; a wrong option is told in one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, description=description, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()[1:]]
        told = " ".join(itertools.takewhile(bool, lines))
        sys.exit(f"error: {told or 'the options are not understood'} (see --help)")
