"""Ends a run that waits for itself forever, which jaxlib 0.10 can do on few cores.

See `metajax.training.devices.IN_ORDER`. Such a run uses no processor time and cannot be
interrupted, since Python waits for the program that waits. What was saved last is whole, so that
the same command goes on from it.
"""

import contextlib
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator

from metajax import places
from metajax.training import devices

EVERY, TIMES = 30.0, 10
"""Seconds between two looks at a run, and how many looks without work in a row end it."""
IDLE = 0.02
"""Share of a core that a run without work may use: its progress bar, this watch."""
TOLD = (
    "error: nothing was computed for {:.0f} minutes: a program of jaxlib 0.10 waits for itself, as "
    "it may on few cores. Run the same command again, it goes on where it stood; Python 3.12 or "
    "later gets a jaxlib that does not"
)
_armed = threading.Event()


def arm() -> None:
    """Lets `watched` end this process. Commands do so; a library does not end its caller."""
    _armed.set()


@contextlib.contextmanager
def watched(every: float = EVERY, times: int = TIMES) -> Iterator[None]:
    """Ends the process, with one line and ``os.EX_TEMPFAIL``, if what is run within stands still.

    It does nothing unless the process is `arm`-ed and could stand still, see `devices.may_wait`.

    Args:
      every, times: seconds between two looks, and how many without work in a row end it.
    """
    if not (_armed.is_set() and devices.may_wait() and places.processes() == 1):
        yield
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(over, every, times), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(over: threading.Event, every: float, times: int) -> None:
    still, before = 0, time.process_time()
    while not over.wait(every):
        now = time.process_time()
        still = still + 1 if now - before < IDLE * every and not _anyone_runs() else 0
        before = now
        if still == times:
            print("\n" + TOLD.format(every * times / 60), file=sys.stderr, flush=True)
            os._exit(os.EX_TEMPFAIL)


def _anyone_runs() -> bool:
    """Whether a thread of this process but the one that asks runs, or waits for a core or a disk.

    A process that gets no share of a busy machine has such threads; one that stands still has none.
    """
    states = []
    for path in pathlib.Path("/proc/self/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if int(path.name) != threading.get_native_id():
                states.append((path / "stat").read_text().rpartition(")")[2].split()[0])
    return not states or any(state in "RD" for state in states)
