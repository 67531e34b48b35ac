"""The command `python -m experiments sinusoid`."""

from metajax import benchmark

from .sinusoid import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
