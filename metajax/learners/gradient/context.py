"""CAVIA: a small context vector adapts, an input of a network whose weights do not."""

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient.maml import gradient
from metajax.learners.parts import query_loss
from metajax.types import MetaLearner, Model, PyTree


def contextual(model: Model, num_context: int) -> Model:
    """A model with a plain profile from one that takes ``(profile, context (num_context,))``.

    The context becomes a parameter: ``{"net": those of model, "context": zeros}``.
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
    """The `gradient` learner of `contextual` in which only the context adapts.

    Unlike `cavia`, each task starts from the context among the parameters, not from zero. Arguments
    are those of `cavia`.
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
    """CAVIA: only a context vector adapts, which starts from zero in each task.

    The state of a task is ``num_context`` numbers, however large the network. The start of the
    context is not learned: the biases of the next layer can take its place.

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
