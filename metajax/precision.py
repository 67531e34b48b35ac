"""The precision of matrix products.

By default a GPU rounds the factors of a float32 product to a mantissa of ten bits (TF32). Networks
tolerate that; normal equations do not, since ``x' x`` squares the condition number of x. Every
product outside a network is wrapped in `highest`, or asks for ``precision="highest"`` itself:
`tests/test_exact_products.py` reads the files for one that does not, and lists the networks. These
keep the platform's default, or what `metajax.adapters.mixed` gives them; what either costs a
meta-gradient is bounded in `tests/test_tf32.py`.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def highest(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its matrix products in full float32, on every platform.

    This includes the products in its derivatives.

    >>> gram = highest(lambda x: x.T @ x)
    >>> "HIGHEST" in str(jax.make_jaxpr(gram)(jax.numpy.ones((3, 2))))
    True
    """

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return exact
