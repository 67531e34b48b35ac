"""CNP: the mean code of a user's rated items is an input of the network; no inner steps.

Reference: Garnelo et al., "Conditional neural processes", ICML 2018.
Run: python -m experiments cnp --dataset ml-1m
Published: none under this protocol.
Deviates: the mean of the predictive distribution only; encoder and decoder read the same features,
of which item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.adapters.mixed import Compute, mixed
from metajax.learners.amortized import neural_process
from metajax.models.towers import stored_mean
from metajax.results import records
from metajax.settings import Later
from metajax.transforms.residual import residual, unchanged
from metajax.types import Model


@dataclasses.dataclass(frozen=True)
class Base(benchmark.Config):
    """Settings of the experiments whose networks read the features of a user-item pair."""

    outer_rate: float = 1e-3
    """Rate of Adam across tasks."""
    embedding: benchmark.Positive = 16
    """Width of each category's embedding."""
    compute: Annotated[Compute, Later()] = "float32"
    """Type of activations; parameters, losses and steps are float32 either way."""


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    code: benchmark.Positive = 64
    """Width of a user's code."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the hidden layers of the decoder."""


def features(config: Base, problem: benchmark.Problem) -> Model:
    """The features of a user with each item, their categories embedded."""
    from metajax.models.modulated import pair_features

    table = problem.table
    users, items = table.user_features.sizes, table.item_features.sizes
    return mixed(pair_features(users, items, config.embedding), config.compute)


def network(config: Base, problem: benchmark.Problem, net: Model) -> Model:
    """The model, which a code steers, over these features, beside the mean rating."""
    from metajax.models.modulated import over_features

    net = mixed(net, config.compute)
    return over_features(features(config, problem), net, stored_mean(problem.mean))


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The decoder of a user who has not rated anything, for A3 and A4."""
    from metajax.models.features import conditioned_mlp
    from metajax.models.modulated import with_fixed_code

    net = network(config, problem, conditioned_mlp(config.hidden))
    return with_fixed_code(net, jnp.zeros(config.code))


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """CNP and its outer optimizer."""
    from metajax.models.features import conditioned_mlp, labeled_features
    from metajax.models.modulated import centered_labels

    encoder = mixed(labeled_features((64, config.code)), config.compute)
    learner = neural_process(
        centered_labels(encoder, problem.mean),
        mixed(conditioned_mlp(config.hidden), config.compute),
        config.code,
        embed=features(config, problem),
    )
    learner = residual(learner, stored_mean(problem.mean), shown=unchanged)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("cnp", config, model, {"A6 CNP": build}, "A6 CNP")


if __name__ == "__main__":
    benchmark.cli(main, Config)
