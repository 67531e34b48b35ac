"""The command `python -m experiments regimes`."""

from metajax import benchmark

from .regimes import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
