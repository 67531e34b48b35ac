"""The weights of several tasks' losses as meta-parameters: learned through an inner step.

References: Ren, Zeng, Yang, Urtasun, "Learning to reweight examples for robust deep learning", ICML
2018, which weighs rows so; Liu, Davison, Johns, "Self-supervised generalisation with meta auxiliary
learning", NeurIPS 2019.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax import tree
from metajax.learners.gradient.maml import gradient
from metajax.types import Episode, MetaLearner, Model, Params, PyTree

TaskLosses = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(scores (N, T), label (N, T), mask (N, T)) -> the loss of each task (T,)."""


def task_weighed(model: Model, losses_of: TaskLosses, rate: float = 0.1) -> MetaLearner:
    """A learner of T tasks on the same rows that learns how much each task's loss counts.

    ``adapt`` takes one inner step on the weighed losses of the support. The outer loss has two
    parts, and each kind of parameter descends one of them: the model the weighed losses of the
    support, the weights the plain losses of the query after the inner step. The support are rows to
    train on, the query held-out rows, so that a task that does not help on these loses its weight.

    Params are ``{"model": {"net": ..., "log_weight": (T,)}, "rates": ...}``; the weights are
    ``T softmax(log_weight)``, of mean 1. Labels and masks of examples are (N, T).

    Args:
      model: scores (N, T); losses_of: see `TaskLosses`.
      rate: of the inner step.
    """

    def init_net(key: jax.Array, profile: PyTree, inputs: PyTree) -> Params:
        net = model.init(key, profile, inputs)
        scores = jax.eval_shape(model.apply, net, profile, inputs)
        return {"net": net, "log_weight": jnp.zeros(scores.shape[-1])}

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        scores = model.apply(params["net"], profile, inputs)
        return jnp.concatenate([scores, params["log_weight"][None] + 0 * scores[:1]])

    def weighed_loss(told: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.mean(weights(told[-1]) * losses_of(told[:-1], label, mask))

    inner = gradient(
        Model(init_net, apply), optax.sgd(rate), 1, adapts=tree.under("net"), loss=weighed_loss
    )

    def predict(params: Params, state: PyTree, inputs: PyTree) -> jax.Array:
        return inner.predict(params, state, inputs)[:-1]

    def loss(params: Params, episode: Episode, key: jax.Array):
        support, query, own = episode.support, episode.query, params["model"]
        fixed = jax.lax.stop_gradient
        scores = model.apply(own["net"], episode.profile, support.inputs)
        of_tasks = losses_of(scores, support.label, support.mask)
        train = jnp.mean(weights(fixed(own["log_weight"])) * of_tasks)
        ahead = params | {"model": own | {"net": fixed(own["net"])}}
        state = inner.adapt(ahead, inner.start(ahead, episode.profile), support, key)
        held = losses_of(predict(ahead, state, query.inputs), query.label, query.mask).mean()
        return train + held - fixed(held), {"query_loss": held}

    return inner._replace(predict=predict, loss=loss)


def weights(log_weight: jax.Array) -> jax.Array:
    """The weights (T,) of mean 1."""
    return log_weight.shape[0] * jax.nn.softmax(log_weight)
