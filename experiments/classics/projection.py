"""What a few-shot training would take on another device: arithmetic, and no measurement.

An outer step takes its matrix products and the launches of its kernels; both are added, as if
nothing overlapped. The products are those of `profiling.flops`; the launches are counted in what
the compiler made of the program here, as a stand-in for the other device.
"""

import dataclasses
import re

import jax

from metajax.data import images
from metajax.profiling.flops import matrix_flops
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


LAUNCHED = re.compile(r"= \S+ (fusion|dot|convolution|custom-call|reduce|sort|copy|call)\(")


def cost(method: few_shot.Method, data: images.ClassImages, compiles: bool = True) -> Cost:
    """The cost of an outer step that takes all its tasks at once, as a GPU would.

    Without ``compiles`` launches are not counted, which takes a second instead of a minute.
    """
    sample, recipe = few_shot.sampler(method), loop.recipe(method.learner, method.tx)
    start = lambda key, data: loop.init(recipe, key, sample(data, key))
    state = jax.eval_shape(start, jax.random.key(0), data)
    step = lambda state, data: loop.step(recipe, sample, state, data)
    operations = matrix_flops(step, state, data)
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
