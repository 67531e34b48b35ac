"""MAML: an initialization from which a few gradient steps on the support fit a new user.

Every weight of a perceptron over frozen item factors adapts; the outer gradient runs through the
inner steps (second order).

Reference: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep
networks", ICML 2017.
Run: python -m experiments maml --dataset ml-1m
Published: none under this protocol; MeLU's is in experiments/methods/melu.py.
Deviates: item factors and biases are estimated beforehand from all meta-training ratings.
"""

import dataclasses
import functools

import optax

from metajax import benchmark
from metajax.adapters.mixed import Compute, mixed
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import factor_mlp
from metajax.results import records
from metajax.types import Model


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    inner_rate: float = 0.1
    """Rate of the gradient steps in a task."""
    inner_steps: int = 5
    """Gradient steps in a task."""
    outer_rate: float = 1e-3
    """Rate of Adam across tasks."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the hidden layers."""
    compute: Compute = "float32"
    """Type of activations; parameters, losses and steps are float32 either way."""


def model(config: Config, problem: benchmark.Problem) -> Model:
    """The perceptron over item factors that adapts."""
    narrow = functools.partial(mixed, compute=config.compute)
    return factor_mlp(problem.mean, config.hidden, wrap=narrow)


def inner(config: Config) -> optax.GradientTransformation:
    """The optimizer in a task: gradient descent, every entry of the gradient clipped."""
    return optax.chain(optax.clip(10.0), optax.sgd(config.inner_rate))


def build(config: Config, problem: benchmark.Problem) -> benchmark.Built:
    """MAML and its outer optimizer."""
    learner = gradient(model(config, problem), inner(config), config.inner_steps)
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    return benchmark.run_experiment("maml", config, model, {"A6 MAML": build}, "A6 MAML")


if __name__ == "__main__":
    benchmark.cli(main, Config)
