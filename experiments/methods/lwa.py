"""LWA and NLBA: a user's weights, or biases, are linear in the mean liked and disliked item.

Reference: Vartak, Thiagarajan, Miranda, Bratman, Larochelle, "A meta-learning perspective on
cold-start recommendations for items", NeurIPS 2017.
Run: python -m experiments lwa --dataset ml-1m
Published: none under this protocol; the paper's data is not public.
Deviates: ratings above the mean are liked, and the score predicts the rating; item factors and
biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses
from typing import Annotated

import optax

from metajax import benchmark, losses
from metajax.adapters.mixed import Compute, mixed
from metajax.learners.cold_start.lwa import lwa, nlba
from metajax.models.towers import column, stored_mean
from metajax.results import records
from metajax.settings import Later
from metajax.transforms.residual import residual, unchanged
from metajax.types import MetaLearner, Model


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    outer_rate: float = 3e-3
    """Rate of Adam across tasks."""
    hidden: tuple[benchmark.Positive, ...] = (64,)
    """Widths of NLBA's hidden layers."""
    compute: Annotated[Compute, Later()] = "float32"
    """Type of activations; parameters, losses and steps are float32 either way."""


def features(config: Config, problem: benchmark.Problem) -> tuple[Model, int]:
    """The features of items, and their number."""
    width = problem.table.item_features.columns["factor"].shape[1] + 1
    return mixed(column("factor", constant=True), config.compute), width


def beside_mean(learner: MetaLearner, problem: benchmark.Problem) -> MetaLearner:
    """The learner of what is left of ratings beside the item's mean; it is shown whole ratings."""
    return residual(learner, stored_mean(problem.mean), shown=unchanged)


def model(config: Config, problem: benchmark.Problem) -> Model:
    """A linear model of the same features, for A3 and A4."""
    from metajax.models.items import linear_head

    embed, width = features(config, problem)
    return linear_head(embed, stored_mean(problem.mean), width)


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """LWA and its outer optimizer."""
    found = features(config, problem)
    learner = lwa(*found, threshold=problem.mean, loss=losses.squared_error)
    return beside_mean(learner, problem), optax.adam(config.outer_rate)


def build_biases(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """NLBA and its outer optimizer."""
    learner = nlba(
        *features(config, problem),
        config.hidden,
        threshold=problem.mean,
        loss=losses.squared_error,
        compute=config.compute,
    )
    return beside_mean(learner, problem), optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment(
        "lwa", config, model, {"A6 LWA": build, "A6 NLBA": build_biases}, "A6 LWA"
    )


if __name__ == "__main__":
    benchmark.cli(main, Config)
