"""The command `python -m experiments ranking`."""

from metajax.benchmark.command import cli

from .ranking import Config, main

if __name__ == "__main__":
    cli(main, Config)
