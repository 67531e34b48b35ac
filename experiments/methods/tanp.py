"""TaNP: a neural process whose task embeddings are clustered and steer the decoder.

Reference: Lin et al., "Task-adaptive neural process for user cold-start recommendation", WWW 2021.
Run: python -m experiments tanp --dataset ml-1m
Published: none under this protocol; the code's own settings are Adam at 1e-4, 10 clusters and a
weight of 1 on both divergences.
Deviates: features instead of one-hot users, which nothing trains for a new user; predictions by the
mean of the latent variable, not by a draw; the target of the cluster loss is sharpened per user;
item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses

import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.adapters.mixed import mixed
from metajax.learners.cold_start.tanp import tanp
from metajax.models.towers import stored_mean
from metajax.results import records
from metajax.types import Model

from .cnp import Base, features, network


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    latent: benchmark.Positive = 32
    """Width of the latent variable."""
    task: benchmark.Positive = 16
    """Width of the task embedding."""
    clusters: benchmark.Positive = 10
    """Clusters of task embeddings."""
    divergence: float = 0.01
    """Weight of KL(latent given all ratings || latent given the support)."""
    cluster: float = 0.01
    """Weight of the cluster loss."""
    hidden: tuple[benchmark.Positive, ...] = (32, 32, 16)
    """Widths of the decoder's layers."""


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The decoder under a task embedding of ones, for A3 and A4."""
    from metajax.models.modulated import adaptive_decoder, with_fixed_code

    net = network(config, problem, adaptive_decoder(config.hidden))
    return with_fixed_code(net, (jnp.zeros(config.latent), jnp.ones(config.task)))


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """TaNP and its outer optimizer."""
    from metajax.models.features import labeled_features
    from metajax.models.modulated import adaptive_decoder, centered_labels

    narrow = lambda model: mixed(model, config.compute)
    encoder = lambda width: centered_labels(narrow(labeled_features((32, 16, width))), problem.mean)
    learner = tanp(
        features(config, problem),
        encoder(config.latent),
        encoder(config.task),
        narrow(adaptive_decoder(config.hidden)),
        stored_mean(problem.mean),
        num_latent=config.latent,
        num_codes=(config.latent, config.task),
        num_clusters=config.clusters,
        divergence_weight=config.divergence,
        cluster_weight=config.cluster,
    )
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("tanp", config, model, {"A6 TaNP": build}, "A6 TaNP")


if __name__ == "__main__":
    benchmark.cli(main, Config)
