"""The command `python -m experiments omniglot`."""

from metajax import benchmark

from .omniglot import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
