"""What a command does in which order: whether it shows anything before its record is written.

The functions of the experiments and of `metajax.benchmark` are followed from a command's ``main``
as they are called, and the functions that are handed to them. Of two branches both are followed.
Left out is what is done only with ``--from-records``, and a branch that ends the command without a
record. A function in a list or in a tuple is not found: a test names it.
"""

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
WRITES = {f"metajax.results.records.{x}" for x in ("write", "publish", "read")}
"""After these calls there is a record on the disk."""
SHOWS = ("metajax.results.tables.terminal", "metajax.results.plots.")
FOLLOWED = ("experiments.", "metajax.benchmark.")


@dataclasses.dataclass(frozen=True)
class Function:
    """A function or lambda with the module that it stands in, and what its names are bound to."""

    module: str
    node: Any
    bound: tuple[tuple[str, "Function"], ...] = ()


@functools.cache
def source(module: str) -> tuple[pathlib.Path, ast.Module] | None:
    """The file of a module and its tree, if it is one of this repository."""
    place = ROOT.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path, ast.parse(path.read_text())
    return None


@functools.cache
def names(module: str) -> Mapping[str, str]:
    """Name -> dotted name of what a module imports, inside functions too."""
    found = source(module)
    assert found
    path, tree = found
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    told = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                told[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            told |= {alias.asname or alias.name: f"{start}.{alias.name}" for alias in node.names}
    return told


def dotted(module: str, node: ast.expr) -> str:
    """The dotted name that an expression has in a module, with imports resolved."""
    if isinstance(node, ast.Name):
        return names(module).get(node.id, f"{module}.{node.id}")
    if isinstance(node, ast.Attribute):
        left = dotted(module, node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


@functools.cache
def settled(name: str) -> str:
    """The dotted name of a function where it is defined, re-exports followed."""
    module, _, last = name.rpartition(".")
    if not module or source(module) is None:
        return name
    further = names(module).get(last)
    return settled(further) if further and further != name else name


@functools.cache
def defined(name: str) -> Function | None:
    """The function of a dotted name, if it is one that is followed."""
    module, _, last = name.rpartition(".")
    found = source(module) if name.startswith(FOLLOWED) else None
    for node in found[1].body if found else []:
        if isinstance(node, ast.FunctionDef) and node.name == last:
            return Function(module, node)
        if isinstance(node, ast.Assign) and last in map(ast.unparse, node.targets):
            return reference(Function(module, node.value), node.value)
    return None


def method(module: str, node: ast.expr) -> Function | None:
    """The method of that name, if just one class of the module has it."""
    found = source(module) if isinstance(node, ast.Attribute) else None
    classes = [c for c in found[1].body if isinstance(c, ast.ClassDef)] if found else []
    every = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef)]
    named = [m for m in every if isinstance(node, ast.Attribute) and m.name == node.attr]
    return Function(module, named[0]) if len(named) == 1 else None


def reference(at: Function, node: ast.expr) -> Function | None:
    """The function that an expression is."""
    if isinstance(node, ast.Lambda):
        return Function(at.module, node, at.bound)
    if isinstance(node, ast.Call) and settled(dotted(at.module, node.func)) == "functools.partial":
        return reference(at, node.args[0])
    if isinstance(node, ast.Name) and node.id in dict(at.bound):
        return dict(at.bound)[node.id]
    return defined(settled(dotted(at.module, node))) or method(at.module, node)


def called(at: Function, call: ast.Call, told: Function) -> Function:
    """The function that is called, its parameters bound to the functions that it is given."""
    parameters = [a.arg for a in (*told.node.args.posonlyargs, *told.node.args.args)]
    given = [*zip(parameters, call.args, strict=False)]
    given += [(k.arg, k.value) for k in call.keywords if k.arg]
    bound = {name: f for name, value in given if (f := reference(at, value))}
    return dataclasses.replace(told, bound=tuple((dict(told.bound) | bound).items()))


def local(at: Function) -> Function:
    """The function with its inner functions and lambdas among its names."""
    found = {}
    for node in at.node.body if isinstance(at.node, ast.FunctionDef) else []:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = Function(at.module, node, at.bound)
        elif isinstance(node, ast.Assign) and (told := reference(at, node.value)):
            found |= {t.id: told for t in node.targets if isinstance(t, ast.Name)}
    return dataclasses.replace(at, bound=tuple((dict(at.bound) | found).items()))


class Order:
    """Follows functions as they are called.

    Attributes:
      early: the places where something is shown before a record is on the disk.
      writes: whether a record is written at all.
    """

    def __init__(self) -> None:
        self.early: list[str] = []
        self.writes = False
        self.inside: list[ast.AST] = []

    def function(self, at: Function, written: bool) -> bool:
        """Whether a record is on the disk after a call, if it is before or not."""
        if at.node in self.inside:
            return written
        self.inside.append(at.node)
        body = at.node.body if isinstance(at.node, ast.FunctionDef) else [at.node.body]
        written = self.block(local(at), body, written)
        self.inside.pop()
        return written

    def block(self, at: Function, nodes: Iterable[ast.AST], written: bool) -> bool:
        """The same after a block of statements, or an expression."""
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
                continue
            if isinstance(node, ast.If | ast.IfExp):
                written = self.branches(at, node, written)
            elif isinstance(node, ast.Call):
                written = self.call(at, node, written)
            else:
                written = self.block(at, ast.iter_child_nodes(node), written)
        return written

    def branches(self, at: Function, node: ast.If | ast.IfExp, written: bool) -> bool:
        """The same after a branch."""
        body, other = (x if isinstance(x, list) else [x] for x in (node.body, node.orelse))
        written = self.block(at, [node.test], written)
        if "from_records" in ast.unparse(node.test):
            unless = isinstance(node.test, ast.UnaryOp)
            return self.block(at, body if unless else other, written)
        after = []
        for one in (body, other):
            before, self.writes = (list(self.early), self.writes), False
            after.append(self.block(at, one, written))
            if one and isinstance(one[-1], ast.Return | ast.Raise | ast.Continue):
                after.pop()
                if not self.writes:
                    self.early = before[0]
            self.writes |= before[1]
        return all(after) if after else written

    def call(self, at: Function, call: ast.Call, written: bool) -> bool:
        """The same after a call."""
        given = (*call.args, *(k.value for k in call.keywords), call.func)
        written = self.block(at, given, written)
        name = settled(dotted(at.module, call.func))
        if name in WRITES:
            self.writes |= name.endswith(("write", "publish"))
            return True
        shown = name.startswith(SHOWS) or name.endswith((".savefig", f"{at.module}.print"))
        if shown and not written and not any(k.arg == "file" for k in call.keywords):
            self.early.append(f"{at.module}, line {call.lineno}: {ast.unparse(call)[:80]}")
        told = reference(at, call.func)
        return self.function(called(at, call, told), written) if told else written


def followed(name: str) -> tuple[bool, list[str]]:
    """Whether a function writes a record, and the places where something is shown before that."""
    function, order = defined(name), Order()
    assert function, f"there is no function {name}"
    order.function(function, False)
    return order.writes, order.early
