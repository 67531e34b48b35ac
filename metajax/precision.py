"""How exactly matrix products are made.

A graphics processor rounds the factors of a float32 product to ten bits of fraction unless it is
told not to (TF32), which networks bear well and normal equations do not: the square of a matrix
has the square of its condition. Whatever solves a linear system here is made `highest`; networks
keep the platform's default, or what `metajax.adapters.mixed` gives them.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def highest(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its matrix products in full float32, on every platform.

    Products that its derivatives make are as exact; what it is given as values is as it was.

    >>> gram = highest(lambda x: x.T @ x)
    >>> "HIGHEST" in str(jax.make_jaxpr(gram)(jax.numpy.ones((3, 2))))
    True
    """

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return exact
