"""Learning to forget: how much of the shared start a task keeps before it adapts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, PyTree


class State(NamedTuple):
    """What a task remembers.

    Attributes:
      inner: the wrapped learner's state, with the adapted parameters in its field ``fast``.
      attenuator: the network's parameters, the same for all tasks.
      fresh: () 1 until the task has met its first examples.
    """

    inner: PyTree
    attenuator: PyTree
    fresh: jax.Array


def kept_shares(attenuator: PyTree, grads: PyTree) -> PyTree:
    """gamma of every leaf, in (0, 1), from the mean gradient of each leaf.

    Three layers as wide as there are leaves, ReLU between them, a sigmoid behind them.
    """
    x = jnp.stack([jnp.mean(g) for g in jax.tree.leaves(grads)])
    *hidden, last = attenuator
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    gamma = jax.nn.sigmoid(x @ last["kernel"] + last["bias"])
    return jax.tree.unflatten(jax.tree.structure(grads), list(gamma))


def attenuate(
    learner: MetaLearner,
    *,
    kept: float = 0.95,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """The learner that first scales its start: ``theta_i <- gamma_i(grad L_S(theta)) theta_i``.

    One gamma per leaf, given by a small network that sees the mean gradient of each leaf. It acts
    once in a task, on the first examples. With gamma = 1 this is the wrapped learner.

    Args:
      learner: one whose state has the adapted parameters in a field ``fast``, as `gradient`'s has;
        its parameters become ``{"learner": ..., "attenuator": ...}``.
      kept: about what gamma starts from; the paper starts near 1/2.
      loss: (scores, label, mask) -> scalar, on the support for gamma and on the query outside.

    References: Baik et al., "Learning to forget for meta-learning", CVPR 2020, equations 3 and 4.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_learner, *keys = jax.random.split(key, 4)
        params = learner.init(key_learner, episode)
        width = len(jax.tree.leaves(learner.start(params, episode.profile).fast))
        normal = lambda k: jax.random.normal(k, (width, width)) * (2.0 / width) ** 0.5
        layers = [{"kernel": normal(k), "bias": jnp.full(width, 0.1, float)} for k in keys]
        layers[-1]["bias"] = jnp.full(width, jnp.log(kept / (1.0 - kept)), float)
        return {"learner": params, "attenuator": layers}

    def start(params: PyTree, profile: PyTree) -> State:
        inner = learner.start(params["learner"], profile)
        return State(inner, params["attenuator"], jnp.ones(()))

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        def support_loss(fast: PyTree) -> jax.Array:
            scores = learner.predict(state.inner._replace(fast=fast), examples.inputs)
            return loss(scores, examples.label, examples.mask)

        fast, real = state.inner.fast, jnp.any(examples.mask > 0)
        gamma = kept_shares(state.attenuator, jax.grad(support_loss)(fast))
        scaled = jax.tree.map(jnp.multiply, fast, gamma)
        first = (state.fresh > 0) & real
        inner = state.inner._replace(fast=tree.where(first, scaled, fast))
        fresh = jnp.where(real, 0.0, state.fresh)
        return State(learner.adapt(inner, examples, key), state.attenuator, fresh)

    def predict(state: State, inputs: PyTree) -> jax.Array:
        return learner.predict(state.inner, inputs)

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
