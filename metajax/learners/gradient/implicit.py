"""Implicit MAML: adaptation to a minimum, differentiated by the implicit function theorem."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import optax

from metajax import losses, precision, tree
from metajax.learners.gradient.maml import FAST, State
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def minimizer(
    slope: Callable[[PyTree, PyTree, PyTree, tuple], PyTree],
    inner: optax.GradientTransformation,
    num_steps: int,
    num_solver_steps: int,
) -> Callable[[PyTree, PyTree, tuple], PyTree]:
    """A function (anchor, shared, task) -> fast: the end of a descent that starts at the anchor.

    Its derivatives in all three are those of a point where the gradient is zero, by the implicit
    function theorem.

    Args:
      slope: (fast, anchor, shared, task) -> the gradient in ``fast`` of what is minimized.
      inner: the optimizer that descends, in ``num_steps`` steps.
      num_solver_steps: conjugate-gradient steps in the derivative.
    """

    @jax.custom_vjp
    def minimum(anchor: PyTree, shared: PyTree, task: tuple) -> PyTree:
        def step(carry, _):
            fast, moments = carry
            updates, moments = inner.update(slope(fast, anchor, shared, task), moments, fast)
            return (optax.apply_updates(fast, updates), moments), None

        (fast, _), _ = jax.lax.scan(step, (anchor, inner.init(anchor)), length=num_steps)
        return fast

    def forward(anchor: PyTree, shared: PyTree, task: tuple):
        fast = minimum(anchor, shared, task)
        return fast, (fast, anchor, shared, task)

    @precision.highest
    def backward(residual: tuple, cotangent: PyTree):
        fast, anchor, shared, task = residual
        along = lambda x: slope(x, anchor, shared, task)
        curvature = lambda v: jax.jvp(along, (fast,), (v,))[1]
        solution, _ = jsp.sparse.linalg.cg(curvature, cotangent, maxiter=num_solver_steps)
        rest = lambda *given: slope(fast, *given)
        _, transpose = jax.vjp(rest, anchor, shared, task)
        return transpose(jax.tree.map(jnp.negative, solution))

    minimum.defvjp(forward, backward)
    return minimum


def _slope(
    model: Model, loss: losses.Loss, strength: float
) -> Callable[[PyTree, PyTree, PyTree, tuple], PyTree]:
    """The gradient of the support loss with its penalty, as `minimizer` takes it."""

    def slope(fast: PyTree, anchor: PyTree, shared: PyTree, task: tuple) -> PyTree:
        profile, examples = task

        def support_loss(fast: PyTree) -> jax.Array:
            scores = model.apply(tree.merge(fast, shared), profile, examples.inputs)
            return loss(scores, examples.label, examples.mask)

        pull = lambda g, x, a: g + strength * (x - a)
        return jax.tree.map(pull, jax.grad(support_loss)(fast), fast, anchor)

    return slope


def implicit(
    model: Model,
    inner: optax.GradientTransformation,
    num_steps: int,
    *,
    strength: float = 1.0,
    num_solver_steps: int = 5,
    adapts: tree.Filter = tree.everything,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """iMAML: a learner that minimizes the support loss with an L2 penalty around its start.

    ``adapt`` takes ``num_steps`` of ``inner`` on ``L(phi) + strength / 2 ||phi - anchor||^2``,
    where the anchor is the state it was called with. The outer gradient assumes that the minimum
    was reached: with F(phi) the gradient of that sum, ``d phi = -(dF/dphi)^-1 dF``, and the linear
    system, whose matrix is the Hessian of L plus ``strength``, is solved by conjugate gradients.
    Memory does not grow with the number of inner steps, and ``inner`` may be any optimizer. The sum
    has a minimum only if that matrix is positive definite: raise ``strength`` otherwise.

    Args:
      model: the model; its parameters are ``{"model": ...}``.
      inner: the inner optimizer; its moments start anew in each call.
      num_steps: inner steps of one call of ``adapt``.
      strength: lambda, of the penalty.
      num_solver_steps: conjugate-gradient steps of the outer gradient.
      adapts: a filter over the paths of the model's parameters.
      loss: (scores, label, mask) -> scalar.

    References: Rajeswaran et al., "Meta-learning with implicit gradients", NeurIPS 2019.
    """
    minimum = minimizer(_slope(model, loss, strength), inner, num_steps, num_solver_steps)

    def init(key: jax.Array, episode: Episode) -> PyTree:
        return {"model": model.init(key, episode.profile, episode.support.inputs)}

    def start(params: PyTree, profile: PyTree) -> State:
        fast, _ = tree.partition(params["model"], adapts)
        return State(fast, (), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        _, shared = tree.partition(params["model"], adapts)
        after = minimum(state.fast, shared, (state.profile, examples))
        return state._replace(fast=tree.where(jnp.any(examples.mask > 0), after, state.fast))

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        return model.apply(tree.merge(state.fast, params["model"]), state.profile, inputs)

    outer_loss = query_loss(start, adapt, predict, loss)
    return MetaLearner(init, start, adapt, predict, outer_loss, num_steps, FAST)
