"""The folders of metajax: cache, state kept between runs, published records, generated pages."""

import os
import pathlib

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
