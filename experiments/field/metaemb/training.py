"""How the ways to warm an item up are trained, and tried in a search."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.data import episodes
from metajax.data.split import Split
from metajax.data.table import Interactions
from metajax.evaluation import evaluate
from metajax.results import records
from metajax.training import arguments, loop
from metajax.training.devices import on_devices
from metajax.training.steps import Recipe
from metajax.types import MetaLearner, Model, Params

from .report import SCENARIO


class Items(NamedTuple):
    """Items as tasks: the table, its split, the source of training tasks, the click model."""

    table: Interactions
    split: Split
    source: episodes.Source
    base: Model
    in_time: bool


class Way(NamedTuple):
    """A way to warm up, not trained yet.

    Attributes:
      trained: whether outer steps train it; else it is judged as it starts.
      role: what it is in a table.
    """

    learner: MetaLearner
    trained: bool = True
    role: str = records.METHOD


class Steps(NamedTuple):
    """What an outer step sees: so many tasks, split over so many devices."""

    num_tasks: int
    devices: int

    def recipe(self, learner: MetaLearner, outer_rate: float | jax.Array) -> Recipe:
        """The recipe of a learner: Adam, the gradient bounded."""
        tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(outer_rate))
        return loop.recipe(learner, tx)

    def sample(self) -> loop.Sampler:
        """What draws a step's tasks: 60 rows adapt, 40 judge."""
        draw = functools.partial(episodes.draw, num_support=60, num_query=40)
        return loop.sampler(draw, self.num_tasks)


def valid_loss(learner: MetaLearner, data: Items, params: Params) -> jax.Array:
    """The log-loss of the meta-validation items after the first phase."""
    valid = jax.tree.map(jnp.asarray, episodes.fixed(data.split.valid[SCENARIO], 0))
    alter = evaluate.first_shots(data.split.num_query)
    key, fetch = jax.random.key(0), episodes.fetch_from(data.source)
    scores = evaluate.predictions(learner, params, valid, key, fetch=fetch, alter=alter)
    return jnp.mean(jax.vmap(losses.log_loss)(scores, *valid.query[1:]))


def fitted(
    name: str,
    learner: MetaLearner,
    data: Items,
    outer_rate: float,
    steps: Steps,
    num_steps: int,
    seeds: int,
    patience: int = 0,
) -> loop.Fitted:
    """The learner's parameters (S, ...), best on meta-validation after the first phase."""
    return loop.fit(
        on_devices(steps.devices, steps.recipe(learner, outer_rate)),
        steps.sample(),
        data.source,
        jax.random.split(jax.random.key(1), seeds),
        num_steps,
        title=name,
        validate=functools.partial(valid_loss, learner, data),
        patience=patience,
    )


def trials(
    name: str,
    way: Callable[[Mapping[str, Any]], Way],
    data: Items,
    steps: Steps,
    num_steps: int,
) -> Callable[[Mapping[str, float]], float]:
    """Rates -> the lowest loss on meta-validation of a short training of one seed.

    One program serves all rates, see `metajax.training.arguments`. What no outer step trains takes
    one of rate 0.

    Args:
      way: rates, ``outer_rate`` among them -> the way with them.
    """
    trained = way({}).trained

    def of(rates: Mapping[str, Any]) -> Recipe:
        outer_rate = rates["outer_rate"] if trained else 0.0
        return on_devices(steps.devices, steps.recipe(way(rates).learner, outer_rate))

    recipe, sample = arguments.recipe(of), arguments.sampler(steps.sample())
    validate = lambda at: valid_loss(way(at.numbers).learner, data, at.params)
    compiled = loop.programs(recipe, sample, validate)

    def trial(rates: Mapping[str, float]) -> float:
        found = loop.fit(
            recipe,
            sample,
            ({name: jnp.asarray(rate, float) for name, rate in rates.items()}, data.source),
            jax.random.split(jax.random.key(1), 1),
            num_steps if trained else 1,
            title=name,
            validate=validate,
            compiled=compiled,
        )
        return float(found.history["valid"].min())

    return trial
