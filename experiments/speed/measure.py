"""Ways to do a workload, each in its own process on one core, asked to run in turns."""

import dataclasses
import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from metajax.types import UserError

from .worker import TWO_CORES

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclasses.dataclass
class Worker:
    """A started process, and what it has told so far.

    Attributes:
      facts: what it said when it was ready.
      cpu, wall: seconds of each outer step.
      gflops: its library's matrix product, once a round.
      skipped: why it is not measured, if it is not.
    """

    variant: str
    process: subprocess.Popen | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    cpu: list[float] = dataclasses.field(default_factory=list)
    wall: list[float] = dataclasses.field(default_factory=list)
    gflops: list[float] = dataclasses.field(default_factory=list)
    skipped: str = ""


def _start(variant: str, name: str, num_steps: int, order: str) -> Worker:
    cores = sorted(os.sched_getaffinity(0))[: 2 if variant == TWO_CORES else 1]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    if variant == TWO_CORES:
        flags += f" --xla_force_host_platform_device_count={len(cores)}"
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "XLA_FLAGS": flags.strip()}
    told = (str(num_steps), order, ",".join(map(str, cores)))
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.speed.worker", variant, name, *told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return Worker(variant, process)


def _listen(worker: Worker, seconds: float) -> dict[str, Any]:
    """The next line of a worker; it is stopped, and marked as skipped, if none comes in time."""
    process = worker.process
    assert process and process.stdout and process.stderr
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else ""
    if line:
        return json.loads(line)
    worker.skipped = f"not ready after {seconds:.0f} s"
    process.kill()
    if ready:
        said = process.stderr.read().strip().splitlines()
        errors = [line.split("Error: ", 1)[1] for line in said if "Error: " in line]
        worker.skipped = (errors or said or ["ended without a word"])[-1]
    worker.process = None
    return {}


def _tell(worker: Worker, command: str, seconds: float) -> dict[str, Any]:
    if worker.process is None:
        return {}
    assert worker.process.stdin
    worker.process.stdin.write(command + "\n")
    worker.process.stdin.flush()
    return _listen(worker, seconds)


def compare(
    variants: Sequence[str],
    name: str,
    num_steps: int,
    *,
    second_order: bool = True,
    seconds: float = 3.0,
    rounds: int = 7,
    patience: float = 600.0,
) -> list[Worker]:
    """All variants on one workload, interleaved in rounds on one core.

    Args:
      variants: names known to `worker`; the first one's loss is what all must agree with.
      seconds: processor time of each variant in all rounds together, about.
      patience: longest wait for a variant to get ready, in wall seconds.

    Raises:
      UserError: a variant computes another loss.
    """
    order = "second" if second_order else "first"
    workers = []
    for variant in variants:
        worker = _start(variant, name, num_steps, order)
        worker.facts = _listen(worker, patience)
        workers.append(worker)
        print(f"  {variant}: {worker.skipped or 'ready'}", file=sys.stderr, flush=True)
    running = [w for w in workers if w.process]
    _agree(running)
    for _ in range(rounds):
        for worker in running:
            count = max(1, round(seconds / rounds / worker.facts["seconds"]))
            told = _tell(worker, f"run {min(count, 200)}", patience)
            outer = worker.facts["outer"]
            worker.cpu += [t / outer for t in told.get("cpu", [])]
            worker.wall += [t / outer for t in told.get("wall", [])]
            worker.gflops += [_tell(worker, "peak", patience).get("gflops", 0.0)]
            if worker.process is None:
                raise UserError(f"{worker.variant} stopped: {worker.skipped}")
    for worker in running:
        if worker.process and worker.process.stdin:
            worker.process.stdin.close()
            worker.process.wait()
    return workers


def _agree(workers: Sequence[Worker]) -> None:
    if not workers:
        return
    first = workers[0].facts["loss"]
    for worker in workers:
        loss = worker.facts["loss"]
        if abs(loss - first) > 1e-4 * abs(first):
            raise UserError(f"{worker.variant} has the loss {loss}, {workers[0].variant} {first}")


def row(worker: Worker, num_tasks: int) -> dict[str, Any]:
    """The figures of a variant: medians of processor time, in the units of their names."""
    if not worker.cpu:
        return {"variant": worker.variant, "skipped": worker.skipped}
    second, peak = statistics.median(worker.cpu), statistics.median(worker.gflops)
    flops = worker.facts.get("flops")
    return {
        "variant": worker.variant,
        "milliseconds": 1e3 * second,
        "tasks_per_second": num_tasks / second,
        "compile_seconds": worker.facts["compile_seconds"],
        "peak_mb": worker.facts["peak_mb"],
        "temporary_mb": worker.facts.get("temporary_mb"),
        "matmul_gflops": peak,
        "share_of_peak": flops / second / 1e9 / peak if flops else None,
        "wall_over_cpu": statistics.median(worker.wall) / second,
        "fastest_wall_ms": 1e3 * min(worker.wall),
    }
