"""The command `python -m experiments fresh`."""

from metajax.benchmark.command import cli

from .fresh import Config, main

if __name__ == "__main__":
    cli(main, Config)
