"""DropGrad: MAML with random noise on the inner gradients during meta-training.

Reference: Tseng, Chen, Tsai, Liu, Lin, Yang, "Regularizing meta-learning via gradient dropout",
ACCV 2020.
Run: python -m experiments drop_grad --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark
from metajax.learners.gradient.maml import gradient
from metajax.results import records
from metajax.transforms.dropgrad import dropgrad, gaussian_noise

from . import maml
from .maml import inner, model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment."""

    share: benchmark.Share = 0.1
    """Dropout rate; the noise on the gradients has the variance of dropout at this rate."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """DropGrad and its outer optimizer."""
    noisy = optax.chain(gaussian_noise(config.share), inner(config))
    learner = gradient(model(config, problem), noisy, config.inner_steps)
    return dropgrad(learner), optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment(
        "drop_grad", config, model, {"A6 DropGrad": build}, "A6 DropGrad"
    )


if __name__ == "__main__":
    benchmark.cli(main, Config)
