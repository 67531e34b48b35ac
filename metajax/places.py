"""The folders of metajax: cache, state kept between runs, published records, generated pages."""

import os
import pathlib

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "paper" / "results"
"""The published records in a checkout; an installed package has no such folder."""


def cache() -> pathlib.Path:
    """The folder of files that can be rebuilt: METAJAX_HOME, else ``metajax`` in XDG's cache."""
    return _folder("XDG_CACHE_HOME", ".cache")


def state() -> pathlib.Path:
    """The folder of state kept between runs: METAJAX_HOME, else ``metajax`` in XDG's state."""
    return _folder("XDG_STATE_HOME", ".local/state")


def published() -> pathlib.Path:
    """The folder of published records: METAJAX_RESULTS, else the checkout's, else ``./results``."""
    if chosen := os.environ.get("METAJAX_RESULTS"):
        return pathlib.Path(chosen)
    return RESULTS if RESULTS.is_dir() else pathlib.Path("results")


def documents() -> pathlib.Path:
    """The folder of generated pages: the checkout's ``docs``, else ``./docs``."""
    return CHECKOUT / "docs" if RESULTS.is_dir() else pathlib.Path("docs")


def _folder(variable: str, below_home: str) -> pathlib.Path:
    """METAJAX_HOME; else ``metajax`` in the folder that the variable names, by custom of XDG."""
    if chosen := os.environ.get("METAJAX_HOME"):
        return pathlib.Path(chosen)
    base = os.environ.get(variable)
    return (pathlib.Path(base) if base else pathlib.Path.home() / below_home) / "metajax"


def processes() -> int:
    """How many processes run the same command together, by ``JAX_NUM_PROCESSES``; 1 alone.

    They are several only where ``JAX_COORDINATOR_ADDRESS`` says where they meet. Each runs the
    whole command and trains its share of every batch; the first one prints and publishes.
    """
    return int(os.environ.get("JAX_NUM_PROCESSES", 1)) if COORDINATOR in os.environ else 1


def process() -> int:
    """The number of this process among them, by ``JAX_PROCESS_ID``; 0 alone."""
    return int(os.environ.get("JAX_PROCESS_ID", 0)) if processes() > 1 else 0


def own(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a run's results for this process; all but the first have one in it."""
    return folder / f"process-{process()}" if process() else folder


def shared(folder: pathlib.Path) -> pathlib.Path:
    """The folder, in that of the first process, of what all processes write together.

    The last part of that name is what `own` has put there; an earlier one is of the user's path.
    """
    parts, mine = list(folder.parts), f"process-{process()}"
    if process() and mine in parts:
        del parts[len(parts) - 1 - parts[::-1].index(mine)]
    return pathlib.Path(*parts)
