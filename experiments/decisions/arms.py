"""The arms of the bandit experiment: what past users taught, and two numbers, to a policy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.decide import beliefs, policies
from metajax.decide.environment import Policy
from metajax.results import records

from .worlds import Tables

META, META_UCB = "meta-learned prior, Thompson", "meta-learned prior, UCB"
SUM, UNSURE = "meta-learned prior, greedy", "meta-learned prior, no learning"
FLAT, LINUCB, WARM = "flat prior, Thompson", "LinUCB", "popularity + LinUCB"
NEURAL, EPSILON = "neural-linear, Thompson", "epsilon-greedy"
POPULAR, RANDOM, ORACLE = "popularity", "random", "oracle"
SHUFFLED, OTHERS = "rewards shuffled", "the next user's rewards"

OWN = [(p, w) for p in (1.0, 0.7, 0.5) for w in (0.0, 0.05, 0.1, 0.3)]
"""A prior of EM is too narrow for people unlike most, so that wider ones are tried."""
PRECISIONS = (0.5, 2.0, 8.0, 32.0)
PAIRS = [(p, w) for p in PRECISIONS for w in (0.05, 0.2, 0.6)]
SHARES = [(p, e) for p in PRECISIONS for e in (0.0, 0.05, 0.15)]


class Arm(NamedTuple):
    """How an arm is made, and what is tried for it.

    Attributes:
      make: (tables, knobs (2,), the truth (V,)) -> policy; only the oracle may read the truth.
      trials: the knobs that are tried on validation users; one where there is nothing to choose.
      role: in the record.
      control: "" or what is done to the rewards.
      like: the arm whose knobs it has.
    """

    make: Callable[[Tables, jax.Array, jax.Array], Policy]
    trials: list[tuple[float, float]]
    role: str = records.BASELINE
    control: str = ""
    like: str = ""


def lookup(table: jax.Array) -> beliefs.Features:
    """The rows of a table over items that are on offer."""
    return lambda seen: table[seen.inputs["item"]]


def prior(tables: Tables, precision: jax.Array | float = 1.0) -> beliefs.Beliefs:
    """Beliefs from the meta-learned prior, its precision times a factor."""
    root = tables.root / jnp.sqrt(precision)
    return beliefs.gaussian(lookup(tables.rich), tables.mean, root, lookup(tables.offset))


def flat(tables: Tables, precision: jax.Array) -> beliefs.Beliefs:
    """Beliefs that start from nothing."""
    return beliefs.flat(lookup(tables.plain), tables.plain.shape[1], precision)


def warm(tables: Tables, precision: jax.Array) -> beliefs.Beliefs:
    """Beliefs that start from popularity, and learn what a user thinks otherwise."""
    size = tables.plain.shape[1]
    root = jnp.eye(size) / jnp.sqrt(precision)
    return beliefs.gaussian(lookup(tables.plain), jnp.zeros(size), root, lookup(tables.popular))


def neural(tables: Tables, precision: jax.Array) -> beliefs.Beliefs:
    """Beliefs on a network's last layer, from where its head was trained to."""
    size = tables.hidden.shape[1]
    root = jnp.eye(size) / jnp.sqrt(precision)
    return beliefs.gaussian(lookup(tables.hidden), tables.head, root)


def _thompson(make: Callable[..., beliefs.Beliefs]) -> Callable[..., Policy]:
    return lambda t, k, _: policies.thompson(make(t, k[0]), k[1] * t.noise, draws=1)


def _ucb(make: Callable[..., beliefs.Beliefs]) -> Callable[..., Policy]:
    return lambda t, k, _: policies.ucb(make(t, k[0]), k[1] * t.noise)


def arms() -> dict[str, Arm]:
    """Every arm, by name; widths are in standard deviations of a reward's noise."""
    once = [(1.0, 0.0)]
    still = lambda b: b._replace(update=lambda state, told, key: state)
    return {
        META: Arm(_thompson(prior), OWN, records.METHOD),
        META_UCB: Arm(_ucb(prior), OWN, records.METHOD),
        WARM: Arm(_ucb(warm), PAIRS),
        FLAT: Arm(_thompson(flat), PAIRS),
        LINUCB: Arm(_ucb(flat), PAIRS),
        NEURAL: Arm(_thompson(neural), PAIRS),
        EPSILON: Arm(lambda t, k, _: policies.epsilon_greedy(flat(t, k[0]), k[1]), SHARES),
        POPULAR: Arm(
            lambda t, k, _: policies.greedy(beliefs.fixed(lookup(t.popular))), once
        ),
        RANDOM: Arm(lambda t, k, _: policies.at_random(), once),
        ORACLE: Arm(
            lambda t, k, truth: policies.greedy(beliefs.fixed(lookup(truth))), once
        ),
        SUM: Arm(
            lambda t, k, _: policies.greedy(prior(t, k[0])), once, records.CONTROL, "", META
        ),
        UNSURE: Arm(
            lambda t, k, _: policies.greedy(still(prior(t))), once, records.CONTROL
        ),
        SHUFFLED: Arm(_thompson(prior), once, records.CONTROL, "shuffled", META),
        OTHERS: Arm(_thompson(prior), once, records.CONTROL, "others", META),
    }  # fmt: skip


def best(trials: list[tuple[float, float]], scores: list[float]) -> tuple[float, float]:
    """The knobs of the highest score; the first of equals."""
    return trials[int(np.argmax(scores))]
