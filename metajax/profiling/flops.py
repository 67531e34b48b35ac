"""Floating-point operations of the matrix products and convolutions of a program.

XLA's own count takes the body of a loop once; this one takes it as often as the loop runs. It
counts the program that JAX traces, before the compiler removes a few products: on the workloads of
`experiments.speed` the count is up to 2 % above the operations that are executed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core


def matrix_flops(
    function: Callable[..., Any], *args: Any, branches: Mapping[int, float] | None = None
) -> float:
    """The operations of one call of a function, two per multiply-add; nothing is computed.

    >>> import jax.numpy as jnp
    >>> matrix_flops(jnp.matmul, jnp.ones((3, 5)), jnp.ones((5, 7)))
    210.0

    Args:
      function: any function that JAX can trace, jitted or not.
      args: arrays, or shapes in their place (`jax.ShapeDtypeStruct`).
      branches: index of a branch of ``lax.switch`` -> share of the calls that take it, summing to
        1; None counts the most expensive branch. A loop of unknown length counts once.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr, branches)


def _count(jaxpr: core.Jaxpr, branches: Mapping[int, float] | None) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [_count(part, branches) for part in _parts(equation.params)]
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        elif equation.primitive.name == "cond" and branches is not None:
            total += sum(branches.get(i, 0.0) * count for i, count in enumerate(inner))
        elif equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += equation.params.get("length", 1) * sum(inner)
    return total


def _parts(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The programs inside an operation."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)  # where it is closed
            if isinstance(program, core.Jaxpr):
                found.append(program)
    return found


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _product(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    depth = np.prod([shape[i] for i in contracted], initial=1.0)
    return 2.0 * float(depth * np.prod(_shape(equation.outvars[0]), initial=1.0))


def _convolution(equation: core.JaxprEqn) -> float:
    numbers, kernel = equation.params["dimension_numbers"], _shape(equation.invars[1])
    per_output = np.prod(kernel) / kernel[numbers.rhs_spec[0]]
    return 2.0 * float(per_output * np.prod(_shape(equation.outvars[0])))
