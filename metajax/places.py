"""Where a person's files lie: the cache, what is remembered between runs, published records."""

import os
import pathlib


def cache() -> pathlib.Path:
    """The folder of what may be made anew: METAJAX_HOME, else ``metajax`` in the user's cache."""
    return _folder("XDG_CACHE_HOME", ".cache")


def state() -> pathlib.Path:
    """The folder of what is remembered: METAJAX_HOME, else ``metajax`` in the user's state."""
    return _folder("XDG_STATE_HOME", ".local/state")


def _folder(variable: str, below_home: str) -> pathlib.Path:
    """METAJAX_HOME; else ``metajax`` in the folder that the variable names, by custom of XDG."""
    if chosen := os.environ.get("METAJAX_HOME"):
        return pathlib.Path(chosen)
    base = os.environ.get(variable)
    return (pathlib.Path(base) if base else pathlib.Path.home() / below_home) / "metajax"
