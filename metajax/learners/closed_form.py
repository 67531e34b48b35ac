"""Adaptation in closed form: ridge regression on the support, and its special cases.

With one constant feature it is the damped user bias, with pretrained item factors it is ALS
fold-in, with a learned prior it is the Bayes predictor of a linear Gaussian model. The solution is
differentiable, so that features, prior mean and precision can be learned through it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy as jsp

from metajax import losses
from metajax import precision as products
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """The sums that a task's weights are solved from.

    Attributes:
      gram: (D, D) sum of x x' over the examples so far.
      moment: (D,) sum of x (label - offset).
      profile: the task's profile.
    """

    gram: jax.Array
    moment: jax.Array
    profile: PyTree


@products.highest
def sums(x_NxD: jax.Array, y_N: jax.Array, weight_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two sides of the normal equations, X' W X (D, D) and X' W y (D,), W the rows' weights."""
    weighted_DxN = (weight_N[:, None] * x_NxD).T
    return weighted_DxN @ x_NxD, weighted_DxN @ y_N


def sums_of(
    embed: Model, offset: Model, params: PyTree, profile: PyTree, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """The `sums` of a task's examples: features by ``embed``, labels minus what ``offset`` says.

    Args:
      params: those of the two models, under ``embed`` and ``offset``.
    """
    x_NxD = embed.apply(params["embed"], profile, examples.inputs)
    base = offset.apply(params["offset"], profile, examples.inputs)
    real_NxD = jnp.where(examples.mask[:, None] > 0, x_NxD, 0.0)
    residual = jnp.where(examples.mask > 0, examples.label - base, 0.0)
    return sums(real_NxD, residual, examples.mask)


@products.highest
def solved(normal_DxD: jax.Array, moment_D: jax.Array, x_NxD: jax.Array) -> jax.Array:
    """The predictions (N,) X w, where ``normal w = moment`` and normal is positive definite."""
    return x_NxD @ jsp.linalg.solve(normal_DxD, moment_D, assume_a="pos")


def ridge(
    embed: Model,
    offset: Model,
    num_features: int,
    *,
    precision: float | Sequence[float] = 1.0,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """A learner whose task weights w solve a ridge regression, ``score = offset(x) + embed(x)' w``.

    The prior is w ~ N(mean, 1 / precision) in units of the noise variance; the mean, which starts
    at 0, and the log-precision of each feature are meta-parameters. Adapting twice is the same as
    adapting once on both sets together.

    Args:
      embed: a model whose ``apply`` gives features (N, ``num_features``).
      offset: a model whose ``apply`` gives the scores (N,) of a task with zero weights.
      num_features: D.
      precision: initial prior precision, of every feature or one for each; the classical ridge
        penalty.
      loss: the outer loss on the query set.

    References: Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form
    solvers", ICLR 2019.
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
        del params
        return State(jnp.zeros((num_features, num_features)), jnp.zeros(num_features), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        gram, moment = sums_of(embed, offset, params, state.profile, examples)
        return state._replace(gram=state.gram + gram, moment=state.moment + moment)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        prior = jnp.exp(params["log_precision"])
        precision, moment = jnp.diag(prior) + state.gram, prior * params["mean"] + state.moment
        x_NxD = embed.apply(params["embed"], state.profile, inputs)
        return offset.apply(params["offset"], state.profile, inputs) + solved(
            precision, moment, x_NxD
        )

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
