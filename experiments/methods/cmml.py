"""CMML: a context computed from a user's ratings modulates every layer; no inner gradient steps.

Reference: Feng et al., "CMML: contextual modulation meta learning for cold-start recommendation",
CIKM 2021.
Run: python -m experiments cmml --dataset ml-1m
Published: none under this protocol; the code's own settings are Adam at 3e-4, 64-64, a hypernetwork
of 256.
Deviates: without a context the modulation is the identity; item factors and biases are estimated
beforehand from all meta-training ratings.
"""

import dataclasses

import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.adapters.mixed import mixed
from metajax.learners.cold_start.cmml import cmml
from metajax.models.towers import stored_mean
from metajax.results import records
from metajax.transforms.residual import residual, unchanged
from metajax.types import Model

from .cnp import Base, features, network


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    outer_rate: float = 3e-4
    """Rate of AdamW across tasks."""
    hyper: benchmark.Positive = 256
    """Width of the network that makes scales and shifts."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the modulated layers."""


def num_features(config: Config, problem: benchmark.Problem) -> int:
    """The number of `features`, which is also the length of a context."""
    users, items = problem.table.user_features, problem.table.item_features
    stored = items.columns["factor"].shape[1] + 1
    return config.embedding * (len(users.sizes) + len(items.sizes)) + stored


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The network without a context, for A3 and A4."""
    from metajax.models.modulated import film_mlp, with_fixed_code

    net = network(config, problem, film_mlp(config.hidden, config.hyper))
    return with_fixed_code(net, jnp.zeros(num_features(config, problem)))


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """CMML and its outer optimizer."""
    from metajax.models.features import labeled_features
    from metajax.models.modulated import centered_labels, film_mlp

    width = num_features(config, problem)
    learner = cmml(
        features(config, problem),
        centered_labels(mixed(labeled_features((64, width)), config.compute), problem.mean),
        mixed(film_mlp(config.hidden, config.hyper), config.compute),
        width,
    )
    learner = residual(learner, stored_mean(problem.mean), shown=unchanged)
    return learner, optax.adamw(config.outer_rate, weight_decay=1e-5)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("cmml", config, model, {"A6 CMML": build}, "A6 CMML")


if __name__ == "__main__":
    benchmark.cli(main, Config)
