"""The command `python -m experiments attention`."""

from metajax import benchmark

from .attention import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
