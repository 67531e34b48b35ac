"""The command `python -m experiments tables`."""

from metajax.benchmark.command import cli

from .tables import Config, main

if __name__ == "__main__":
    cli(main, Config)
