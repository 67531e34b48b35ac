"""Outer gradients that a few hostile tasks of a batch cannot move far.

The outer gradient is a mean over tasks, and a mean has no bound on what one task does to it. Each
rule here takes the gradients of T tasks and gives one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.training.outer_gradient import GradientFn, Info, task_keys
from metajax.types import Episode, MetaLearner, Params, PyTree

Rule = Callable[[PyTree], PyTree]
"""Gradients of T tasks, leaves (T, ...) -> one gradient."""


def mean(gradients: PyTree) -> PyTree:
    """The mean over tasks: what is not robust."""
    return jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)


def clipped(most: float | None = None) -> Rule:
    """The mean of gradients whose norm over all parameters is at most ``most``.

    None takes the median norm of the batch's tasks, so that nothing is to be tuned. One task moves
    the mean by at most ``2 most / T``.
    """

    def rule(gradients: PyTree) -> PyTree:
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in jax.tree.leaves(gradients)]
        norm_T = jnp.sqrt(sum(squares))
        limit = jnp.median(norm_T) if most is None else most
        share_T = jnp.minimum(1.0, limit / jnp.maximum(norm_T, 1e-12))
        return mean(jax.tree.map(lambda g: jax.vmap(jnp.multiply)(g, share_T), gradients))

    return rule


def trimmed(share: float = 0.1) -> Rule:
    """The mean of each entry without the ``share`` of tasks on either side, at least one each.

    References: Yin et al., "Byzantine-robust distributed learning", ICML 2018.
    """

    def rule(gradients: PyTree) -> PyTree:
        def one(g: jax.Array) -> jax.Array:
            cut = min(max(1, round(share * len(g))), (len(g) - 1) // 2)
            return jnp.mean(jnp.sort(g, axis=0)[cut : len(g) - cut], axis=0)

        return jax.tree.map(one, gradients)

    return rule


def median(gradients: PyTree) -> PyTree:
    """The median of each entry over tasks (Yin et al., ICML 2018)."""
    return jax.tree.map(lambda g: jnp.median(g, axis=0), gradients)


def aggregated(learner: MetaLearner, rule: Rule) -> GradientFn:
    """The gradient of a batch of tasks by a rule, for `training.loop.recipe`.

    Memory grows with tasks times parameters, since every task has a gradient of its own.
    """

    def gradient(params: Params, episodes: Episode, key: jax.Array) -> tuple[PyTree, Info]:
        def one(episode: Episode, key: jax.Array):
            (value, info), grads = jax.value_and_grad(learner.loss, has_aux=True)(
                params, episode, key
            )
            return grads, {"loss": value, **info}

        grads, info = jax.vmap(one)(episodes, task_keys(episodes, key))
        return rule(grads), jax.tree.map(jnp.mean, info)

    return gradient
