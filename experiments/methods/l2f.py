"""L2F: MAML that first scales down the shared start, layer by layer, by a factor for each user.

Reference: Baik, Hong, Lee, "Learning to forget for meta-learning", CVPR 2020.
Run: python -m experiments l2f --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

from metajax import benchmark
from metajax.results import records
from metajax.transforms.attenuate import attenuate

from . import maml
from .maml import Config, model


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """L2F and its outer optimizer."""
    learner, tx = maml.build(config, problem)
    return attenuate(learner), tx


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("l2f", config, model, {"A6 L2F": build}, "A6 L2F")


if __name__ == "__main__":
    benchmark.cli(main, Config)
