"""The experiment that a command line names, and a digest of the code that it is made of.

This is the one place where a name becomes code: what tunes, queues and runs experiments is given
the `Experiment`. It is a command of this package, or a module of the user's own.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import metajax
from metajax.types import UserError

from .. import __name__ as HOME
from .. import find, with_config

INSTALLED = {
    pathlib.Path(sysconfig.get_path(p)).resolve() for p in ("stdlib", "purelib", "platlib")
}


class Experiment(NamedTuple):
    """What the tools need of an experiment.

    Attributes:
      name: a word for its folders.
      module: what ``python -m`` runs.
      config: its `Config`.
      build: (configuration, problem) -> (learner, outer optimizer), or None where it has none.
    """

    name: str
    module: str
    config: type
    build: Callable[[Any, Any], Any] | None


def experiment(name: str) -> Experiment:
    """The experiment of a command of this package, such as ``maml``.

    Raises:
      UserError: there is no such command.
    """
    place = find(name)
    if place is None:
        raise UserError(f"no experiment {name!r}; python -m experiments lists them all")
    return own(f"{HOME}.{place}")


def own(module: str) -> Experiment:
    """The experiment in a module of the user's, found as ``python -m`` finds it.

    Raises:
      UserError: it cannot be imported, or has no `Config`.
    """
    if os.getcwd() not in sys.path:  # as an installed command is started
        sys.path.insert(0, os.getcwd())
    try:
        code = importlib.import_module(with_config(module))
        config = code.Config
    except (ImportError, AttributeError) as error:
        raise UserError(f"no experiment in module {module!r} ({error})") from error
    name = module.removesuffix(".__main__").rpartition(".")[2]
    return Experiment(name, module, config, getattr(code, "build", None))


def code_hash(module: str) -> str:
    """A digest of the code of an experiment, as 12 hexadecimal digits.

    It covers the module, and every module that it imports, at the top or in a function, directly or
    through others, but for the standard library and installed packages other than metajax.
    Comments, layout and docstrings do not count. What is read as data, or started as a program of
    its own, is not seen.
    """
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(code_of(module).items()))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def code_of(module: str) -> dict[str, str]:
    """Module -> digest of its code, of all that count in `code_hash`."""
    waiting, seen, folders = [with_config(module)], {}, {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        top = name.partition(".")[0]
        if top not in folders:
            folders[top] = _folders(top)
        path = _file(name, folders[top])
        if path:
            seen[name], imported = _read(name, path, path.stat().st_mtime_ns)
            waiting += imported
    return seen


def _folders(top: str) -> list[pathlib.Path]:
    """The folders that a top-level module lies in, found without running it; [] if not to count."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin in ("built-in", "frozen"):
        return []
    places = spec.submodule_search_locations or [spec.origin or ""]
    folders = [pathlib.Path(place).resolve().parent for place in places]
    is_installed = any(one.is_relative_to(place) for one in folders for place in INSTALLED)
    return [] if is_installed and top != metajax.__name__ else folders


def _file(module: str, folders: list[pathlib.Path]) -> pathlib.Path | None:
    """The source of a module, or None where no file of a folder is that module."""
    for folder in folders:
        base = folder.joinpath(*module.split("."))
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    return None


@functools.cache
def _read(name: str, path: pathlib.Path, changed: int) -> tuple[str, frozenset[str]]:
    """A digest of what a module does, and the modules that it may import."""
    tree = ast.parse(path.read_bytes())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = {name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            imported |= {f"{base}.{alias.name}" for alias in node.names}
        if isinstance(getattr(node, "body", None), list):  # docstrings do nothing
            node.body = [line for line in node.body if not _is_text(line)]  # pyright: ignore
    digest = hashlib.blake2b(ast.dump(tree).encode(), digest_size=16).hexdigest()
    return digest, frozenset(whole for one in imported for whole in _with_packages(one))


def _with_packages(module: str) -> Iterator[str]:
    """A module and the packages that it lies in, which are imported before it.

    >>> list(_with_packages("a.b"))
    ['a', 'a.b']
    """
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
