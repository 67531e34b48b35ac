"""Reptile: the shared start moves toward the adapted parameters of each user.

Reference: Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", 2018.
Run: python -m experiments reptile --dataset ml-1m
Published: none under this protocol.
Deviates: the outer step is Adam on the direction theta - phi; item factors and biases are estimated
beforehand from all meta-training ratings.
"""

import optax

from metajax import benchmark
from metajax.learners.gradient.maml import gradient
from metajax.results import records
from metajax.transforms.reptile import reptile

from .maml import Config, inner, model


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """Reptile and its outer optimizer."""
    steps = config.inner_steps
    learner = gradient(model(config, problem), inner(config), steps, second_order=False)
    return reptile(learner), optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("reptile", config, model, {"A6 Reptile": build}, "A6 Reptile")


if __name__ == "__main__":
    benchmark.cli(main, Config)
