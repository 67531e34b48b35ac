"""The command `python -m experiments llm_uses`."""

from metajax import benchmark

from .llm_uses import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
