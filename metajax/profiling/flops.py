"""Floating-point operations of the matrix products in a compiled program.

XLA's own count takes the body of a loop once; this one takes it as often as the loop runs.
"""

import math
import re
from collections.abc import Mapping

import jax
import jax.extend

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def traced_flops(
    program: jax.extend.core.Jaxpr, branches: Mapping[int, float] | None = None
) -> float:
    """The operations of all matrix products and convolutions of a program before it is compiled.

    Unlike `matrix_flops` it counts what a compiler later hands to a vendor's library, as on a
    graphics card; it also counts what the compiler later finds to be of no use.

    Args:
      program: ``jitted.trace(...).jaxpr.jaxpr``.
      branches: as of `matrix_flops`.
    """
    total = 0.0
    for equation in program.eqns:
        told, kind = equation.params, equation.primitive.name
        shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
        if kind == "dot_general":
            (left, _), _ = told["dimension_numbers"]
            over = math.prod(shapes[0][i] for i in left)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * over
        elif kind == "conv_general_dilated":
            outputs = told["dimension_numbers"].rhs_spec[0]
            each = math.prod(shapes[1]) // shapes[1][outputs]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * each
        elif kind == "cond":
            parts = [traced_flops(inner.jaxpr, branches) for inner in told["branches"]]
            even = dict.fromkeys(range(len(parts)), 1 / len(parts))
            total += sum((branches or even).get(i, 0.0) * part for i, part in enumerate(parts))
        else:
            times = told["length"] if kind == "scan" else 1
            inner = [getattr(x, "jaxpr", x) for x in told.values()]
            parts = [x for x in inner if isinstance(x, jax.extend.core.Jaxpr)]
            total += times * sum(traced_flops(part, branches) for part in parts)
    return total


def matrix_flops(program: str, branches: Mapping[int, float] | None = None) -> float:
    """The operations of all matrix products of a program, as XLA prints it once it is compiled.

    Args:
      program: ``jitted.lower(...).compile().as_text()``.
      branches: how often each branch of a choice is taken, as shares of 1; without it all of them
        count alike. Convolutions are not counted.
    """
    bodies, entry = computations(program)
    done: dict[str, float] = {}

    def total(name: str) -> float:
        if name not in done:
            done[name] = sum(map(cost(name), bodies.get(name, [])))
        return done[name]

    def cost(name: str):
        shapes = {m[1]: m[2] for m in map(_INSTRUCTION.match, bodies.get(name, [])) if m}
        return lambda line: _cost(line, shapes, total, branches)

    return total(entry)


def computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the one that the program starts with."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in program.splitlines():
        found = _COMPUTATION.match(line)
        if found:
            current = bodies.setdefault(found[1], [])
            entry = found[1] if line.startswith("ENTRY") else entry
        elif current is not None:
            current.append(line)
    return bodies, entry


def _cost(line: str, shapes: dict[str, str], total, branches: Mapping[int, float] | None) -> float:
    """The operations of one instruction, of what it calls included."""
    found = _INSTRUCTION.match(line)
    if not found:
        return 0.0
    _, shape, kind, rest = found.groups()
    if kind == "dot":
        left = re.match(r"(?:\w+\[\S+ )?%?([\w.\-]+)[,)]", rest)
        contracted = _CONTRACTED.search(rest)
        assert left and contracted
        sizes = _sizes(shapes[left[1]])
        over = [sizes[int(i)] for i in contracted[1].split(",") if i]
        return 2.0 * math.prod(_sizes(shape)) * math.prod(over)
    choices = _BRANCHES.search(rest)
    if choices:
        names = [name.strip(" %") for name in choices[1].split(",")]
        share = lambda i: 1 / len(names) if branches is None else branches.get(i, 0.0)
        return sum(share(i) * total(name) for i, name in enumerate(names))
    trips = _TRIPS.search(rest)
    times = int(trips[1]) if trips and kind == "while" else 1
    return times * sum(total(name) for name in _CALLED.findall(rest))


def _sizes(shape: str) -> list[int]:
    """The dimensions in a printed shape such as ``f32[5,64]{1,0}``."""
    inside = re.search(r"\[([\d,]*)\]", shape)
    assert inside, shape
    return [int(n) for n in inside[1].split(",") if n]
