"""Stand-ins for the libraries that compute, while a command only lists its options.

Importing JAX and what stands on it takes most of a second, and a list of options needs only the
names that annotations and decorators have of it.
"""

import gc
import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

LIBRARIES = {
    *("jax", "jaxlib", "optax", "flax", "chex", "orbax", "scipy", "sklearn", "matplotlib"),
    *("torch", "polars", "pandas", "optuna", "faiss", "shap", "lime"),
}


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Name(type):
    """A class without contents: it may be annotated with, inherited from, subscripted, called."""

    def __getattr__(cls, name: str) -> Any:
        if _dunder(name):
            raise AttributeError(name)
        return _Name(name, (), {})

    def __call__(cls, *given: Any, **options: Any) -> Any:
        decorated = next((x for x in given if isinstance(x, type) and type(x) is not _Name), None)
        return decorated or cls

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __setitem__(cls, key: Any, value: Any) -> None:
        pass


class _Library(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if _dunder(name):
            raise AttributeError(name)
        return _Name(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for every module of `LIBRARIES`."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in LIBRARIES:
            return importlib.util.spec_from_loader(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Library(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def where_help_is_asked(command: Callable[[], object]) -> None:
    """Runs a command, by `run` if its options are all that the command line asks for."""
    if {"-h", "--help"} & {*sys.argv}:
        gc.disable()  # a tenth less to wait, and nothing to collect
        run(command)
    else:
        command()


def run(command: Callable[[], object]) -> None:
    """Runs a command that lists its options; where the stand-ins do not do, with the libraries.

    Raises:
      SystemExit: as the command does after its list.
    """
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        command()
        return
    except SystemExit as stop:
        if not stop.code:
            raise
    except Exception:  # whatever it is, the libraries themselves will tell
        pass
    finally:
        sys.meta_path.remove(finder)
    ours = {*LIBRARIES, "metajax", "experiments"}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ours:
            del sys.modules[name]
    command()
