"""Ways of one library on an accelerator, in a process of their own: compiled, then timed.

It is started by `device` and told what to do by lines of JSON: ``{"build": [jobs]}`` is answered by
a line for each job as it is compiled, ``{"time": id, "count": n}`` by the seconds of an outer step
and its loss, ``{"ceilings": true}`` by what the card reaches at best.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

LOOP_TASKS = 8
"""Tasks that the loop over tasks is timed on; its time is proportional to their number."""
SIDE, COPIED = 8192, 2**29
"""Side of the matrix product and numbers of the copy that tell what the card reaches."""
FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"


class Job(NamedTuple):
    """A way to make an outer step of a workload.

    Attributes:
      variant: the way, see `device.ways`.
      name, num_steps, second: the workload, its inner steps, and whether second derivatives count.
      tasks: of the batch.
      precision: of float32 products, `FLOAT32` or `TF32`, or `BF16` activations.
    """

    variant: str
    name: str
    num_steps: int
    second: bool
    tasks: int
    precision: str


class Built(NamedTuple):
    """A way that is ready: ``run(count)`` makes that many calls and waits; what is known of it."""

    run: Callable[[int], float]
    facts: dict[str, Any]


def _say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def jax_way(job: Job) -> Built:
    """A way in JAX, compiled, with the costs that the compiler tells."""
    import jax

    from metajax.models import conv
    from metajax.profiling import flops

    from . import choices, on_chip, ours, problems

    mine = choices.how(job.name, narrow=job.precision == BF16)
    how = choices.OTHERS.get(job.name, {}).get(job.variant, mine)
    sized: dict[str, Any] = {"num_tasks": job.tasks, "narrow": job.precision == BF16}
    exact = job.precision == FLOAT32
    with jax.default_matmul_precision("highest") if exact else contextlib.nullcontext():
        if job.variant.startswith("plain"):
            kind, how = job.variant.removeprefix("plain").strip(", "), choices.How()
            program = ours.plain(job.name, job.num_steps, job.second, kind, **sized)
        else:
            program = ours.library(job.name, job.num_steps, job.second, how, **sized)
        began = time.perf_counter()
        compiled = program.compiled()
    took = time.perf_counter() - began
    state = [program.state]

    def run(count: int) -> float:
        for _ in range(count):
            state[0], losses = compiled(state[0], program.data)
        return float(jax.block_until_ready(losses)[0])

    chunks = max(1, job.tasks // (how.chunk_size or job.tasks))
    shares = ours.branch_shares(how, problems.make(job.name, job.tasks))
    counted = program
    hidden = how.convolve is on_chip.chip_convolution or how.sums or how.one_kernel
    if hidden and not job.variant.startswith("plain"):  # products that are not seen as such
        visible: dict[str, Any] = {"convolve": conv.patch_convolution, "sums": False}
        products = how._replace(**visible, one_kernel=0)
        counted = ours.library(job.name, job.num_steps, job.second, products, **sized)
    operations = flops.matrix_flops(counted.run, program.state, program.data, branches=shares)
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs or {}
    planned = compiled.memory_analysis()
    facts = {
        "outer": program.num_outer,
        "compile_seconds": took,
        "flops": operations / program.num_outer,
        "bytes": costs.get("bytes accessed", 0.0) * chunks,  # it counts the body of a loop once
        "temporary_mb": planned.temp_size_in_bytes / 1e6 if planned else None,
    }
    return Built(run, facts)


def torch_way(job: Job) -> Built:
    """A way in PyTorch, on a card if there is one."""
    import torch

    from . import peers

    on_card = torch.cuda.is_available()

    def prepare() -> None:  # of this thread
        torch.set_default_device("cuda" if on_card else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = job.precision != FLOAT32
        torch.backends.cudnn.allow_tf32 = job.precision != FLOAT32

    prepare()
    loop = job.variant == "torch loop"
    tasks = min(job.tasks, LOOP_TASKS) if loop else job.tasks
    sized = (job.name, job.num_steps, job.second, tasks)
    narrow, compiled = job.precision == BF16, job.variant == "torch.func compiled"
    peer = (
        peers.Loop(*sized, narrow=narrow)
        if loop
        else peers.Mapped(*sized, compiled=compiled, narrow=narrow)
    )

    def run(count: int) -> float:
        prepare()
        for _ in range(count):
            loss = peer.advance()
        found = float(loss)
        if on_card:
            torch.cuda.synchronize()
        return found

    began = time.perf_counter()
    first = run(1)
    took = time.perf_counter() - began
    facts = {
        "outer": 1,
        "compile_seconds": took,
        "loss": first,
        "share_of_tasks": tasks / job.tasks,
    }
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(1)
        facts["temporary_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
        torch.cuda.empty_cache()
    return Built(run, facts)


def ceilings() -> dict[str, float]:
    """TFLOP/s of a large matrix product by precision, and TB/s of a copy, read and written."""
    import jax
    import jax.numpy as jnp

    small = jax.default_backend() == "cpu"
    side, copied = (512, 2**20) if small else (SIDE, COPIED)
    square = jax.random.normal(jax.random.key(0), (side, side))
    found = {}
    for name, kind, products in (
        (FLOAT32, jnp.float32, "highest"),
        (TF32, jnp.float32, None),
        (BF16, jnp.bfloat16, None),
    ):
        factor = square.astype(kind)
        product = jax.jit(lambda x, p=products: jnp.matmul(x, x, precision=p))
        found[name] = 2 * side**3 / _seconds(lambda f=product, x=factor: f(x)) / 1e12
    long = jnp.ones(copied)
    copy = jax.jit(lambda x: x + 1)
    found["copy"] = 2 * long.nbytes / _seconds(lambda: copy(long)) / 1e12
    return found


def _seconds(call: Callable[[], Any], count: int = 10) -> float:
    """The least of a few means of seconds."""
    call().block_until_ready()
    means = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        result.block_until_ready()
        means.append((time.perf_counter() - began) / count)
    return min(means)


def main(library: str) -> None:
    """Answers lines until its input ends."""
    make = jax_way if library == "jax" else torch_way
    built: dict[str, Built] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if "ceilings" in told:
            _say(ceilings=ceilings())
            continue
        for number, job in told.get("build", []):
            try:
                built[number] = make(Job(*job))
                _say(ready=number, **built[number].facts)
            except Exception as error:  # whatever stops a way is its result
                _say(failed=number, why=_why(error))
        if "time" not in told:
            continue
        try:
            way, began = built[told["time"]], time.perf_counter()
            loss = way.run(told["count"])
        except Exception as error:
            _say(failed=told["time"], why=_why(error))
            continue
        took = (time.perf_counter() - began) / told["count"] / way.facts["outer"]
        _say(seconds=took / way.facts.get("share_of_tasks", 1.0), loss=loss)
    os._exit(0)  # a compiler may still be at work


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    main(**vars(parser.parse_args()))
