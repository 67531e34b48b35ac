"""Meta-SGD: MAML whose inner rate is learned, one per parameter.

Reference: Li, Zhou, Chen, Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017.
Run: python -m experiments metasgd --dataset ml-1m --num-steps 1200
Published: none under this protocol.
Deviates: rates are kept as logarithms, so that they stay positive; item factors and biases are
estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark, optim
from metajax.learners.gradient.maml import gradient
from metajax.results import records

from . import maml
from .maml import model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment: those of MAML, with more steps in a task."""

    inner_steps: int = 10
    """Gradient steps in a task."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """Meta-SGD and its outer optimizer; ``inner_rate`` is where the learned rates start."""
    inner = optim.learned_rates(config.inner_rate)
    learner = gradient(model(config, problem), inner, config.inner_steps)
    return learner, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(config.outer_rate))


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("metasgd", config, model, {"A6 Meta-SGD": build}, "A6 Meta-SGD")


if __name__ == "__main__":
    benchmark.cli(main, Config)
