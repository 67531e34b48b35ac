"""Adaptation solved exactly: ridge regression on the support set, and what it contains.

With a constant feature it is the damped user bias, with pretrained item factors it is ALS fold-in,
with a learned prior it is the Bayes predictor of a linear Gaussian world. Its solution is
differentiable, so features, prior mean and precision can be learned through it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy as jsp

from metajax import losses
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """The posterior over a task's weights, as natural parameters.

    Attributes:
      shared: parameters of embedding and offset, the same for all tasks.
      precision: (D, D) prior precision plus the sum of x x'.
      moment: (D,) precision times mean.
      profile: the task's profile.
    """

    shared: PyTree
    precision: jax.Array
    moment: jax.Array
    profile: PyTree


def ridge(
    embed: Model,
    offset: Model,
    num_features: int,
    *,
    precision: float | Sequence[float] = 1.0,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A learner whose task weights w solve a ridge regression, ``score = offset(x) + embed(x)' w``.

    The prior is w ~ N(mean, 1 / precision) in units of the noise variance; mean (from 0) and
    log-precision are meta-parameters per feature. Adapting twice is the same as adapting once on
    both sets together.

    Args:
      embed: a model whose ``apply`` gives features (N, ``num_features``).
      offset: a model whose ``apply`` gives the scores (N,) of a task with zero weights.
      num_features: D.
      precision: initial prior precision, of every feature or one for each; the classical ridge
        penalty.
      loss: the outer loss on the query set.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_offset = jax.random.split(key)
        profile, inputs = episode.profile, episode.support.inputs
        return {
            "embed": embed.init(key_embed, profile, inputs),
            "offset": offset.init(key_offset, profile, inputs),
            "mean": jnp.zeros(num_features),
            "log_precision": jnp.full(num_features, jnp.log(jnp.asarray(precision)), float),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        prior = jnp.exp(params["log_precision"])
        shared = {"embed": params["embed"], "offset": params["offset"]}
        return State(shared, jnp.diag(prior), prior * params["mean"], profile)

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x_NxD = embed.apply(state.shared["embed"], state.profile, examples.inputs)
        base = offset.apply(state.shared["offset"], state.profile, examples.inputs)
        weighted_NxD = jnp.where(examples.mask[:, None] > 0, x_NxD, 0.0)
        residual = jnp.where(examples.mask > 0, examples.label - base, 0.0)
        return state._replace(
            precision=state.precision + weighted_NxD.T @ weighted_NxD,
            moment=state.moment + weighted_NxD.T @ residual,
        )

    def predict(state: State, inputs: PyTree) -> jax.Array:
        weights = jsp.linalg.solve(state.precision, state.moment, assume_a="pos")
        x_NxD = embed.apply(state.shared["embed"], state.profile, inputs)
        return offset.apply(state.shared["offset"], state.profile, inputs) + x_NxD @ weights

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
