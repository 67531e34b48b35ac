"""Loop-invariant computations of an inner loop, done once before it.

An inner loop evaluates the model at each step with other values of the parameters that adapt. What
the model computes from everything else (embeddings, frozen towers, the patches of an image) is the
same in each step: it is computed, and differentiated, once instead of once a step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.core

from metajax.types import PyTree

if TYPE_CHECKING:  # it brings Pallas along, which takes a tenth of a second to import
    from jax.extend.core import Jaxpr


def hoist(
    function: Callable[[PyTree, PyTree], PyTree], fast: PyTree, given: PyTree
) -> tuple[Callable[[PyTree, list], PyTree], list]:
    """A pair ``(rest, values)`` such that ``rest(fast, values)`` is ``function(fast, given)``.

    ``values`` are the intermediate results that ``function`` computes from ``given`` alone, and
    ``rest`` computes what depends on ``fast``, for any ``fast`` of the same shapes and types. Both
    can be differentiated and vmapped.

    Args:
      function: a function of its two arguments; it may also close over arrays.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(fast, given)
    program = closed.jaxpr
    num_fast = len(jax.tree.leaves(fast))
    before, after = _cut(program, set(program.invars[:num_fast]))
    crossing = _crossing(program, before, after, program.invars[num_fast:])
    given_in = [*program.constvars, *program.invars[num_fast:]]
    first = _program(program, given_in, crossing, before)
    second = _program(program, [*program.invars[:num_fast], *crossing], program.outvars, after)

    values = jax.core.eval_jaxpr(first, (), *closed.consts, *jax.tree.leaves(given))

    def rest(fast: PyTree, values: list) -> PyTree:
        out = jax.core.eval_jaxpr(second, (), *jax.tree.leaves(fast), *values)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return rest, values


def _is_variable(value: Any) -> bool:
    """Whether an input of an equation is a variable; else it is a constant written in place."""
    from jax.extend.core import Var

    return isinstance(value, Var)


def _cut(program: "Jaxpr", fast: set) -> tuple[list, list]:
    """The equations that do not need the fast variables, and those that remain.

    What depends on no argument at all (constants, ranges) is done anew in both: it is cheap and
    need not be remembered.
    """
    needs_fast, constant = set(fast), set()
    before, after = [], []
    for equation in program.eqns:
        sources = [v for v in equation.invars if _is_variable(v)]
        if any(v in needs_fast for v in sources):
            needs_fast.update(equation.outvars)
            after.append(equation)
            continue
        before.append(equation)
        if all(v in constant for v in sources):
            constant.update(equation.outvars)
            after.append(equation)
    return before, after


def _crossing(program: "Jaxpr", before: list, after: list, given: list) -> list:
    """The variables that the first part makes, or is given, and the second part needs."""
    made = {v for equation in after for v in equation.outvars}
    known = {v for equation in before for v in equation.outvars} | set(given)
    known |= set(program.constvars)
    needed = [v for equation in after for v in equation.invars] + list(program.outvars)
    ordered = dict.fromkeys(v for v in needed if _is_variable(v))
    return [v for v in ordered if v in known and v not in made]


def _program(whole: "Jaxpr", inputs: list, outputs: list, equations: list) -> Any:
    """The program of some of the equations of another one."""
    effects = frozenset().union(*(equation.effects for equation in equations))
    return whole.replace(
        constvars=[],
        invars=list(inputs),
        outvars=list(outputs),
        eqns=list(equations),
        effects=effects,
    )
