"""The rooms and their floors: who may import whom, read off the source.

A room is a folder of ``metajax``, or the files of one floor directly in it; ``experiments`` is a
room of its own. A file imports rooms on lower floors and its own room, and never in a circle.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOORS = [
    {"types"},
    {"tree", "losses", "metrics", "stats", "optim", "curvature", "hoist", "flops", "sparse"},
    {"models", "data"},
    {"learners", "adapters"},
    {"transforms"},
    {
        "train",
        "outer",  # the outer gradient of a batch
        "shard",  # and over many devices
        "evaluate",
        "checkpoint",
        "report",
        "ranking",  # full-catalogue evaluation
        "next_item",  # the place of one held-out item
        "leaks",  # tests for leaks, of pipelines, splits and fits
        "protocols",  # split + candidates + metric + aggregation, by name
        "tables",  # records for the terminal
        "plots",  # records as pictures
        "progress",  # bars
        "compare",  # records side by side
        "summary",  # reliability and cost of what is compared
        "journal",  # metrics of a run, line by line
    },
    {"search", "explain", "federated", "serve"},
    {
        "benchmark",
        "problem",  # a data set ready to be learned, and the lock on its test
        "arms",  # the baselines of every table, and training
        "command",  # the command line
    },
    {"__init__"},
    {"experiments"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FOLDERS = {"models", "data", "learners", "adapters", "transforms", "experiments"}


def sources() -> dict[str, str]:
    """Module name -> source of every file of the library and the experiments."""
    files = [f for top in ("metajax", "experiments") for f in sorted((ROOT / top).rglob("*.py"))]
    name = lambda f: ".".join(f.relative_to(ROOT).with_suffix("").parts)
    return {name(f).removesuffix(".__init__"): f.read_text() for f in files}


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imports(source: str) -> Iterator[tuple[str, str | None]]:
    """Every (module, name or None) that a file imports, also inside functions.

    What stands under ``if __name__ == "__main__"`` is a program of its own, and is left out.
    """
    top = [node for node in ast.parse(source).body if not _is_main(node)]
    for node in (inner for outer in top for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name) for alias in node.names)


def edges(modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(importer, imported) for every import between files of the project."""
    for importer, source in modules.items():
        for module, name in imports(source):
            assert not module.startswith("."), f"{importer}: write relative imports in full"
            full = f"{module}.{name}" if name and f"{module}.{name}" in modules else module
            if full.split(".")[0] in ("metajax", "experiments"):
                yield importer, full


def room(module: str) -> str:
    """The folder of a module, or the name of a file directly in ``metajax``."""
    parts = module.split(".")
    if parts[0] == "experiments":
        return "experiments"
    return parts[1] if len(parts) > 1 else "__init__"


def violations(modules: dict[str, str]) -> list[str]:
    """What breaks the rule of the floors, one sentence each."""
    unknown = sorted({room(m) for m in modules} - FLOOR_OF.keys())
    if unknown:
        return [f"metajax/{name} has no floor: give it one in FLOORS" for name in unknown]
    found = []
    for importer, imported in edges(modules):
        here, there = room(importer), room(imported)
        if there not in FLOOR_OF:
            found.append(f"{importer} imports {imported}, which does not exist")
            continue
        same = FLOOR_OF[here] == FLOOR_OF[there] and not {here, there} & FOLDERS
        if here != there and not same and FLOOR_OF[there] >= FLOOR_OF[here]:
            found.append(
                f"{importer} (floor {FLOOR_OF[here]}) imports {imported} (floor {FLOOR_OF[there]})"
            )
    return found


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
        if any(module.split(".")[0] == package for module, _ in imports(source))
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
    assert importers_of("flax", sources()) <= {"models", "experiments"}


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("metajax.learners.x", "from metajax.training.loop import fit", "floor 3.*train.*floor 5"),
        ("metajax.learners.x", "def f():\n  import metajax.transforms.y", "floor 3.*floor 4"),
        ("metajax.models.x", "from metajax.data import table", "models.*floor 2.*data"),
        ("metajax.training.loop", "from experiments import maml", "floor 5.*experiments"),
        ("metajax.types", "from metajax import tree", "types.*floor 0.*tree"),
        ("metajax.novelty", "import jax", "novelty has no floor: give it one"),
    ],
)
def test_a_planted_import_is_found(module, source, sentence):
    modules = {name: "" for name in ("metajax.training.loop", "metajax.tree", "metajax.data.table")}
    (found,) = violations({**modules, module: source})
    assert re.search(sentence, found)


def test_imports_that_are_allowed_are_not_reported():
    modules = {
        "metajax.tree": "import jax",
        "metajax.losses": "from metajax import tree",
        "metajax.learners.a": "from metajax.learners.b import f\nfrom metajax import losses",
        "metajax.learners.b": "",
        "experiments.x": "from metajax.learners import a\nfrom experiments import y",
        "experiments.y": "",
    }
    assert not violations(modules)
    assert not cycle(modules)


def test_a_planted_circle_is_found():
    modules = {
        "metajax.data.a": "from metajax.data import b",
        "metajax.data.b": "from metajax.data.c import f",
        "metajax.data.c": "import metajax.data.a",
    }
    assert cycle(modules) == [*sorted(modules), "metajax.data.a"]
    assert importers_of("flax", {"metajax.learners.a": "from flax import nnx"}) == {"learners"}


def test_every_test_that_the_readme_names_exists():
    """Also the properties of the contract battery, which are functions of that file."""
    named = re.findall(r"`(test_\w+)::(\w+)`", (ROOT / "tests" / "README.md").read_text())
    assert len(named) > 20
    for file, function in named:
        assert f"def {function}(" in (ROOT / "tests" / f"{file}.py").read_text(), (file, function)
