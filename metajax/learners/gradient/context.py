"""Adaptation of a small context vector: the network stays, its task input moves."""

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient.maml import gradient
from metajax.learners.parts import query_loss
from metajax.types import MetaLearner, Model, PyTree


def contextual(model: Model, num_context: int) -> Model:
    """The model whose ``profile`` is the pair of the task's profile and a context (num_context,).

    Its parameters are ``{"net": those of model, "context": zeros}``.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        context = jnp.zeros(num_context)
        return {"net": model.init(key, (profile, context), inputs), "context": context}

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        return model.apply(params["net"], (profile, params["context"]), inputs)

    return Model(init, apply)


def context_learner(
    model: Model,
    num_context: int,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """The `gradient` learner of `contextual` in which the context alone adapts, as `cavia` has it.

    Each task starts from the context among the parameters.
    """
    return gradient(
        contextual(model, num_context),
        inner,
        num_steps,
        adapts=tree.under("context"),
        second_order=second_order,
        loss=loss,
    )


def cavia(
    model: Model,
    num_context: int,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    second_order: bool = True,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A learner whose tasks differ by a context vector alone, which starts from zero in each task.

    The state of a task is ``num_context`` numbers, however large the network. The start of the
    context is not learned: a learned one could be absorbed by the biases it feeds.

    Args:
      model: a model that is called with the profile ``(profile, context)``, for instance
        `models.features.conditioned_mlp`.
      num_context: the length of the context.
      inner: the inner optimizer of the context; rates near 1 are usual, as the gradient is small.
      num_steps: inner steps of one call of ``adapt``.
      second_order: whether the outer gradient sees the derivative of the inner gradient.
      loss: (scores, label, mask) -> scalar, inside and outside.

    References: Zintgraf et al., "Fast context adaptation via meta-learning", ICML 2019.
    """
    base = context_learner(
        model, num_context, inner, num_steps, second_order=second_order, loss=loss
    )

    def from_zero(params: PyTree) -> PyTree:
        model_params = params["model"]
        context = jnp.zeros_like(model_params["context"])
        return {**params, "model": {**model_params, "context": context}}

    def start(params: PyTree, profile: PyTree):
        return base.start(from_zero(params), profile)

    outer_loss = query_loss(start, base.adapt, base.predict, loss)
    return base._replace(start=start, loss=outer_loss, adapted=None)
