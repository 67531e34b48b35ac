"""The command `python -m experiments llm_meta`."""

from metajax import benchmark

from .llm_meta import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
