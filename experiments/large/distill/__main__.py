"""The command `python -m experiments distill`."""

from metajax import benchmark

from .distill import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
