"""MR-MAML: ANIL with noisy shared layers and a penalty on their information about single users.

Reference: Yin, Tucker, Zhou, Levine, Finn, "Meta-learning without memorization", ICLR 2020.
Run: python -m experiments mr_maml --dataset ml-1m
Published: none under this protocol; the paper's own tasks are in `memorization`.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark, tree
from metajax.learners.gradient.maml import gradient
from metajax.results import records
from metajax.transforms.regularize import noisy

from . import maml
from .maml import inner, model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment."""

    strength: float = 1e-5
    """Penalty, in loss per task, on one nat of information in the shared layers."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """MR-MAML and its outer optimizer."""
    head = tree.under("head")
    learner = gradient(model(config, problem), inner(config), config.inner_steps, adapts=head)
    learner = noisy(learner, config.strength, tree.under("model/body"))
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("mr_maml", config, model, {"A6 MR-MAML": build}, "A6 MR-MAML")


if __name__ == "__main__":
    benchmark.cli(main, Config)
