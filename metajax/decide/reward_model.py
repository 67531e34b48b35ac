"""A model of rewards for the direct method: a ridge regression for each action, cross-fitted."""

import functools

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.decide.logged import Logged


@functools.partial(jax.jit, static_argnames="num_actions")
@precision.highest
def ridge(
    logged: Logged, weight: jax.Array, asked_MxD: jax.Array, num_actions: int, damping: float
) -> jax.Array:
    """The predicted reward (M, A) of every action in the contexts that are asked about.

    Each action has a linear model of its own, pulled towards the mean reward of all rounds as if
    ``damping`` rounds had had it.

    Args:
      weight: (n,) 1 for a round that is learned from, 0 for one that is not.
    """
    columns = lambda x: jnp.concatenate([jnp.ones((x.shape[0], 1)), x], axis=1)
    x_NxE = columns(logged.context)
    total = jnp.maximum(weight.sum(), 1.0)
    mean = (weight * logged.reward).sum() / total
    of_action = lambda rows: jax.ops.segment_sum(rows, logged.action, num_actions)
    gram_AxExE = of_action(jnp.einsum("n,nd,ne->nde", weight, x_NxE, x_NxE))
    told_AxE = of_action((weight * (logged.reward - mean))[:, None] * x_NxE)
    gram_AxExE = gram_AxExE + damping * jnp.eye(x_NxE.shape[1])[None]
    solved_AxE = jnp.linalg.solve(gram_AxExE, told_AxE[..., None])[..., 0]
    return mean + columns(asked_MxD) @ solved_AxE.T


@functools.partial(jax.jit, static_argnames=("num_actions", "folds", "bounds"))
def cross_fitted(
    logged: Logged,
    num_actions: int,
    damping: float = 1.0,
    folds: int = 2,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> jax.Array:
    """Predictions (n, A) for the rounds of a log, each by a model that has not seen the round.

    A model that has seen a round explains its luck, and the correction of doubly robust estimators
    misses it.

    Args:
      folds: round i belongs to fold ``i mod folds``.
      bounds: predictions are kept within them.
    """
    n = logged.reward.shape[0]
    fold = jnp.arange(n) % folds
    out = jnp.zeros((n, num_actions))
    for each in range(folds):
        weight = (fold != each).astype(out.dtype)
        told = ridge(logged, weight, logged.context, num_actions, damping)
        out = jnp.where((fold == each)[:, None], told, out)
    return jnp.clip(out, *bounds)
