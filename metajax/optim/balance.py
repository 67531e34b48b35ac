"""The balance of several losses: weights, learned uncertainty, and gradients without conflict.

References: Kendall, Gal, Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR
2018; Yu et al., "Gradient surgery for multi-task learning", NeurIPS 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax import precision


def by_uncertainty(losses: jax.Array, log_variance: jax.Array) -> jax.Array:
    """The sum () of losses (T,), each by its learned precision: ``exp(-s) loss + s``.

    At its minimum over s a loss has weight 1 / loss, so that no task counts more for its units.

    >>> by_uncertainty(jnp.array([2.0, 8.0]), jnp.log(jnp.array([2.0, 8.0]))).round(3).item()
    4.773
    """
    return jnp.sum(jnp.exp(-log_variance) * losses + log_variance)


def pcgrad(seed: int = 0) -> optax.GradientTransformation:
    """From the gradients of T tasks one, in which no task pulls against another (PCGrad).

    A gradient that has a negative product with that of another task loses its part along it, one
    task after the other in random order; the result is the mean over tasks. In front of any
    optimizer: ``optax.chain(pcgrad(), optax.adam(1e-3))``, whose ``update`` is then given gradients
    with a leading axis of tasks, leaves (T, ...).

    Args:
      seed: of the order in which the others are looked at.
    """

    def init(params: Any) -> jax.Array:
        del params
        return jax.random.key(seed)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        key, key_order = jax.random.split(state)
        count = len(jax.tree.leaves(updates)[0])
        flat_TxP = jax.vmap(lambda tree: ravel_pytree(tree)[0])(updates)
        unravel = ravel_pytree(jax.tree.map(lambda x: x[0], updates))[1]

        def freed(i: jax.Array, key: jax.Array) -> jax.Array:
            @precision.highest
            def against(g: jax.Array, j: jax.Array) -> tuple[jax.Array, None]:
                other = flat_TxP[j]
                product = jnp.where(j == i, 0.0, jnp.minimum(g @ other, 0.0))
                return g - product / jnp.maximum(other @ other, 1e-12) * other, None

            order = jax.random.permutation(key, count)
            return jax.lax.scan(against, flat_TxP[i], order)[0]

        keys = jax.random.split(key_order, count)
        return unravel(jax.vmap(freed)(jnp.arange(count), keys).mean(axis=0)), key

    return optax.GradientTransformation(init, update)
