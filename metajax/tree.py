"""Paths into parameter trees: which leaves adapt, freeze, are pruned or are private to a task.

A *filter* is a predicate on the path of a leaf, written ``"head/0/kernel"``. Filters combine with
plain functions; nothing here knows about models.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.types import PyTree

Filter = Callable[[str], bool]


def everything(path: str) -> bool:
    """True for every path."""
    del path
    return True


def nothing(path: str) -> bool:
    """False for every path."""
    del path
    return False


def under(*prefixes: str) -> Filter:
    """A filter that holds for the named subtrees.

    >>> under("head")("head/kernel"), under("head")("header/kernel")
    (True, False)
    """
    return lambda path: any(path == p or path.startswith(p + "/") for p in prefixes)


def matching(pattern: str) -> Filter:
    """A filter that holds where the regular expression is found in the path."""
    return lambda path: re.search(pattern, path) is not None


def negate(keep: Filter) -> Filter:
    """The filter that holds where ``keep`` does not."""
    return lambda path: not keep(path)


def path_name(path: tuple) -> str:
    """The path of a leaf as text, its keys joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def partition(tree: PyTree, keep: Filter) -> tuple[PyTree, PyTree]:
    """Two trees shaped like ``tree``: the leaves that ``keep`` holds for, and the others.

    A leaf that is absent is ``None``, which JAX treats as an empty subtree: gradients, optimizers
    and ``vmap`` see only the leaves that are there.
    """
    kept = jax.tree_util.tree_map_with_path(lambda p, x: x if keep(path_name(p)) else None, tree)
    rest = jax.tree_util.tree_map_with_path(lambda p, x: None if keep(path_name(p)) else x, tree)
    return kept, rest


def merge(first: PyTree, second: PyTree) -> PyTree:
    """The first tree, with the leaves of the second where the first has ``None``.

    It undoes `partition`. The second tree may also have all leaves: those of the first win.
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None
    )


def where(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    """``yes`` where the scalar condition holds, else ``no``: two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def size(tree: PyTree) -> int:
    """The number of scalars in the tree."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))


def squared_norm(tree: PyTree) -> jax.Array:
    """The sum of squares of all floating-point leaves."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return sum((jnp.sum(x**2) for x in floats), jnp.zeros(()))
