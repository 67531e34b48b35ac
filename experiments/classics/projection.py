"""What a few-shot training would take on another device: arithmetic, and no measurement.

An outer step takes its matrix products and the launches of its kernels; both are added, as if
nothing overlapped. The products are counted in the program that `jax.make_jaxpr` shows, loops
included; the launches in what the compiler made of it here, as a stand-in for the other device.
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from jax.extend import core

from metajax.data import images
from metajax.training import loop

from . import few_shot


@dataclasses.dataclass(frozen=True)
class Device:
    """What the arithmetic supposes of a device.

    Attributes:
      name: what it is called.
      peak: float32 operations per second, without the matrix units' shorter formats.
      share: of the peak that batched products of this size are supposed to reach.
      launch: seconds between two kernels of one compiled program.
    """

    name: str
    peak: float
    share: float
    launch: float


H100 = Device("H100 SXM (data sheet: 67 TFLOP/s float32)", 67e12, 0.10, 5e-6)


@dataclasses.dataclass(frozen=True)
class Cost:
    """An outer step: ``flops`` in matrix products and ``launches`` of kernels."""

    flops: float
    launches: int

    def seconds(self, device: Device) -> float:
        """Seconds on the device: the sum of both bounds, as if nothing overlapped."""
        return self.flops / (device.share * device.peak) + self.launches * device.launch


def flops(jaxpr: core.Jaxpr) -> float:
    """Operations of all matrix products and convolutions, two per multiplication, loops unrolled.

    Of the branches of a condition the dearest counts; a loop of unknown length counts once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [flops(part) for part in _parts(equation.params)]
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
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
            if isinstance(each, core.ClosedJaxpr):
                found.append(each.jaxpr)
            elif isinstance(each, core.Jaxpr):
                found.append(each)
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


LAUNCHED = re.compile(r"= \S+ (fusion|dot|convolution|custom-call|reduce|sort|copy|call)\(")


def cost(method: few_shot.Method, data: images.ClassImages, compiles: bool = True) -> Cost:
    """The cost of an outer step that takes all its tasks at once, as a GPU would.

    Without ``compiles`` launches are not counted, which takes a second instead of a minute.
    """
    sample, recipe = few_shot.sampler(method), loop.recipe(method.learner, method.tx)
    start = lambda key, data: loop.init(recipe, key, sample(data, key))
    state = jax.eval_shape(start, jax.random.key(0), data)
    step = lambda state, data: loop.step(recipe, sample, state, data)
    operations = flops(jax.make_jaxpr(step)(state, data).jaxpr)
    if not compiles:
        return Cost(operations, 0)
    text = jax.jit(step).lower(state, data).compile().as_text() or ""
    return Cost(operations, len(LAUNCHED.findall(text)))


def sentence(found: Cost, num_steps: int, device: Device = H100) -> str:
    """The arithmetic in words, to be read beside what was measured."""
    product = 1e3 * found.flops / (device.share * device.peak)
    launches = 1e3 * found.launches * device.launch
    return (
        f"{found.flops / 1e9:.1f} GFLOP of matrix products and {found.launches} kernels a step: "
        f"{product:.1f} + {launches:.1f} ms, "
        f"{num_steps * found.seconds(device) / 60:.0f} minutes for {num_steps:,} steps"
    )
