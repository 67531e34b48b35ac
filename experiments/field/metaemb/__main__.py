"""The command `python -m experiments metaemb`."""

from metajax.benchmark.command import cli

from .metaemb import Config, main

if __name__ == "__main__":
    cli(main, Config)
