"""The experiments: rooms of commands, each of which trains, judges and tabulates one question.

``python -m experiments`` lists them, ``python -m experiments NAME`` runs one. A command is a file
of a room, or a package of a room with a file of its own name, whose `Config` and `main` are run.
``python -m experiments.NAME`` and ``python -m experiments.ROOM.NAME`` run it too.
"""

import importlib.abc
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOMS = (
    *("methods", "classics", "field", "large", "shop", "streams"),
    *("decisions", "trust", "domains", "speed", "pages", "tools"),
)


def find(name: str) -> str | None:
    """The module of a command, ``ROOM.NAME`` within this package, or None if no room has it."""
    for room in ROOMS:
        place = HERE / room / name
        if place.with_suffix(".py").is_file() or (place / f"{name}.py").is_file():
            return f"{room}.{name}"
    return None


def sources() -> Iterator[tuple[str, str, pathlib.Path]]:
    """(room, name, file with its docstring) of every command, room by room."""
    for room in ROOMS:
        for path in sorted((HERE / room).iterdir()):
            family = path / f"{path.name}.py"
            if find(path.stem) != f"{room}.{path.stem}":
                continue  # a file of another use, or one that a room before has a command for
            if family.is_file():
                yield room, path.stem, family
            elif '__name__ == "__main__"' in path.read_text():
                yield room, path.stem, path


def with_config(module: str) -> str:
    """The module with ``Config``, ``build`` and ``main`` of a command, of this package or another.

    A command that is a package has them in the file of its own name, or else in its ``__main__``.
    """
    spec, own = importlib.util.find_spec(module), f"{module}.{module.rpartition('.')[2]}"
    if spec is None or spec.submodule_search_locations is None:
        return module
    return own if importlib.util.find_spec(own) else f"{module}.__main__"


class _Command(importlib.abc.InspectLoader):
    """The code behind ``python -m experiments.NAME``, and the ``__main__`` of a package."""

    def get_code(self, fullname: str) -> CodeType:
        package, _, name = fullname.rpartition(".")
        text = f"from {__name__}.__main__ import run; run({name!r})"
        if name == "__main__":
            own = f"from {package}.{package.rpartition('.')[2]} import Config, main"
            text = f"from metajax.benchmark.command import cli; {own}; cli(main, Config)"
        return compile(text, "<command>", "exec")

    def get_source(self, fullname: str) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.rpartition(".")[2]
        raise ImportError(f"import {__name__}.{find(name)}; {module.__name__} is a command only")


class _Commands(importlib.abc.MetaPathFinder):
    """Finds ``experiments.NAME`` and ``experiments.ROOM.NAME.__main__`` where NAME is a command."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        by_path = package.startswith(f"{__name__}.") and fullname == f"{__name__}.{find(name)}"
        helps = sys.argv[:1] == ["-m"] and {"-h", "--help"} & {*sys.argv}  # only while -m seeks it
        by_name = package == __name__ and name not in ROOMS and find(name)
        if by_name or (by_path and helps):
            return importlib.util.spec_from_loader(fullname, _Command())
        command = package.rpartition(".")[2]
        if name != "__main__" or package != f"{__name__}.{find(command)}":
            return None
        file = HERE.joinpath(*package.split(".")[-2:], f"{command}.py")
        return importlib.util.spec_from_loader(fullname, _Command(), origin=str(file))


sys.meta_path.insert(0, _Commands())  # before files are sought: a list of options needs none
