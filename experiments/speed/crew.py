"""The processes of the benchmark on an accelerator: started when needed, paused, and ended."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Any

JAX, TORCH, COMPILED = "jax", "torch", "torch compiled"
"""What the name of a process begins with: its library, and whether it is `torch.compile`."""


@dataclasses.dataclass
class Worker:
    """A started process, when it was, and the lines that it has said."""

    process: subprocess.Popen
    said: queue.Queue
    began: float = 0.0


def _start(library: str, nice: bool) -> Worker:
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.7"}
    memory["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
    process = subprocess.Popen(
        [
            *(["nice"] if nice else []),
            sys.executable,
            "-m",
            f"{__package__}.device_worker",
            library,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        env={**os.environ, **memory},
        start_new_session=True,  # with its compilers, which are stopped and ended with it
    )
    said: queue.Queue = queue.Queue()

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                said.put(json.loads(line))
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return Worker(process, said, time.monotonic())


class Crew:
    """The processes of a run, started when they are first needed and ended with it."""

    def __init__(self):
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.workers):
            self.end(name)

    def tell(self, name: str, **what: object) -> None:
        """Tells a process something."""
        if name not in self.workers:
            self.workers[name] = _start(name.partition(" ")[0], nice=name.startswith(COMPILED))
        stdin = self.workers[name].process.stdin
        assert stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `hear` tells
            stdin.write(json.dumps(what) + "\n")
            stdin.flush()

    def hear(self, name: str, patience: float) -> dict[str, Any] | None:
        """The next that a process says; None if it says nothing in time, or has ended."""
        try:
            return self.workers[name].said.get(timeout=max(patience, 0.01))
        except queue.Empty:
            return None

    def signal(self, name: str, kind: signal.Signals) -> None:
        """Sends a process and all that it started a signal."""
        if name in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.workers[name].process.pid, kind)

    def ended(self, name: str) -> bool:
        """Whether a process is no longer there."""
        return name not in self.workers or self.workers[name].process.poll() is not None

    def end(self, name: str) -> None:
        """Ends a process and all that it started."""
        if name not in self.workers:
            return
        self.signal(name, signal.SIGKILL)
        worker = self.workers.pop(name)
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was told last was not read
                    pipe.close()
