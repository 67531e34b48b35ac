"""ANIL: MAML in which only the last layer adapts; the layers below it are shared by all users.

Reference: Raghu et al., "Rapid learning or feature reuse? Towards understanding the effectiveness
of MAML", ICLR 2020.
Run: python -m experiments anil --dataset ml-1m --num-steps 1500
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark, tree
from metajax.learners.gradient.maml import gradient
from metajax.results import records

from . import maml
from .maml import inner, model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment: those of MAML, with more steps in a task."""

    inner_steps: int = 20
    """Gradient steps in a task."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """ANIL and its outer optimizer."""
    head = tree.under("head")
    learner = gradient(model(config, problem), inner(config), config.inner_steps, adapts=head)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("anil", config, model, {"A6 ANIL": build}, "A6 ANIL")


if __name__ == "__main__":
    benchmark.cli(main, Config)
