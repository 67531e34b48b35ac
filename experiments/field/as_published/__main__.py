"""The command `python -m experiments as_published`."""

from metajax.benchmark.command import cli

from .as_published import Config, main

if __name__ == "__main__":
    cli(main, Config)
