"""Ensembles of fold-in and a content model: averaged, stacked, or mixed by a gate for each user.

Both models are closed-form and tuned on meta-validation. Stack and gate are fitted on the
meta-validation users, whose ratings no item factor has seen; the control is a gate that is trained
on the meta-training users, on whom the factors look better than they are.

References: Wolpert, "Stacked generalization", 1992; Sill et al., "Feature-weighted linear
stacking", 2009.
Run: python -m experiments ensemble --dataset ml-1m
Published: none under this protocol.
Deviates: two base models; the evidence of the gate is the number of ratings and each model's error
on ratings of the user that it had not adapted on.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from metajax import benchmark
from metajax.adapters.mixed import Compute, mixed
from metajax.benchmark import baselines
from metajax.data import episodes
from metajax.data.episodes import Source
from metajax.learners import ensemble
from metajax.learners.closed_form import ridge
from metajax.models.towers import column, factor_mlp, stored_mean
from metajax.results import records
from metajax.settings import Later
from metajax.training import loop
from metajax.training.outer_gradient import loss_gradient
from metajax.training.updates import optimizer
from metajax.transforms.pretrained import starting_from
from metajax.types import Episode, MetaLearner, Model, Params


@dataclasses.dataclass(frozen=True)
class Config(benchmark.Config):
    """Settings of the experiment."""

    outer_rate: float = 1e-3
    """Rate of Adam for A3, the joint training."""
    gate_rate: float = 0.02
    """Rate of Adam for stack and gate."""
    gate_steps: int = 300
    """Steps of Adam for stack and gate, on the meta-validation users."""
    hidden: tuple[benchmark.Positive, ...] = (64, 64)
    """Widths of the hidden layers of A3 and A4."""
    compute: Annotated[Compute, Later()] = "float32"
    """Type of activations of A3 and A4; the bases are closed forms, which are float32."""


def model(config: Config, data: benchmark.Problem) -> Model:
    """The perceptron of A3 and A4."""
    narrow = functools.partial(mixed, compute=config.compute)
    return factor_mlp(data.mean, config.hidden, wrap=narrow)


def bases(data: benchmark.Problem) -> tuple[list[MetaLearner], list[Params]]:
    """Fold-in and the same over content-predicted factors, tuned, with their parameters."""
    width = data.table.item_features.columns["content_factor"].shape[1] + 1
    content = ridge(
        column("content_factor", constant=True), stored_mean(data.mean, "content_bias"), width
    )
    fold_in, grid = benchmark.fold_in_learner(data)
    tuned = [baselines.closed_form_arm(x, data, grid) for x in (fold_in, content)]
    return [x.learner for x in tuned], [jax.tree.map(lambda p: p[0], x.params) for x in tuned]


def fitted_weigher(learner: MetaLearner, data: benchmark.Problem, config: Config) -> Params:
    """The parameters of stack or gate after descent on the meta-validation users."""
    source, tasks = data.valid
    total = tasks.query.label.shape[0]
    count = min(128, total)

    def sample(data: tuple[Source, Episode], key: jax.Array) -> Episode:
        source, tasks = data
        first = jax.random.randint(key, (), 0, total - count + 1)
        some = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), tasks)
        return jax.vmap(lambda index: episodes.fetch(index, source))(some)

    key = jax.random.key(0)
    params = learner.init(key, data.example)

    def loss(weigher: Params, some: Episode, key: jax.Array):
        one = lambda episode: learner.loss({**params, "weigher": weigher}, episode, key)[0]
        return jnp.mean(jax.vmap(one)(some)), {}

    begin, update = lambda key, some: params["weigher"], optimizer(optax.adam(config.gate_rate))
    recipe = loop.Recipe(begin, loss_gradient(loss), update)
    fitted = loop.fit(recipe, sample, (source, tasks), key[None], config.gate_steps)
    return jax.tree.map(lambda x: x[0], fitted.params)


def fixed(make: Callable[..., MetaLearner]) -> Callable:
    """The build of an ensemble that is fitted on meta-validation and not trained any further."""

    def build(config: Config, data: benchmark.Problem):
        learners, params = bases(data)
        learner = starting_from(make(learners), bases=params)
        if jax.tree.leaves(learner.init(jax.random.key(0), data.example)["weigher"]):
            weigher = fitted_weigher(learner, data, config)
            learner = starting_from(learner, weigher=weigher)
        return learner, optax.set_to_zero()

    return build


build = fixed(ensemble.gated)
"""The gate, fitted, and an outer optimizer that leaves it as it is."""


def in_fold(config: Config, data: benchmark.Problem) -> benchmark.Built:
    """The control: a gate trained on the users whose ratings made the factors."""
    learners, params = bases(data)
    learner = starting_from(ensemble.gated(learners, num_folds=1), bases=params)
    return learner, optax.adam(config.gate_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    methods = {
        "A6 gate": build,
        "A6 stack": fixed(ensemble.stacked),
        "A6 average": fixed(ensemble.averaged),
        "- in-fold gate": in_fold,
    }
    return benchmark.run_experiment(
        "ensemble", config, model, methods, "A6 gate", ablations=("- in-fold gate",)
    )


if __name__ == "__main__":
    benchmark.cli(main, Config)
