"""Learning to forget: how much of the shared start a task keeps before it adapts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.learners.parts import inside, moved_by_gradients, plain_loss, query_loss
from metajax.types import Episode, Examples, MetaLearner, PyTree


class State(NamedTuple):
    """What a task has of its own.

    Attributes:
      inner: the wrapped learner's state.
      fresh: () 1 until the task has adapted on its first examples, then 0.
    """

    inner: PyTree
    fresh: jax.Array


def kept_shares(attenuator: PyTree, grads: PyTree) -> PyTree:
    """gamma () of every leaf, in (0, 1), by an MLP on the mean gradients of all leaves.

    It has three layers as wide as there are leaves, ReLU between them and a sigmoid at the end.
    """
    x = jnp.stack([jnp.mean(g) for g in jax.tree.leaves(grads)])
    *hidden, last = attenuator
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    gamma = jax.nn.sigmoid(x @ last["kernel"] + last["bias"])
    return jax.tree.unflatten(jax.tree.structure(grads), list(gamma))


def attenuate(learner: MetaLearner, *, kept: float = 0.95) -> MetaLearner:
    """L2F: a learner that first scales its start: ``theta_i <- gamma_i(grad L_S(theta)) theta_i``.

    There is one gamma per leaf, see `kept_shares`. It acts once in a task, on the first examples.
    With gamma = 1 this is the wrapped learner.

    Args:
      learner: one that adapts by gradients from meta-parameters and whose outer loss is the plain
        loss on the query, which is also the loss on the support that gamma sees. The parameters
        become ``{"learner": ..., "attenuator": ...}``.
      kept: where gamma starts, approximately; in the paper near 1/2.

    Raises:
      UserError: the learner is not such a one.

    References: Baik et al., "Learning to forget for meta-learning", CVPR 2020, equations 3 and 4.
    """
    get, put = moved_by_gradients(learner, "attenuate")
    loss = plain_loss(learner, "attenuate")

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_learner, *keys = jax.random.split(key, 4)
        params = learner.init(key_learner, episode)
        width = len(jax.tree.leaves(get(learner.start(params, episode.profile))))
        normal = lambda k: jax.random.normal(k, (width, width)) * (2.0 / width) ** 0.5
        layers = [{"kernel": normal(k), "bias": jnp.full(width, 0.1, float)} for k in keys]
        layers[-1]["bias"] = jnp.full(width, jnp.log(kept / (1.0 - kept)), float)
        return {"learner": params, "attenuator": layers}

    def start(params: PyTree, profile: PyTree) -> State:
        return State(learner.start(params["learner"], profile), jnp.ones(()))

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        own = params["learner"]

        def support_loss(fast: PyTree) -> jax.Array:
            scores = learner.predict(own, put(state.inner, fast), examples.inputs)
            return loss(scores, examples.label, examples.mask)

        fast, real = get(state.inner), jnp.any(examples.mask > 0)
        gamma = kept_shares(params["attenuator"], jax.grad(support_loss)(fast))
        scaled = jax.tree.map(jnp.multiply, fast, gamma)
        first = (state.fresh > 0) & real
        inner = put(state.inner, tree.where(first, scaled, fast))
        return State(learner.adapt(own, inner, examples, key), jnp.where(real, 0.0, state.fresh))

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        return learner.predict(params["learner"], state.inner, inputs)

    return MetaLearner(
        init,
        start,
        adapt,
        predict,
        query_loss(start, adapt, predict, loss),
        learner.num_gradients + 1,
        inside(learner.adapted),
    )
