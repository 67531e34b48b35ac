"""Tuning of continuous settings by the gradient of a validation loss (hypergradients).

`unrolled` differentiates through the steps of training, `implicit` at its minimum by the implicit
function theorem; `descend` follows the gradient from many starts in one program.

References: Franceschi et al., ICML 2018; Lorraine, Vicol, Duvenaud, AISTATS 2020.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.sparse.linalg import cg

from metajax import precision
from metajax.training.steps import Recipe, init, steps
from metajax.training.updates import optimizer
from metajax.types import PyTree, UserError


def unrolled(
    inner: Callable[[PyTree, PyTree], jax.Array],
    outer: Callable[[PyTree, PyTree], jax.Array],
    start: PyTree,
    num_steps: int,
    rate: Callable[[PyTree], jax.Array],
) -> Callable[[PyTree], jax.Array]:
    """A differentiable function: settings -> outer loss after gradient steps on the inner loss.

    Args:
      inner: (weights, settings) -> training loss.
      outer: (weights, settings) -> validation loss.
      start: the weights before the first step.
      num_steps: gradient steps.
      rate: settings -> learning rate of a step; it may be one of the settings.

    References: Franceschi et al., "Bilevel programming for hyperparameter optimization and
    meta-learning", ICML 2018.
    """

    def loss(settings: PyTree) -> jax.Array:
        size = rate(settings)

        def step(weights: PyTree, _: None) -> tuple[PyTree, None]:
            slope = jax.grad(inner)(weights, settings)
            return jax.tree.map(lambda w, g: w - size * g, weights, slope), None

        weights, _ = jax.lax.scan(step, start, length=num_steps)
        return outer(weights, settings)

    return loss


def implicit(
    inner: Callable[[PyTree, PyTree], jax.Array],
    outer: Callable[[PyTree, PyTree], jax.Array],
    solve: Callable[[PyTree], PyTree],
    num_solver_steps: int = 50,
) -> Callable[[PyTree], jax.Array]:
    """A differentiable function: settings -> outer loss at the minimum of the inner loss.

    The gradient is dV/dl - (d2L/dl dw) [d2L/dw2]^-1 dV/dw, the inverse applied by conjugate
    gradients; how ``solve`` found the minimum does not matter, and is not differentiated.

    Args:
      inner: (weights, settings) -> training loss, convex in the weights near the minimum.
      outer: (weights, settings) -> validation loss.
      solve: settings -> the weights that minimize the inner loss.
      num_solver_steps: conjugate-gradient steps.

    References: Lorraine, Vicol, Duvenaud, AISTATS 2020.
    """

    @precision.highest
    def loss(settings: PyTree) -> jax.Array:
        still = jax.lax.stop_gradient(settings)
        found = jax.lax.stop_gradient(solve(still))
        slope = jax.grad(inner)
        curve = lambda v: jax.jvp(lambda w: slope(w, still), (found,), (v,))[1]
        # A Newton step from the minimum moves nothing; its derivative is that of the minimum.
        step, _ = cg(curve, slope(found, settings), maxiter=num_solver_steps)
        weights = jax.tree.map(jnp.subtract, found, step)
        return outer(weights, settings)

    return loss


class Descent(NamedTuple):
    """The result of `descend`: the best ``settings``, their ``loss``, all ``losses`` (P, steps)."""

    settings: PyTree
    loss: float
    losses: np.ndarray


def descend(
    loss: Callable[[PyTree], jax.Array], starts: PyTree, num_steps: int, rate: float = 0.05
) -> Descent:
    """Adam on a validation loss from several starts at once, in one program.

    Give positive settings as their logarithms. Starts that diverge are ignored.

    Args:
      loss: settings -> validation loss, differentiable.
      starts: settings, leaves (P, ...): P starts, by `jax.vmap`.
      num_steps: steps of Adam.
      rate: of Adam.

    Raises:
      UserError: no start has a finite loss.
    """

    def gradient_fn(settings: PyTree, batch: None, key: jax.Array):
        del batch, key
        value, slope = jax.value_and_grad(loss)(settings)
        return slope, {"loss": value, "settings": settings}

    def follow(start: PyTree) -> tuple[PyTree, jax.Array]:
        update = optimizer(optax.adam(rate))
        recipe = Recipe(lambda key, batch: start, gradient_fn, update)
        state = init(recipe, jax.random.key(0), None)
        _, path = steps(recipe, lambda data, key: None, num_steps)(state, ())
        return path["settings"], path["loss"]

    path, losses = jax.jit(jax.vmap(follow))(starts)
    losses = np.asarray(losses)
    if not np.isfinite(losses).any():
        raise UserError("the validation loss is not finite from any start; start elsewhere")
    best = np.unravel_index(
        np.nanargmin(np.where(np.isfinite(losses), losses, np.inf)), losses.shape
    )
    return Descent(jax.tree.map(lambda x: x[best], path), float(losses[best]), losses)
