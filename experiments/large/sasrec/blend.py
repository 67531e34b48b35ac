"""A sequence model beside counted tables: a weighted sum of logarithms, chosen on validation.

Where a log is small, a Transformer and the tables of what follows what and of what is met together
are wrong about different people. Their sum ``log p(i) + sum_t w_t log(s_t(i) + floor_t)`` has one
weight for each table, the same for everybody. The tables alone are summed too: what the sequence
model adds is the difference.

References: Genest, Zidek, "Combining probability distributions", Statistical Science 1986.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories.sequences import HeldOut
from metajax.evaluation import next_item
from metajax.models import sequence
from metajax.types import Params

from . import training

FLOORS = {"transitions": 0.01, "item-kNN": 0.1}
"""Table -> what is added to its scores before the logarithm."""
TABLES = " + ".join(FLOORS)
BLENDED = f"SASRec + {TABLES}"
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""What each table may weigh, where the sequence model weighs 1."""


class Blend(NamedTuple):
    """Weights of the tables.

    Attributes:
      base: of the sequence model: 1, or 0 for the tables alone.
      weights: of each table of `FLOORS`, in its order.
      valid: nDCG@10 on the validation items, mean over seeds.
    """

    base: float
    weights: tuple[float, ...]
    valid: float

    def __call__(self, model_UxV: np.ndarray, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """The scores (U, V) of log-probabilities (U, V) and tables (U, V)."""
        total = self.base * model_UxV
        for (name, floor), weight in zip(FLOORS.items(), self.weights, strict=True):
            total = total + weight * np.log(tables[name] + np.float32(floor))
        return total


def log_probabilities(settings: sequence.Settings, params: Params, held: HeldOut) -> np.ndarray:
    """Of all items after each history: (U, V)."""
    score = training.scorer(settings, params)
    people = held.target.shape[0]
    given = (jnp.arange(people), jnp.asarray(held.history), jnp.asarray(held.length))

    @jax.jit
    def found(given: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        one = lambda row: score(row[0][None], row[1][None], row[2][None])[0]
        return jax.lax.map(one, given, batch_size=64)

    return np.asarray(jax.nn.log_softmax(found(given), axis=-1))


def chosen(
    of_seeds: list[np.ndarray], tables: Mapping[str, np.ndarray], valid: HeldOut, key: jax.Array
) -> dict[str, Blend]:
    """The best weights on the validation items, with the sequence model and without it.

    Args:
      of_seeds: log-probabilities (U, V) of each seed.
    """
    num_items = of_seeds[0].shape[1]

    @jax.jit
    def quality(score: jax.Array) -> jax.Array:
        own = lambda person, history, length: score[person]
        rank = next_item.ranks(own, valid, num_items, key)[next_item.FULL]
        return jnp.mean(jnp.where(rank < 10, 1.0 / jnp.log2(rank + 2.0), 0.0))

    def best(base: float) -> Blend:
        free = WEIGHTS if base else (1.0,)  # without the model, one table sets the unit
        found = []
        for weights in itertools.product(free, *[WEIGHTS] * (len(FLOORS) - 1)):
            blend = Blend(base, weights, 0.0)
            seeds = of_seeds if base else of_seeds[:1]
            value = np.mean([float(quality(jnp.asarray(blend(s, tables)))) for s in seeds])
            found.append(blend._replace(valid=float(value)))
        return max(found, key=lambda blend: blend.valid)

    return {BLENDED: best(1.0), TABLES: best(0.0)}
