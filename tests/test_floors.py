"""The rooms and their floors: who may import whom, read off the source.

A room is a folder of ``metajax`` or of ``experiments``, or one of the files that everything
stands on. A file imports its own room and rooms on lower floors, and never in a circle.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOORS = [
    {"types", "places"},
    {"settings", "stand_ins", "platforms"},
    {"tree", "losses", "precision"},
    {"optim"},
    {"models"},
    {"data"},
    {"adapters"},
    {"learners"},
    {"transforms"},
    {"training", "profiling"},
    {"results"},
    {"evaluation", "explain"},
    {"tuning", "serving", "online", "federated"},
    {"benchmark", "decide"},
    {"commands"},
    {"metajax"},  # the package itself: the public names
    {"experiments"},  # the package itself: its list of commands
    {"experiments.methods"},
    {"experiments.classics"},
    {"experiments.field"},
    {"experiments.large"},
    {"experiments.shop"},
    {"experiments.streams"},
    {"experiments.decisions"},
    {"experiments.trust"},
    {"experiments.domains"},
    {"experiments.speed"},
    {"experiments.pages", "experiments.tools"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def sources() -> dict[str, str]:
    """Module name -> source of every file of the library and the experiments."""
    files = [f for top in ("metajax", "experiments") for f in sorted((ROOT / top).rglob("*.py"))]
    name = lambda f: ".".join(f.relative_to(ROOT).with_suffix("").parts)
    return {name(f): f.read_text() for f in files}


def imports(module: str, source: str) -> Iterator[tuple[str, str | None]]:
    """Every (module, name or None) that a file imports, also inside functions and programs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            target = ".".join([*above, *filter(None, [node.module])])
            yield from ((target, alias.name) for alias in node.names)


def edges(modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(importer, imported) for every import between files of the project."""
    for importer, source in modules.items():
        for module, name in imports(importer, source):
            full = f"{module}.{name}"
            found = next((m for m in (full, f"{full}.__init__") if m in modules), module)
            found = f"{found}.__init__" if f"{found}.__init__" in modules else found
            if found.split(".")[0] in ("metajax", "experiments"):
                yield importer, found


def room(module: str) -> str:
    """The room of a module: a folder, or one of the files and packages at the top."""
    parts = module.removesuffix(".__init__").removesuffix(".__main__").split(".")
    if parts[0] == "experiments":
        return ".".join(parts[:2])
    return parts[1] if len(parts) > 1 else "metajax"


def violations(modules: dict[str, str]) -> list[str]:
    """What breaks the rule of the floors, one sentence each."""
    unknown = sorted({room(m) for m in modules} - FLOOR_OF.keys())
    if unknown:
        return [f"{name} has no floor: give it one in FLOORS" for name in unknown]
    found = []
    for importer, imported in edges(modules):
        here, there = room(importer), room(imported)
        if there not in FLOOR_OF:
            found.append(f"{importer} imports {imported}, which does not exist")
        elif here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
            found.append(
                f"{importer} (floor {FLOOR_OF[here]}) imports {imported} (floor {FLOOR_OF[there]})"
            )
    # the names that a package hands on are under TYPE_CHECKING, for the type checker alone
    return [line for line in found if not line.startswith("metajax.__init__ ")]


def cycle(modules: dict[str, str]) -> list[str]:
    """Files that import each other in a circle, in order; empty if there are none."""
    needs: dict[str, set[str]] = {m: set() for m in modules}
    for importer, imported in edges(modules):
        if imported in needs and imported != importer:
            needs[importer].add(imported)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(needs[module]):
            if found := visit(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for m in sorted(needs) if (found := visit(m, []))), [])


def importers_of(package: str, modules: dict[str, str]) -> set[str]:
    """The rooms that import a third-party package."""
    return {
        room(m)
        for m, source in modules.items()
        if any(module.split(".")[0] == package for module, _ in imports(m, source))
    }


def test_every_file_imports_downwards_only():
    found = violations(sources())
    assert not found, "; ".join(found)


def test_no_files_import_each_other_in_a_circle():
    found = cycle(sources())
    assert not found, " -> ".join(found)


def test_the_contract_stands_on_nothing():
    assert not [pair for pair in edges(sources()) if pair[0] == "metajax.types"]


def test_flax_lives_in_the_models_alone():
    rooms = {room for room in importers_of("flax", sources()) if "experiments" not in room}
    assert rooms <= {"models"}


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("metajax.learners.x", "from metajax.training.loop import fit", "floor 7.*training.*floor"),
        ("metajax.learners.x", "def f():\n  import metajax.transforms.y", "floor 7.*floor 8"),
        ("metajax.models.x", "from metajax.data import table", "models.*floor 4.*data"),
        ("metajax.learners.x.__main__", "import metajax.results.y", "learners.*floor 7.*results"),
        ("metajax.results.x", "from experiments.methods import maml", "results.*experiments"),
        ("experiments.methods.x", "from ..field import tables", "methods.*experiments.field"),
        ("metajax.types", "from metajax import tree", "types.*floor 0.*tree"),
        ("metajax.novelty", "import jax", "novelty has no floor: give it one"),
    ],
)
def test_a_planted_import_is_found(module, source, sentence):
    known = (
        "metajax.training.loop",
        "metajax.tree",
        "metajax.data.table",
        "experiments.field.tables",
    )
    modules = {name: "" for name in known}
    (found,) = violations({**modules, module: source})
    assert re.search(sentence, found)


def test_imports_that_are_allowed_are_not_reported():
    modules = {
        "metajax.tree": "import jax",
        "metajax.losses": "",
        "metajax.learners.a": "from metajax.learners.b import f\nfrom metajax import losses",
        "metajax.learners.b": "",
        "experiments.methods.x": "from metajax.learners import a\nfrom . import y",
        "experiments.methods.y": "",
        "experiments.field.z.__main__": "from ...methods import x\nfrom .z import main",
        "experiments.field.z": "",
    }
    assert not violations(modules)
    assert not cycle(modules)


def test_a_planted_circle_is_found():
    modules = {
        "metajax.data.a": "from metajax.data import b",
        "metajax.data.b": "from .c import f",
        "metajax.data.c": "import metajax.data.a",
    }
    assert cycle(modules) == [*sorted(modules), "metajax.data.a"]
    assert importers_of("flax", {"metajax.learners.a": "from flax import nnx"}) == {"learners"}


def test_every_test_that_the_readme_names_exists():
    """Also the properties of the contract battery, which are functions of that file."""
    named = re.findall(r"`(test_\w+)::(\w+)`", (ROOT / "tests" / "README.md").read_text())
    assert len(named) > 20
    places = dict.fromkeys((file for file, _ in named), "")
    for path in (ROOT / "tests").rglob("test_*.py"):
        places[path.stem] = places.get(path.stem, "") + path.read_text()
    places["test_contract"] += (ROOT / "metajax" / "evaluation" / "check.py").read_text()
    for file, function in named:
        assert f"def {function}(" in places[file], (file, function)
