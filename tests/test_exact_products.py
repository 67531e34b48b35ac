"""No matrix product outside a network is left to the platform, which may round its factors.

The files are read, not run: every module that uses JAX is one of linear algebra, unless it is in
`NETWORKS`. A product there is exact if its function, or one around it, is decorated with
`precision.highest`, or if it is given ``precision="highest"``.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

METAJAX = pathlib.Path(__file__).parent.parent / "metajax"

NETWORKS = {
    "adapters": "weights of a network and what is added to them",
    "learners/cold_start/lwa.py:nlba": "a network with biases of the class vectors",
    "learners/cold_start/cross_domain.py:personal_bridge": "a network that makes a matrix",
    "learners/cold_start/mamo.py": "a network with a memory that is read by attention",
    "learners/cold_start/metahin.py": "attention over paths",
    "learners/cold_start/paml.py": "attention over friends",
    "learners/cold_start/tanp.py": "a neural process",
    "learners/gradient/fast_perceptron.py": "a perceptron in dual form",
    "learners/in_context.py": "a transformer",
    "learners/parts.py:linear": "a layer",
    "models": "networks",
    "transforms/adversarial.py": "a network that tells domains apart",
    "transforms/attenuate.py": "a network that scales the start",
    "transforms/contrastive.py": "cosines of a network's outputs",
}
"""Modules, folders and functions whose products may be narrow, and what they are of."""

EXACT = {"models/attention.py": ("solved", "solved_left_out", "_similarity", "_inverse_jvp")}
"""What solves a linear system in a folder of networks."""

HOST = (
    "benchmark/mixture.py:fitted_weights",
    "benchmark/ranking.py:_metrics",
    "data/diversity.py:fold_in",
    "data/features/represent.py",
    "learners/cold_start/cross_domain.py:estimated_prior",
    "online/warm.py:by_content",
    "serving/linear.py",
)
"""Products of NumPy and SciPy arrays where a module also uses JAX: they round no factors."""

PRODUCTS = {"einsum", "dot", "matmul", "tensordot", "vdot", "vecdot", "inner", "dot_general", "cg"}
HOST_MODULES = ("np.", "scipy.", "sparse.", "sp.")


def _is_narrow(node: ast.expr) -> bool:
    """Whether a node multiplies matrices, or solves or factors one, by JAX at its own precision."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.MatMult)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name, attribute = ast.unparse(node.func), node.func.attr
    if name.startswith(HOST_MODULES) or name.endswith(".linalg.norm"):
        return False
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    exact = given.get("precision") == "'highest'"
    return (
        attribute in PRODUCTS or attribute.startswith("conv_") or ".linalg." in name
    ) and not exact


def _is_exact(node: ast.AST) -> bool:
    """Whether a node is a function whose products are exact."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return any(ast.unparse(one).endswith(".highest") for one in decorators)


def narrow(text: str) -> Iterator[tuple[str, int]]:
    """Function ("a.b" is b inside a) and line of each product that may be narrow."""

    def inside(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if _is_exact(child):
                continue
            if isinstance(child, ast.expr) and _is_narrow(child):
                yield ".".join(path), child.lineno
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            yield from inside(child, (*path, child.name) if named else path)

    yield from inside(ast.parse(text), ())


def _modules() -> dict[str, str]:
    """The text of each module that uses JAX."""
    texts = {str(p.relative_to(METAJAX)): p.read_text() for p in sorted(METAJAX.rglob("*.py"))}
    return {name: text for name, text in texts.items() if "import jax" in text}


def _excepted(name: str, function: str) -> bool:
    """Whether a product of a function in a module is one of a network, or of NumPy."""
    outer = function.split(".")[0]
    if outer in EXACT.get(name, ()):
        return False
    folders = {str(parent) for parent in pathlib.PurePath(name).parents}
    return bool({*NETWORKS, *HOST} & {name, f"{name}:{outer}", *folders})


def test_every_product_outside_networks_is_exact():
    """One that is not: decorate its function with `precision.highest`, or name its network here."""
    left = [
        f"metajax/{name}:{line} in {function or 'the module'}"
        for name, text in _modules().items()
        for function, line in narrow(text)
        if not _excepted(name, function)
    ]
    assert not left, "products that a platform may round: " + ", ".join(left)


def test_what_is_excepted_has_products():
    modules = _modules()
    for place in (*NETWORKS, *HOST):
        start, _, function = place.partition(":")
        texts = [text for name, text in modules.items() if name.startswith(start)]
        found = {one.split(".")[0] for text in texts for one, _ in narrow(text)}
        assert found and (not function or function in found), f"{place} needs no exception"
    for name, functions in EXACT.items():
        assert all(f"def {function}(" in modules[name] for function in functions)


@pytest.mark.parametrize(
    "line",
    [
        "x.T @ x",
        "jnp.einsum('nd,ne->de', x, x)",
        "jnp.linalg.solve(x, x)",
        "jax.scipy.linalg.cho_solve(x, x)",
        "x.dot(x)",
        "jnp.matmul(x, x, precision='default')",
        "jnp.matmul(x @ x, x, precision='highest')",
    ],
)
def test_a_product_that_may_be_narrow_is_seen(line):
    bare = f"def gram(x):\n    def inner():\n        return {line}\n    return inner()\n"
    assert list(narrow(bare)) == [("gram.inner", 3)]
    assert not list(narrow("@precision.highest\n" + bare))
    host = bare.replace("jnp.", "np.").replace("jax.scipy", "scipy")
    assert bool(list(narrow(host))) == ("@" in line or line.startswith("x."))
