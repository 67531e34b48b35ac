"""Adaptation by gradient descent: MAML, and the methods that change which parameters adapt, or how.

The arguments of one function, `gradient`, make the family:

=========  ===============================================================================
MAML       everything adapts, second order (Finn et al., ICML 2017)
FOMAML     ``second_order=False``
ANIL       ``adapts=under("head")``: only the last layer (Raghu et al., ICLR 2020)
BOIL       ``adapts=negate(under("head"))``: all but the last layer (Oh et al., ICLR 2021)
MeLU       the decision layers adapt, the embeddings do not (Lee et al., KDD 2019)
Meta-SGD   ``inner=optim.learned_rates(rate)`` (Li et al., 2017)
=========  ===============================================================================
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient.curvature import inner_gradient, reverse_gradient
from metajax.learners.gradient.hoist import hoist
from metajax.learners.parts import constant_gradient, query_loss
from metajax.types import Adapted, Episode, Examples, MetaLearner, Model, PyTree

UNROLL_UP_TO = 5
"""Inner loops up to this length are unrolled; longer ones are scanned and rematerialized."""


class State(NamedTuple):
    """What a task has of its own when it adapts by gradients.

    Attributes:
      fast: the model parameters that adapt; ``None`` in the place of a parameter that does not.
      moments: the inner optimizer's state, such as momentum; empty for plain gradient descent.
      profile: the task's profile.
    """

    fast: PyTree
    moments: PyTree
    profile: PyTree


FAST = Adapted(lambda state: state.fast, lambda state, fast: state._replace(fast=fast))
"""Where a state with a field ``fast`` holds its adapted parameters."""


def repeated(step: Callable, carry: Any, num_steps: int) -> Any:
    """The carry after ``num_steps`` of ``step(carry, None)``, a step as of `jax.lax.scan`.

    Up to `UNROLL_UP_TO` steps are unrolled; more are scanned and recomputed in the backward pass.
    """
    if num_steps > UNROLL_UP_TO:
        return jax.lax.scan(jax.checkpoint(step), carry, length=num_steps)[0]
    for _ in range(num_steps):  # an unrolled scan would stack what its derivative needs
        carry, _ = step(carry, None)
    return carry


def after_steps(
    descent: Callable[[PyTree], PyTree],
    tx: optax.GradientTransformation,
    before: tuple[PyTree, PyTree],
    some: jax.Array,
    num_steps: int,
) -> tuple[PyTree, PyTree]:
    """What adapts and the optimizer's moments after the inner steps.

    Args:
      descent: what adapts -> the gradient of the support loss.
      before: what adapts and the moments.
      some: whether any example is real; else all stays as it was.
    """

    def step(carry, _):
        fast, moments = carry
        # Norms have no derivative at 0: an optimizer is to see none that is thrown away.
        grads = descent(fast)
        grads = tree.where(some, grads, jax.tree.map(jnp.ones_like, grads))
        updates, moments = tx.update(grads, moments, fast)
        return (optax.apply_updates(fast, updates), moments), None

    return tree.where(some, repeated(step, before, num_steps), before)


def gradient(
    model: Model,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    adapts: tree.Filter = tree.everything,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
    reverse: bool = False,
) -> MetaLearner:
    """A learner that takes ``num_steps`` inner optimizer steps on the support loss.

    ``adapt`` minimizes ``loss`` on the examples it is given, starting from the state; if all
    examples are padding, the state does not change. The outer loss is ``loss`` on the query after
    one ``adapt`` on the support; its gradient runs through the inner steps or, if not
    ``second_order``, treats the inner gradients as constants.

    The derivative of an inner step is defined for reverse mode only (`curvature.inner_gradient`):
    ``jax.grad`` and ``jax.vjp`` through ``adapt`` work; ``jax.jvp``, ``jax.jacfwd`` and
    ``jax.hessian`` raise a TypeError, unless ``second_order`` is off or ``reverse`` on.

    Args:
      model: the model; its parameters and the inner rates form ``{"model": ..., "rates": ...}``.
      inner: an optax transformation, or an `optim.Inner` whose rates are learned.
      num_steps: inner steps of one call of ``adapt``.
      adapts: a filter over the paths of the model's parameters.
      second_order: whether the outer gradient sees the derivative of the inner gradient.
      loss: (scores (N,), label (N,), mask (N,)) -> scalar.
      reverse: differentiate the inner gradient as ``jax.grad`` of ``jax.grad`` does, with the same
        numbers; `metajax.platforms` says where that is faster.
    """
    inner = inner if isinstance(inner, optim.Inner) else optim.fixed(inner)
    slope = (reverse_gradient if reverse else inner_gradient) if second_order else constant_gradient

    def init(key: jax.Array, episode: Episode) -> PyTree:
        theta = model.init(key, episode.profile, episode.support.inputs)
        fast, _ = tree.partition(theta, adapts)
        return {"model": theta, "rates": inner.init(fast)}

    def start(params: PyTree, profile: PyTree) -> State:
        fast, _ = tree.partition(params["model"], adapts)
        return State(fast, inner.make(params["rates"]).init(fast), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        tx = inner.make(params["rates"])
        apply = lambda fast, given: model.apply(tree.merge(fast, given[0]), *given[1:])
        rest, values = hoist(apply, state.fast, (params["model"], state.profile, examples.inputs))
        given = (values, examples.label, examples.mask)
        support_loss = lambda fast, given: loss(rest(fast, given[0]), *given[1:])
        descent = lambda fast: slope(support_loss, fast, given)
        before, some = (state.fast, state.moments), jnp.any(examples.mask > 0)
        fast, moments = after_steps(descent, tx, before, some, num_steps)
        return state._replace(fast=fast, moments=moments)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        return model.apply(tree.merge(state.fast, params["model"]), state.profile, inputs)

    outer_loss = query_loss(start, adapt, predict, loss)
    return MetaLearner(init, start, adapt, predict, outer_loss, num_steps, FAST)
