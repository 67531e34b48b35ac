"""CAVIA: a context vector adapts to a user by gradient; the network stays the same for all.

Reference: Zintgraf et al., "Fast context adaptation via meta-learning", ICML 2019.
Run: python -m experiments cavia --dataset ml-1m
Published: none under this protocol.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.learners.gradient.context import cavia
from metajax.results import records
from metajax.types import Model

from .cnp import Base, network


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    inner_rate: float = 1.0
    """Rate of the gradient steps of the context."""
    inner_steps: int = 5
    """Gradient steps in a task."""
    context: benchmark.Positive = 16
    """Length of the context."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the hidden layers."""


def steered(config: Config, problem: benchmark.Problem) -> Model:
    """The network that a context steers."""
    from metajax.models.features import conditioned_mlp

    return network(config, problem, conditioned_mlp(config.hidden))


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The network under the context of a new user, for A3 and A4."""
    from metajax.models.modulated import with_fixed_code

    return with_fixed_code(steered(config, problem), jnp.zeros(config.context))


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """CAVIA and its outer optimizer."""
    inner = optax.chain(optax.clip(10.0), optax.sgd(config.inner_rate))
    learner = cavia(steered(config, problem), config.context, inner, config.inner_steps)
    return learner, optax.chain(optax.clip_by_global_norm(10.0), optax.adam(config.outer_rate))


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("cavia", config, model, {"A6 CAVIA": build}, "A6 CAVIA")


if __name__ == "__main__":
    benchmark.cli(main, Config)
