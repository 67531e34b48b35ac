"""MAML++: losses after every inner step, and one learned rate per layer and step.

The two of the paper's six tricks that concern a network without batch normalization and with exact
second-order gradients.

Reference: Antoniou, Edwards, Storkey, "How to train your MAML", ICLR 2019.
Run: python -m experiments mamlpp --dataset ml-1m
Published: none under this protocol.
Deviates: the weights of the steps' losses stay constant during training (the paper moves them to
the last step); item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark, optim
from metajax.learners.gradient.maml import gradient
from metajax.results import records
from metajax.transforms.multistep import multistep

from . import maml
from .maml import model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment."""

    last_weight: benchmark.Share = 0.6
    """Weight of the loss after the last inner step; the other steps share the rest."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """MAML++ and its outer optimizer; ``inner_rate`` is where the learned rates start."""
    earlier = (1.0 - config.last_weight) / max(config.inner_steps - 1, 1)
    weights = [earlier] * (config.inner_steps - 1) + [config.last_weight]
    inner = optim.learned_step_rates(config.inner_rate, config.inner_steps)
    learner = multistep(gradient(model(config, problem), inner, 1), weights)
    return learner, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(config.outer_rate))


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("mamlpp", config, model, {"A6 MAML++": build}, "A6 MAML++")


if __name__ == "__main__":
    benchmark.cli(main, Config)
