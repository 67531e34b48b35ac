"""MetaHIN: a user is embedded by the items that meta-paths reach from the support; adapts by path.

The paths are UM (the items rated) and, for each item column named, the items that share a value
with them: UMAM by the cast, UMDM by the director. The control permutes the neighbors of these paths
among the items.

Reference: Lu, Fang, Shi, "Meta-learning on heterogeneous information networks for cold-start
recommendation", KDD 2020.
Run: python -m experiments metahin --dataset ml-1m
Published: none under this protocol; the code's own settings are one step of 5e-3 on the aggregator,
one of 5e-3 on the decision weights, Adam at 5e-4, 32 tasks.
Deviates: as `learners.cold_start.metahin` says; no path through other users' ratings (UMUM); a
neighbor is its stored factors and bias, estimated beforehand from meta-training ratings, not a
learned embedding; the profile stands beside the neighbors; inner rates are ten times as large.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import optax
import scipy

from metajax import benchmark
from metajax.adapters.mixed import mixed
from metajax.benchmark import problem
from metajax.data.episodes import Source
from metajax.data.features import links
from metajax.data.features.factors import Sparse
from metajax.data.table import Interactions
from metajax.learners.cold_start.metahin import metahin
from metajax.models.towers import stored_mean
from metajax.results import records
from metajax.transforms.residual import residual
from metajax.types import Model, UserError

from .cnp import Base, features, network


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    path_rate: float = 0.05
    """Rate of the step on the aggregator."""
    task_rate: float = 0.05
    """Rate of the step on the decision weights."""
    code: benchmark.Positive = 16
    """Width of a user along a path."""
    hidden: tuple[benchmark.Positive, ...] = (32, 32)
    """Widths of the decision layers."""
    paths: tuple[str, ...] = ()
    """Item columns that link items; else cast and director, else the genre."""


def columns_of(config: Config, table: Interactions) -> tuple[str, ...]:
    """The item columns whose values link items.

    Raises:
      UserError: the table has none of that name.
    """
    sizes = table.item_features.sizes
    known = [k for k in ("actor", "director") if k in sizes] or [
        k for k in ("genre",) if k in sizes
    ]
    chosen = config.paths or tuple(known)
    if not chosen or not sizes.keys() >= set(chosen):
        raise UserError(
            f"{table.name}: MetaHIN links items that share a value, and no item column "
            f"{', '.join(config.paths) or 'is known to do so'}; name some with --paths, of "
            f"{', '.join(sorted(sizes)) or 'a table that --items names'}"
        )
    return chosen


def prepare(config: Config, given: benchmark.Problem) -> benchmark.Problem:
    """The problem with where each path leads, and where dealt paths lead, beside the items."""
    items, num_items = given.table.item_features, given.table.num_items
    own: Sparse = scipy.sparse.csr_matrix(scipy.sparse.identity(num_items))
    linked = [
        links.same_value(items.columns[k], items.sizes[k]) for k in columns_of(config, given.table)
    ]
    order = np.random.default_rng([0, 12]).permutation(num_items)
    dealt = [path[order] for path in linked]

    def with_paths(source: Source) -> Source:
        inputs = source.inputs
        vectors = jnp.concatenate([inputs["factor"], inputs["bias"][:, None]], axis=1)
        blocks = np.asarray(vectors).reshape(-1, num_items, vectors.shape[1])
        for name, some in (("reach", linked), ("dealt", dealt)):
            sums = links.path_sums([own, *some], blocks)
            inputs = {**inputs, name: jnp.asarray(sums.reshape(-1, *sums.shape[2:]))}
        return source._replace(inputs=inputs)

    return problem.with_columns(given, with_paths)


def model(config: Config, given: benchmark.Problem) -> Model:
    """The network of a user without neighbors, for A3 and A4."""
    from metajax.models.features import conditioned_mlp
    from metajax.models.modulated import with_fixed_code

    net = network(config, given, conditioned_mlp(config.hidden))
    return with_fixed_code(net, jnp.zeros(config.code))


def build(config: Config, given: benchmark.Problem, name: str = "reach") -> benchmark.Built:
    """MetaHIN over the neighbors in the item column of that name, and its outer optimizer."""
    from metajax.models.features import conditioned_mlp

    learner = metahin(
        features(config, given),
        Model(lambda key, profile, inputs: {}, lambda params, profile, inputs: inputs[name]),
        mixed(conditioned_mlp(config.hidden), config.compute),
        num_paths=1 + len(columns_of(config, given.table)),
        num_code=config.code,
        path_rate=config.path_rate,
        task_rate=config.task_rate,
    )
    return residual(learner, stored_mean(given.mean)), optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    control = functools.partial(build, name="dealt")
    methods = {"A6 MetaHIN": build, "A6 MetaHIN, paths shuffled": control}
    return benchmark.run_experiment(
        "metahin", config, model, methods, "A6 MetaHIN", prepare=prepare
    )


if __name__ == "__main__":
    benchmark.cli(main, Config)
