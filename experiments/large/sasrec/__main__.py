"""The command `python -m experiments sasrec`."""

from metajax import benchmark

from .sasrec import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
