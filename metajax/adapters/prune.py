"""Magnitude pruning: an optimizer that keeps a growing share of the smallest weights at zero.

References: Zhu and Gupta, "To prune, or not to prune", 2017 (the cubic schedule); Frankle and
Carbin, ICLR 2019.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import tree
from metajax.adapters.lora import KERNELS
from metajax.types import Params, PyTree

Importance = Callable[[str, jax.Array], jax.Array]
"""(path, weights) -> how much each weight matters; the least are pruned."""


class State(NamedTuple):
    """The state ``inner`` of the wrapped optimizer, and the number ``step`` () of steps taken."""

    inner: PyTree
    step: jax.Array


def magnitude(path: str, weights: jax.Array) -> jax.Array:
    """The absolute values of the weights, of the same shape: the usual `Importance`."""
    del path
    return jnp.abs(weights)


def at_random(key: jax.Array) -> Importance:
    """A random `Importance`, the same at every step: the control of magnitude pruning."""

    def importance(path: str, weights: jax.Array) -> jax.Array:
        seed = sum((i + 1) * ord(c) for i, c in enumerate(path)) % (2**31)
        return jax.random.uniform(jax.random.fold_in(key, seed), weights.shape)

    return importance


def cubic(final: float, first_step: int, num_steps: int) -> Callable[[jax.Array], jax.Array]:
    """The share of weights pruned at a step: from 0, fast at first, to ``final``.

    ``s_t = s_f (1 - (1 - (t - t0) / n)^3)`` for t0 <= t <= t0 + n.
    """

    def share(step: jax.Array) -> jax.Array:
        done = jnp.clip((step - first_step) / num_steps, 0.0, 1.0)
        return final * (1.0 - (1.0 - done) ** 3)

    return share


def masked(
    params: Params,
    share: jax.Array | float,
    keep: tree.Filter = KERNELS,
    importance: Importance = magnitude,
) -> Params:
    """The parameters with the least important share of each chosen leaf at zero.

    Exactly ``floor(share * size)`` weights of a leaf are set to 0; ties go by position.
    """

    def prune(path: tuple, leaf: jax.Array) -> jax.Array:
        name = tree.path_name(path)
        if not keep(name):
            return leaf
        order = jnp.argsort(importance(name, leaf).reshape(-1), stable=True)
        rank = jnp.zeros(leaf.size, jnp.int32).at[order].set(jnp.arange(leaf.size))
        count = jnp.floor(share * leaf.size + 1e-4)
        return jnp.where((rank >= count).reshape(leaf.shape), leaf, 0.0)

    return jax.tree_util.tree_map_with_path(prune, params)


def pruned(
    tx: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    keep: tree.Filter = KERNELS,
    importance: Importance = magnitude,
) -> optax.GradientTransformation:
    """The optimizer ``tx``, after each step of which the scheduled share of weights is zero.

    The mask is recomputed from the updated weights at each step, so that momentum cannot revive a
    pruned weight unless it has become large enough.

    Args:
      schedule: step () -> the share to prune, such as `cubic`.
      keep: which leaves are pruned.
    """

    def init(params: Params) -> State:
        return State(tx.init(params), jnp.zeros((), jnp.int32))

    def update(grads: PyTree, state: State, params: Params | None = None):
        assert params is not None, "pruning needs the parameters: give them to update"
        updates, inner = tx.update(grads, state.inner, params)
        moved = optax.apply_updates(params, updates)
        wanted = masked(moved, schedule(state.step + 1), keep, importance)
        return jax.tree.map(lambda w, p: w - p, wanted, params), State(inner, state.step + 1)

    return optax.GradientTransformation(init, update)


def nonzero_bytes(params: Params) -> int:
    """Bytes of the parameters with `KERNELS` stored sparsely: 4 per nonzero, a bit per position."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if KERNELS(tree.path_name(path)):
            total += 4 * int(jnp.sum(leaf != 0)) + -(-leaf.size // 8)
        else:
            total += 4 * leaf.size
    return total
