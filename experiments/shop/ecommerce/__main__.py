"""The command `python -m experiments ecommerce`."""

from metajax import benchmark

from .ecommerce import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
