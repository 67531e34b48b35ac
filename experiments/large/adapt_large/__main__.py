"""The command `python -m experiments adapt_large`."""

from metajax import benchmark

from .adapt_large import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
