"""MeLU: content embeddings shared by all, decision layers that adapt to the user.

User and item enter by their features alone, one embedding each; only the layers above the
embeddings take gradient steps on the support, and the outer gradient runs through those steps.

Reference: Lee, Im, Jang, Cho, Chung, "MeLU: meta-learned user preference estimator for cold-start
recommendation", KDD 2019.
Run: python -m experiments melu --dataset ml-1m
Published: MAE .75 / .79 / .92 / .92 (warm / user- / item- / both-cold), quoted in the read-me of
the PyTorch re-implementation; the drawn query rows behind it are unpublished.
Deviates: the outer gradient is of second order (that of the published code is not); five inner
steps of rate .01 instead of one of 5e-6, with which a user hardly adapts; training tasks are all
warm users with at least 3 ratings; the output is a correction of the mean rating.
"""

import dataclasses
import functools
from typing import Annotated

import optax

from metajax import benchmark, tree
from metajax.adapters.mixed import Compute, mixed
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import melu_net
from metajax.results import records
from metajax.settings import Later
from metajax.types import Model, UserError


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    inner_rate: float = 0.01
    """Rate of the gradient steps in a task."""
    inner_steps: int = 5
    """Gradient steps in a task."""
    outer_rate: float = 1e-3
    """Rate of Adam across tasks."""
    embedding: benchmark.Positive = 32
    """Width of each feature's embedding."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the decision layers."""
    compute: Annotated[Compute, Later()] = "float32"
    """Type of activations; parameters, losses and steps are float32 either way."""


def model(config: Config, problem: benchmark.Problem) -> Model:
    """MeLU's network over every categorical feature of the data set.

    Raises:
      UserError: there is none.
    """
    users, items = problem.table.user_features.sizes, problem.table.item_features.sizes
    if not users and not items:
        raise UserError(
            f"{problem.table.name}: MeLU knows users and items by their categories alone, and the "
            "log has none; name tables of them with --users and --items"
        )
    narrow = functools.partial(mixed, compute=config.compute)
    return melu_net(users, items, problem.mean, config.embedding, config.hidden, wrap=narrow)


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """MeLU and its outer optimizer."""
    inner = optax.chain(optax.clip(10.0), optax.sgd(config.inner_rate))
    decision = tree.negate(tree.under("embed"))
    learner = gradient(model(config, problem), inner, config.inner_steps, adapts=decision)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("melu", config, model, {"A6 MeLU": build}, "A6 MeLU")


if __name__ == "__main__":
    benchmark.cli(main, Config)
