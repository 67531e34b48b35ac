"""One way to do a workload, in a process of its own that is told when to run.

It is started by `measure`. It prints one line of JSON when it is ready, and then one for each line
it reads: ``run N`` times N calls, ``peak`` measures the library's matrix product.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 1024


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _jax(variant: str, name: str, num_steps: int, second: bool):
    """(step, peak, facts): a call that makes ``outer`` outer steps, and a matrix product."""
    import jax
    import jax.numpy as jnp

    from experiments.speed import ours
    from metajax import flops

    if variant == "metajax":
        program = ours.library(name, num_steps, second)
    else:
        program = ours.plain(name, num_steps, second, variant == "plain, lax.conv")
    holder = [program.state]
    compiled = program.run.lower(program.state, program.data).compile()

    def step() -> float:
        holder[0], losses = compiled(holder[0], program.data)
        return float(losses[0])

    square = jnp.ones((SIDE, SIDE))
    product = jax.jit(lambda x: x @ x)
    shares = ours.branch_shares(name) if variant == "metajax" else None
    operations = flops.matrix_flops(compiled.as_text(), shares)
    facts: dict[str, Any] = {
        "outer": program.num_outer,
        "temporary_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "flops": operations / program.num_outer,
    }
    return step, lambda: product(square).block_until_ready(), facts


def _torch(variant: str, name: str, num_steps: int, second: bool):
    import torch

    from experiments.speed import peers

    torch.set_num_threads(1)
    if variant == "torch loop":
        peer = peers.Loop(name, num_steps, second)
    else:
        peer = peers.Mapped(name, num_steps, second, compiled=variant == "torch.func compiled")
    square = torch.ones((SIDE, SIDE))
    return peer.step, lambda: square @ square, {"outer": 1}


def _timed(call: Callable[[], object], count: int) -> dict[str, list[float]]:
    cpu, wall = [], []
    for _ in range(count):
        began = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return {"cpu": cpu, "wall": wall}


def main(variant: str, name: str, num_steps: str, order: str, core: str) -> None:
    """Gets ready, then does what it is told until its input ends."""
    os.sched_setaffinity(0, {int(core)})  # before the libraries count the cores
    make = _torch if variant.startswith("torch") else _jax
    before = _megabytes()
    began = time.process_time()
    step, product, facts = make(variant, name, int(num_steps), order == "second")
    loss = step()
    took = time.process_time() - began
    again = _timed(step, 2)["cpu"]  # the second call still warms up
    memory = {"peak_mb": _megabytes(), "base_mb": before}
    _say(loss=loss, seconds=again[-1], compile_seconds=took, **memory, **facts)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "peak":
            cpu = float(np.min(_timed(product, 4)["cpu"]))
            _say(gflops=2 * SIDE**3 / cpu / 1e9)
        else:
            _say(**_timed(step, int(rest[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
