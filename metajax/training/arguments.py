"""Numbers of a configuration as arguments of the training program, for a search over them.

A rate that a learner or an optimizer closes over is a constant of the compiled program, so that
each trial of a search compiles a program of its own, which may take longer than its training. Here
such numbers are carried beside the parameters, and one program serves all their values.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from metajax.training.steps import Recipe, Sampler
from metajax.training.updates import Update
from metajax.types import Params, PyTree

Numbers = Mapping[str, jax.Array]
"""Name -> (), a number of a configuration."""


class Carried(NamedTuple):
    """What is trained: parameters, and the numbers that they are trained with.

    Attributes:
      numbers: no step changes them.
      params: the parameters.
    """

    numbers: Numbers
    params: Params


def recipe(make: Callable[[Numbers], Recipe]) -> Recipe:
    """The recipe of `Carried` parameters, each trained by the recipe of its numbers.

    Args:
      make: numbers, which have no values yet -> a recipe; a batch of it is one of `sampler`.
    """

    def init(key: jax.Array, batch: tuple[Numbers, Any]) -> Carried:
        numbers, drawn = batch
        return Carried(numbers, make(numbers).init(key, drawn))

    def gradient(at: Carried, batch: tuple[Numbers, Any], key: jax.Array) -> Any:
        return make(at.numbers).gradient_fn(at.params, batch[1], key)

    def begin(at: Carried) -> Any:
        return make(at.numbers).update_fn.init(at.params)

    def apply(at: Carried, opt_state: Any, grads: PyTree) -> tuple[Carried, Any]:
        update = make(at.numbers).update_fn.apply
        params, opt_state = update(at.params, opt_state, grads)
        return at._replace(params=params), opt_state

    return Recipe(init, gradient, Update(begin, apply))


def sampler(sample: Sampler) -> Sampler:
    """(numbers and data, key) -> the numbers and a batch of the data."""
    return lambda data, key: (data[0], sample(data[1], key))
