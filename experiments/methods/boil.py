"""BOIL: MAML in which all but the last layer adapts; the head is shared by all users.

The mirror image of ANIL, and the control of its claim that features need not adapt.

Reference: Oh et al., "BOIL: towards representation change for few-shot learning", ICLR 2021.
Run: python -m experiments boil --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import optax

from metajax import benchmark, tree
from metajax.learners.gradient.maml import gradient
from metajax.results import records

from .maml import Config, inner, model


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """BOIL and its outer optimizer."""
    body = tree.negate(tree.under("head"))
    learner = gradient(model(config, problem), inner(config), config.inner_steps, adapts=body)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("boil", config, model, {"A6 BOIL": build}, "A6 BOIL")


if __name__ == "__main__":
    benchmark.cli(main, Config)
