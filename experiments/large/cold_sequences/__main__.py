"""The command `python -m experiments cold_sequences`."""

from metajax import benchmark

from .cold_sequences import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
