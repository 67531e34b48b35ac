"""How far each precision moves the meta-gradient: against the same gradient in float64.

Run: python -m experiments.speed.precision
The gradient of every workload at one and at five inner steps, whole tasks at once, by the library:
in float32 with exact products, in float32 with factors rounded to TF32 (by a graphics card itself;
on a processor `tf32.rounded` does it), and with bfloat16 activations. The error is
||g - g64|| / ||g64|| over all learned weights; g64 is computed on the processor.
"""

import dataclasses

import jax
import numpy as np
import optax

from metajax.benchmark import command
from metajax.results import records
from metajax.settings import Positive, Stored
from metajax.training import progress
from metajax.types import PyTree

from . import choices, ours, tf32
from .device_worker import BF16, FLOAT32, TF32


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    workload: tuple[str, ...] = ("W1", "W2", "W3", "W4")
    """Workloads."""
    steps: tuple[Positive, ...] = (1, 5)
    """Inner steps."""
    tasks: Positive = 8
    """Tasks of a batch."""
    output: Stored = Stored()


KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(lambda x: 0 * x, params),
    lambda grads, state, params=None: (jax.tree.map(lambda g: 0 * g, grads), grads),
)
"""An optimizer that moves nothing and whose state is the last gradient."""


def gradient(name: str, num_steps: int, num_tasks: int, precision: str) -> np.ndarray:
    """The meta-gradient of a workload by the library, all learned weights one after the other."""
    exact, narrow = precision == FLOAT32, precision == BF16
    how = choices.how(name, narrow=narrow)._replace(num_outer=1, chunk_size=None)
    with jax.default_matmul_precision("highest" if exact else "default"):
        program = ours.library(
            name, num_steps, True, how, num_tasks=num_tasks, narrow=narrow, outer=KEEP
        )
        on_processor = precision == TF32 and jax.default_backend() == "cpu"
        run = jax.jit(tf32.rounded(program.run)) if on_processor else program.run
        state, _ = run(program.state, program.data)
    return _flat(state.opt_state)


def right(name: str, num_steps: int, num_tasks: int) -> np.ndarray:
    """The same by plain JAX in float64, on the processor."""
    double = lambda x: x.astype("float64") if x.dtype == "float32" else x
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        program = ours.plain(name, num_steps, True, num_tasks=num_tasks, outer=KEEP)
        state, data = jax.tree.map(double, (program.state, program.data))
        (_, gradient), _ = program.run(state, data)
        return _flat(gradient)


def _flat(tree: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def errors(name: str, num_steps: int, num_tasks: int) -> dict[str, float]:
    """Precision -> relative error of the meta-gradient."""
    exact = right(name, num_steps, num_tasks)
    found = {p: gradient(name, num_steps, num_tasks, p) for p in (FLOAT32, TF32, BF16)}
    norm = np.linalg.norm(exact)
    return {p: float(np.linalg.norm(g - exact) / norm) for p, g in found.items()}


def main(config: Config) -> records.Record:
    """Prints the table and stores it."""
    rows = []
    for name in config.workload:
        for num_steps in config.steps:
            found = errors(name, num_steps, config.tasks)
            rows.append({"name": name, "num_steps": num_steps, "errors": found})
            figures = "  ".join(f"{precision} {error:.1e}" for precision, error in found.items())
            progress.say(f"{name}, {num_steps} inner steps: {figures}")
            record = records.made("speed", config, scenario="precision", extra={"rows": rows})
            records.write(
                config.output.folder("speed"), "speed-precision", record, config.output.publish
            )
    return record


if __name__ == "__main__":
    command.cli(main, Config, stopped=command.FROM_START)
