"""iMAML: each user minimizes a loss with a pull to the shared start; implicit outer gradient.

Reference: Rajeswaran, Finn, Kakade, Levine, "Meta-learning with implicit gradients", NeurIPS 2019.
Run: python -m experiments imaml --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import optax

from metajax import benchmark
from metajax.learners.gradient.implicit import implicit
from metajax.results import records

from . import maml
from .maml import inner, model


@dataclasses.dataclass(frozen=True)
class Config(maml.Config):
    """Settings of the experiment."""

    inner_steps: int = 10
    """Gradient steps in a task."""
    strength: float = 1.0
    """Strength of the pull to the shared start; the loss's curvature must stay above minus this."""
    solver_steps: benchmark.Positive = 5
    """Conjugate-gradient steps of the outer gradient."""


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """iMAML and its outer optimizer."""
    learner = implicit(
        model(config, problem),
        inner(config),
        config.inner_steps,
        strength=config.strength,
        num_solver_steps=config.solver_steps,
    )
    return learner, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(config.outer_rate))


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("imaml", config, model, {"A6 iMAML": build}, "A6 iMAML")


if __name__ == "__main__":
    benchmark.cli(main, Config)
