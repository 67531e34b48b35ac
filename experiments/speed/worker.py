"""One way to do a workload, in a process of its own that is told when to run.

It is started by `measure`. It prints one line of JSON when it is ready, and then one for each line
it reads: ``run N`` times N calls, ``peak`` measures the library's matrix product. A program of JAX
that is compiled again after its first call stops the process.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 1024
TWO_CORES = "metajax, 2 cores"
PACKAGES = ("learn2learn", "torchopt")


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _jax(variant: str, name: str, num_steps: int, second: bool):
    """(step, peak, facts): a call that makes ``outer`` outer steps, and a matrix product."""
    import jax
    import jax.numpy as jnp

    from metajax.profiling.flops import matrix_flops
    from metajax.training import devices

    from . import ours, problems
    from .choices import how

    if variant.startswith("metajax"):
        mesh = devices.mesh() if variant == TWO_CORES else None
        program = ours.library(name, num_steps, second, mesh=mesh)
    else:
        program = ours.plain(name, num_steps, second, variant.removeprefix("plain").strip(", "))
    count = _compilations()
    holder, after_first = [program.state], []
    compiled = program.run.lower(program.state, program.data).compile()

    def step() -> float:
        holder[0], losses = program.run(holder[0], program.data)
        loss = float(np.asarray(losses)[0])
        after_first.append(count())
        if after_first[-1] > after_first[0]:
            raise RuntimeError("the program was compiled again after its first step")
        return loss

    square = jnp.ones((SIDE, SIDE))
    product = jax.jit(lambda x: x @ x).lower(square).compile()
    problem = problems.make(name)
    shares = ours.branch_shares(how(name), problem) if variant == "metajax" else None
    operations = matrix_flops(program.run, program.state, program.data, branches=shares)
    facts: dict[str, Any] = {
        "outer": program.num_outer,
        "temporary_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "flops": operations / program.num_outer,
    }
    return step, lambda: product(square).block_until_ready(), facts


def _compilations() -> Callable[[], int]:
    """A function that tells how many programs JAX has compiled from now on."""
    import jax

    seen: list[str] = []
    hear = lambda event, duration_secs, **_: seen.append(event)
    jax.monitoring.register_event_duration_secs_listener(hear)
    return lambda: sum(event.endswith("backend_compile_duration") for event in seen)


def _torch(variant: str, name: str, num_steps: int, second: bool):
    import torch

    from . import packages, peers

    torch.set_num_threads(1)
    if variant in PACKAGES:
        peer = packages.LEARNERS[variant](name, num_steps, second)
    elif variant == "torch loop":
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


def main(variant: str, name: str, num_steps: str, order: str, cores: str) -> None:
    """Gets ready, then does what it is told until its input ends."""
    os.sched_setaffinity(0, set(map(int, cores.split(","))))  # before libraries count the cores
    is_torch = variant.startswith("torch") or variant in PACKAGES
    make = _torch if is_torch else _jax
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
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("variant", "name", "num_steps", "order", "cores"):
        parser.add_argument(argument)
    main(**vars(parser.parse_args()))
