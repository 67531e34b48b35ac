"""The command `python -m experiments llm_distill`."""

from metajax import benchmark

from .llm_distill import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
