"""Low-rank adapters: each chosen kernel W becomes W + s A B, and A, B are all that a task learns.

The product W + s A B is never formed where the model multiplies by ``x @ kernel``: tasks that share
a backbone share its matrix product, and a batch of tasks holds tasks x (A, B), not tasks x W.

References: Hu et al., "LoRA", ICLR 2022; Chen et al., "Punica", MLSys 2024 (shared products).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.types import Model, Params, PyTree

KERNELS = tree.matching(r"kernel$")


@jax.tree_util.register_pytree_node_class
class LowRank:
    """A stand-in for the matrix ``base + a b`` (rows, columns), for products ``x @ kernel``."""

    def __init__(self, base: Any, a: jax.Array, b: jax.Array):
        self.base, self.a, self.b = base, a, b

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        return x @ self.base + (x @ self.a) @ self.b

    def tree_flatten(self):
        """The three matrices, for JAX."""
        return (self.base, self.a, self.b), None

    @classmethod
    def tree_unflatten(cls, aux: None, leaves: tuple) -> "LowRank":
        """The inverse of `tree_flatten`."""
        del aux
        return cls(*leaves)


def lora(
    model: Model,
    rank: int,
    keep: tree.Filter = KERNELS,
    *,
    scale: float = 1.0,
    frozen: bool = True,
    formed: bool = False,
) -> Model:
    """The model with a low-rank adapter for each chosen kernel; at the start, with B = 0, the same.

    Its parameters are ``{"base": those of the model, "adapter": {path: {"a", "b"}}}``: give the
    learner ``adapts=tree.under("adapter")``. Leading axes of a kernel, as of stacked layers, are
    kept: each layer has its own A and B.

    Args:
      rank: r; A is (rows, r), drawn normal with variance 1 / rows, and B is (r, columns).
      keep: which leaves of two or more axes get an adapter.
      scale: s.
      frozen: no gradient reaches the base; else the outer loop learns it together with A and B.
      formed: compute W + s A B, for models that do more with a kernel than ``x @ kernel``, as the
        layers of Flax do. Memory then grows with tasks x kernels.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        key_base, key_adapter = jax.random.split(key)
        base = model.init(key_base, profile, inputs)
        found = _chosen(base, keep)
        keys = jax.random.split(key_adapter, max(len(found), 1))
        pairs = [
            _pair(key, leaf.shape, rank) for key, leaf in zip(keys, found.values(), strict=True)
        ]
        return {"base": base, "adapter": dict(zip(found, pairs, strict=True))}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        base = jax.lax.stop_gradient(params["base"]) if frozen else params["base"]
        return model.apply(adapted(base, params["adapter"], scale, formed), profile, inputs)

    return Model(init, apply)


def adapted(base: Params, adapter: PyTree, scale: float = 1.0, formed: bool = False) -> Params:
    """The base's parameters with each adapted kernel replaced by a `LowRank`, or formed as the sum.

    Arguments are those of `lora`; ``adapter`` maps the paths of kernels to their ``a`` and ``b``.
    """

    def replace(path: tuple, leaf: Any) -> Any:
        pair = adapter.get(tree.path_name(path))
        if pair is None:
            return leaf
        if formed:
            return leaf + scale * pair["a"] @ pair["b"]
        return LowRank(leaf, pair["a"], scale * pair["b"])

    return jax.tree_util.tree_map_with_path(replace, base)


def _chosen(base: Params, keep: tree.Filter) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(base)[0]
    named = {tree.path_name(path): leaf for path, leaf in leaves}
    return {name: leaf for name, leaf in named.items() if jnp.ndim(leaf) >= 2 and keep(name)}


def _pair(key: jax.Array, shape: tuple[int, ...], rank: int) -> dict[str, jax.Array]:
    *leading, rows, columns = shape
    a = jax.random.normal(key, (*leading, rows, rank)) / math.sqrt(rows)
    return {"a": a, "b": jnp.zeros((*leading, rank, columns))}
