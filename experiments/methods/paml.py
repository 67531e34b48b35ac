"""PAML: the ratings of a user and of friends gate every decision weight; then gradient steps.

A user's friends are the 5 most active users that the user trusts, or fewer. A friend is described
by the number and the damped means, overall and by genre, of their *training* ratings. The control
is the same learner, trained and judged with friends drawn at random.

Reference: Wang et al., "Preference-adaptive meta-learning for cold-start recommendation",
IJCAI 2021.
Run: python -m experiments paml
Published: none under this protocol; the code's own settings are one inner step at 1e-3 and Adam
at 1e-3 with weight decay 3e-3.
Deviates: as `learners.cold_start.paml` says; item factors and biases are estimated beforehand
from all meta-training ratings; the synthetic log has friends drawn from a user's own group.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import benchmark, tree
from metajax.adapters.mixed import mixed
from metajax.benchmark import problem
from metajax.data.episodes import Source
from metajax.data.features import links
from metajax.data.sources import named, published
from metajax.data.table import Interactions
from metajax.learners.cold_start.paml import paml
from metajax.models.towers import vector_mlp
from metajax.results import records
from metajax.types import Model, PyTree, UserError

from .cnp import Base, features, network

CATEGORY = "genre"


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Settings of the experiment."""

    data: benchmark.Data = benchmark.Data(dataset="ciaodvd")
    inner_rate: float = 0.05
    """Rate of the gradient steps in a task."""
    inner_steps: int = 5
    """Gradient steps in a task."""
    code: benchmark.Positive = 16
    """Width of the codes of a user and of a friend."""
    hidden: tuple[benchmark.Positive, ...] = (32, 32)
    """Widths of the gated layers."""
    friends: int = 5
    """Friends of a user, at most."""


def trust(config: Config, table: Interactions) -> np.ndarray:
    """Who trusts whom: links (L, 2) of user indices.

    Raises:
      UserError: the data set has no links between users.
    """
    if table.name == "ciaodvd":
        pairs = published.ciaodvd_trust(named.data_folder(config.data.data_dir))
        return links.known_links(pairs, table)
    if table.name != "synthetic" or "group" not in table.user_features.columns:
        raise UserError(
            f"{table.name}: PAML reads who trusts whom, and the log does not tell; take --dataset "
            "ciaodvd or synthetic"
        )
    group = table.user_features.columns["group"][:, 0]
    rng, users = np.random.default_rng(0), np.arange(table.num_users)
    drawn = [(u, v) for u in users for v in rng.choice(users[group == group[u]], 3)]
    return np.array([(u, v) for u, v in drawn if u != v], np.int32)


def prepare(config: Config, given: benchmark.Problem) -> benchmark.Problem:
    """The problem with what is told of friends, true and dealt at random, in the profile."""
    table, rows = given.table, given.split.train_rows
    activity = np.bincount(table.user[rows], minlength=table.num_users)
    true = links.friends(trust(config, table), activity, config.friends)
    told = links.user_statistics(table, rows, CATEGORY)
    columns = {}
    for name, chosen in (("friend", true), ("stranger", links.shuffled(true, 0))):
        values, known = links.friend_features(chosen, told)
        columns |= {name: jnp.asarray(values), f"{name}_known": jnp.asarray(known)}

    def with_friends(source: Source) -> Source:
        return source._replace(profile={**source.profile, **columns})

    return problem.with_columns(given, with_friends)


def model(config: Config, given: benchmark.Problem) -> Model:
    """The network without gates, for A3 and A4; ``net`` holds the decision weights."""
    from metajax.models.modulated import with_fixed_code

    return with_fixed_code(network(config, given, vector_mlp(config.hidden)), ())


def build(config: Config, given: benchmark.Problem, name: str = "friend") -> benchmark.Built:
    """PAML over the friends of that name in the profile, and its outer optimizer."""
    from metajax.models.features import labeled_features
    from metajax.models.modulated import centered_labels

    below = features(config, given)

    def embed(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        return below.apply(params["embed"], profile, inputs)

    learner = paml(
        model(config, given),
        embed,
        centered_labels(mixed(labeled_features((32, config.code)), config.compute), given.mean),
        lambda profile: (profile[name], profile[f"{name}_known"]),
        optax.chain(optax.clip(10.0), optax.sgd(config.inner_rate)),
        config.inner_steps,
        adapts=tree.under("net"),
        num_code=config.code,
    )
    return learner, optax.adam(config.outer_rate)


def main(config: Config) -> records.Record:
    """The record of the experiment."""
    control = functools.partial(build, name="stranger")
    methods = {"A6 PAML": build, "A6 PAML, friends shuffled": control}
    return benchmark.run_experiment("paml", config, model, methods, "A6 PAML", prepare=prepare)


if __name__ == "__main__":
    benchmark.cli(main, Config)
