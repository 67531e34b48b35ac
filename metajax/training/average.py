"""A running mean of the parameters, kept beside them while they are trained.

The mean smooths out the noise of single steps, as a falling rate does, so that every moment of the
training can be judged as if the rate had fallen until then.

References: Polyak, Juditsky, 1992; Izmailov et al., UAI 2018 (averaging finds wider optima).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.training.steps import Recipe
from metajax.training.updates import Update
from metajax.types import Params, PyTree


class Averaged(NamedTuple):
    """Parameters and the mean of what they have been.

    Attributes:
      now: what gradient steps change.
      mean: of equal shapes.
    """

    now: Params
    mean: Params


def averages(params: Averaged) -> Params:
    """The mean, which is what to judge and to serve."""
    return params.mean


def averaged(recipe: Recipe, keep: float) -> Recipe:
    """The recipe whose parameters are `Averaged`; what is trained, and how, stays as it was.

    After step t the mean keeps ``min(keep, t / (t + 9))`` of itself, so that the first parameters,
    which nobody has trained, do not linger.

    Args:
      recipe: of plain parameters.
      keep: weight of the past, such as .999 for about the last thousand steps.
    """

    def init(key: jax.Array, batch: Any) -> Averaged:
        params = recipe.init(key, batch)
        return Averaged(params, jax.tree.map(jnp.copy, params))

    def gradient(params: Averaged, batch: Any, key: jax.Array):
        return recipe.gradient_fn(params.now, batch, key)

    def begin(params: Averaged) -> Any:
        return recipe.update_fn.init(params.now), jnp.zeros(())

    def apply(params: Averaged, state: Any, grads: PyTree) -> tuple[Averaged, Any]:
        inner, step = state
        now, inner = recipe.update_fn.apply(params.now, inner, grads)
        kept = jnp.minimum(keep, (step + 1.0) / (step + 10.0))
        mean = jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, params.mean, now)
        return Averaged(now, mean), (inner, step + 1.0)

    return Recipe(init, gradient, Update(begin, apply))
