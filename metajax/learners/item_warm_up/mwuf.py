"""MWUF: two networks scale and shift the embedding of a new item.

``e_warm = scale(content) e + shift(mean user vector)``. The embedding e starts from the mean of the
known items (the parameter ``mean``) and is trained by the cold loss, that of e itself; the networks
are trained by the warm loss, that of e_warm, with e as a constant. The shift reads users of the
support alone; in the published code it also reads those of the query.

References: Zhu et al., "Learning to warm up cold item embeddings for cold-start recommendation with
meta scaling and shifting networks", SIGIR 2021, equations 4 to 8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import losses
from metajax.learners.gradient.context import context_learner
from metajax.learners.gradient.maml import State
from metajax.learners.item_warm_up.meta_embedding import (
    embedding_of,
    init_base,
    on_base,
    on_frozen_base,
)
from metajax.learners.parts import real_sum
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class Shifted(NamedTuple):
    """The state of an item in `scale_and_shift`.

    Attributes:
      item: the state of its embedding.
      total: (U,) sum of the vectors of its users so far.
      weight: () their number.
    """

    item: State
    total: jax.Array
    weight: jax.Array


def scale_and_shift(
    base: Model,
    user: Model,
    scale: Model,
    shift: Model,
    num_embedding: int,
    num_user: int,
    inner: optax.GradientTransformation,
    num_steps: int = 1,
    *,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """MWUF: two networks map a cold embedding into the space of warm ones.

    Args:
      base: the frozen model.
      user: a model whose ``apply`` gives user vectors (N, ``num_user``); frozen like the base.
      scale: a model whose ``apply(params, profile, ())`` is (``num_embedding``,).
      shift: a model whose ``apply(params, profile, mean user vector)`` is (``num_embedding``,).
      inner, num_steps, loss: as in `meta_embedding`.
    """
    item = context_learner(base, num_embedding, inner, num_steps, second_order=False, loss=loss)
    learner = on_frozen_base(item)

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_user, key_scale, key_shift, key_mean = jax.random.split(key, 5)
        profile = episode.profile
        return {
            "base": init_base(base, key_base, episode, num_embedding),
            "user": user.init(key_user, profile, episode.support.inputs),
            "scale": scale.init(key_scale, profile, ()),
            "shift": shift.init(key_shift, profile, jnp.zeros(num_user)),
            "mean": 0.1 * jax.random.normal(key_mean, (num_embedding,)),
        }

    def start(params: PyTree, profile: PyTree) -> Shifted:
        cold = item.start(on_base(params, params["mean"]), profile)
        return Shifted(cold, jnp.zeros(num_user), jnp.zeros(()))

    def adapt(params: PyTree, state: Shifted, examples: Examples, key: jax.Array) -> Shifted:
        frozen = jax.lax.stop_gradient(params["user"])
        user_NxU = user.apply(frozen, state.item.profile, examples.inputs)
        total, number = real_sum(user_NxU, examples.mask)
        moved = learner.adapt(params, state.item, examples, key)
        return Shifted(moved, state.total + total, state.weight + number)

    def predict(params: PyTree, state: Shifted, inputs: PyTree) -> jax.Array:
        return learner.predict(params, _warmed(scale, shift, params, state), inputs)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        query = episode.query
        before = start(params, episode.profile)
        cold = loss(learner.predict(params, before.item, query.inputs), query.label, query.mask)
        after = adapt(params, before, episode.support, key)
        constant = after._replace(item=jax.lax.stop_gradient(after.item))
        warm = loss(predict(params, constant, query.inputs), query.label, query.mask)
        return warm + cold, {"query_loss": warm, "cold_loss": cold}

    return MetaLearner(init, start, adapt, predict, outer_loss, num_steps)


def _warmed(scale: Model, shift: Model, params: PyTree, state: Shifted) -> State:
    """The state of the item with its embedding carried over."""
    profile = state.item.profile
    mean_user = state.total / jnp.maximum(state.weight, 1.0)
    factor = scale.apply(params["scale"], profile, ())
    warm = factor * embedding_of(state.item) + shift.apply(params["shift"], profile, mean_user)
    return state.item._replace(fast={**state.item.fast, "context": warm})
