"""TF32 on any platform: factors of products are rounded as a graphics card rounds them.

TF32 has the exponent of float32 and a mantissa of 10 bits; sums of products stay in float32. A
product that asks for the highest precision is left as it is. What a card does beyond that, the
order of its sums, is not imitated.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

MANTISSA = 10
PRODUCTS = ("dot_general", "conv_general_dilated")
INLINED = ("jaxpr", "call_jaxpr", "call")
"""Parameters of an operation that only calls an inner program."""
LOOPS = ("scan", "while", "cond", "custom_linear_solve")
"""Operations that run inner programs in their own way."""


def rounded(function: Callable, every: int = 1) -> Callable:
    """The function as a platform computes it that rounds the factors of float32 products to TF32.

    Trace it, and compute derivatives inside: ``rounded(jax.grad(f))`` rounds the products of the
    derivative too. Under ``jax.default_matmul_precision("highest")`` nothing is rounded.

    Args:
      every: 1 rounds all products, 2 every other one as they are written, and so on: a compiler
        may choose TF32 for one product and float32 for its twin.
    """

    def emulated(*arguments: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _run(program, jax.tree.leaves(arguments), itertools.count(), every)
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return emulated


Program = Any
"""A jaxpr, closed or not: one class in JAX from 0.12 on, two before."""


def _bare(program: Program) -> core.Jaxpr:
    return getattr(program, "jaxpr", program)


def _run(program: Program, given: list, number: Iterator[int], every: int) -> list:
    """The outputs of a program whose products are rounded."""
    bare, constants = _bare(program), getattr(program, "consts", [])
    values: dict[Any, Any] = dict(zip(bare.constvars, constants, strict=True))
    values |= zip(bare.invars, given, strict=True)
    read = lambda x: x.val if isinstance(x, core.Literal) else values[x]
    for one in bare.eqns:
        found = _done(one, [read(x) for x in one.invars], number, every)
        values |= zip(one.outvars, found, strict=True)
    return [read(x) for x in bare.outvars]


def _done(one: core.JaxprEqn, operands: list, number: Iterator[int], every: int) -> list:
    """The outputs of one operation, its factors rounded if it is a product."""
    name, params = one.primitive.name, one.params
    inner = [params[key] for key in INLINED if _is_program(params.get(key))]
    if inner and name not in LOOPS:
        return _run(inner[0], operands, number, every)
    if name in LOOPS:
        inside = lambda x: _rounded_program(x, number, every) if _is_program(x) else x
        params = jax.tree.map(inside, params, is_leaf=_is_program)
    elif name in PRODUCTS and "HIGHEST" not in str(params["precision"]):
        operands = [_round(x) for x in operands] if next(number) % every == 0 else operands
    found = one.primitive.bind(*operands, **params)
    return found if one.primitive.multiple_results else [found]


def _round(x: jax.Array) -> jax.Array:
    """The nearest TF32 numbers, as float32; other types stay."""
    if x.dtype != jnp.float32:
        return x
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=MANTISSA)


def _is_program(value: object) -> bool:
    return isinstance(_bare(value), core.Jaxpr)


def _rounded_program(program: Program, number: Iterator[int], every: int) -> Program:
    """The program of a loop with its products rounded."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    return jax.make_jaxpr(lambda *given: _run(program, list(given), number, every))(*shapes)
