"""The command `python -m experiments llm_rec`."""

from metajax import benchmark

from .llm_rec import Config, main

if __name__ == "__main__":
    benchmark.cli(main, Config)
