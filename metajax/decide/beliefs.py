"""What a policy believes of the actions: any learner's predictions, with a posterior if it has one.

The posterior of a linear model is kept as its mean and a square root of its covariance, which one
reward changes by a term of rank one; neither a matrix is inverted nor a root taken. It is what
`closed_form.ridge` solves from its sums.

References: Potter's form of the update, in Bierman, "Factorization methods for discrete sequential
estimation", 1977, chapter 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision as products
from metajax.decide.environment import Decision, Observation
from metajax.types import Examples, MetaLearner, Model, PyTree

Features = Callable[[Observation], jax.Array]
"""An observation -> features (A, D) of its actions."""
Scores = Callable[[Observation], jax.Array]
"""An observation -> a number (A,) for each action."""


class Belief(NamedTuple):
    """Of the A expected rewards: mean (A,), and root (A, D) with covariance ``root root'``.

    D is 0 where there is no posterior. The covariance is in units of the noise of one reward.
    """

    mean: jax.Array
    root: jax.Array


class Beliefs(NamedTuple):
    """Three pure functions on one user, from which policies are made.

    Attributes:
      init: (key, observation) -> state.
      believe: (state, observation) -> Belief.
      update: (state, decision, key) -> state.
    """

    init: Callable[[jax.Array, Observation], PyTree]
    believe: Callable[[PyTree, Observation], Belief]
    update: Callable[[PyTree, Decision, jax.Array], PyTree]


class Weights(NamedTuple):
    """The state of a linear belief: mean (D,), and root (D, D) of the covariance ``root root'``."""

    mean: jax.Array
    root: jax.Array


def fixed(scores: Scores) -> Beliefs:
    """The same belief whatever happens: popularity, or the truth (`oracle`)."""

    def believe(state: PyTree, seen: Observation) -> Belief:
        mean = scores(seen)
        return Belief(mean, jnp.zeros((mean.shape[0], 0)))

    return Beliefs(lambda key, seen: (), believe, lambda state, decision, key: state)


def of_learner(learner: MetaLearner, params: PyTree) -> Beliefs:
    """The predictions of any learner, which adapts to every reward as to a support of one.

    Adapting again and again is what the learner's contract says of ``adapt``; a learner that adapts
    by gradient steps takes them on the last reward alone.

    Args:
      params: its meta-parameters, trained.
    """

    def believe(state: PyTree, seen: Observation) -> Belief:
        mean = learner.predict(params, state, seen.inputs)
        return Belief(mean, jnp.zeros((mean.shape[0], 0)))

    def update(state: PyTree, told: Decision, key: jax.Array) -> PyTree:
        inputs = jax.tree.map(lambda x: x[told.action][None], told.observation.inputs)
        one = Examples(inputs, told.reward[None], jnp.ones(1))
        return learner.adapt(params, state, one, key)

    return Beliefs(lambda key, seen: learner.start(params, seen.profile), believe, update)


@products.highest
def learned(weights: Weights, x_D: jax.Array, error: jax.Array) -> Weights:
    """The weights after one reward: exact, in D^2 operations.

    Args:
      x_D: the features of what was rewarded.
      error: the reward less what was expected of it.
    """
    along = weights.root.T @ x_D
    share = 1.0 / (1.0 + along @ along)
    gain = weights.root @ along
    half = share / (1.0 + jnp.sqrt(share))
    return Weights(
        weights.mean + share * error * gain, weights.root - half * jnp.outer(gain, along)
    )


def gaussian(
    features: Features, mean: jax.Array, root: jax.Array, offset: Scores | None = None
) -> Beliefs:
    """A linear model of the reward, ``offset + x' w + noise``, w ~ N(mean, root root') at first.

    Args:
      mean: (D,); root: (D, D), in units of the noise: `flat` for a prior that knows nothing.
      offset: what is expected of each action before anything is learned; 0 without it.
    """
    base = offset or (lambda seen: jnp.zeros(()))

    @products.highest
    def believe(state: Weights, seen: Observation) -> Belief:
        x_AxD = features(seen)
        return Belief(base(seen) + x_AxD @ state.mean, x_AxD @ state.root)

    @products.highest
    def update(state: Weights, told: Decision, key: jax.Array) -> Weights:
        seen = told.observation
        x_D = features(seen)[told.action]
        start = jnp.broadcast_to(base(seen), seen.mask.shape)[told.action]
        return learned(state, x_D, told.reward - start - x_D @ state.mean)

    return Beliefs(lambda key, seen: Weights(mean, root), believe, update)


def flat(features: Features, size: int, precision: float | jax.Array = 1.0) -> Beliefs:
    """A linear model that starts from w ~ N(0, 1 / precision): that of LinUCB and linear Thompson.

    Args:
      size: D, the number of features.
      precision: the ridge penalty.
    """
    return gaussian(features, jnp.zeros(size), jnp.eye(size) / jnp.sqrt(precision))


def of_ridge(embed: Model, offset: Model, params: PyTree) -> Beliefs:
    """The posterior of `closed_form.ridge`, whose prior is meta-learned, after each reward.

    Args:
      embed, offset: the models that the learner was built from.
      params: its meta-parameters, trained.
    """
    apply = lambda model, name: lambda seen: model.apply(params[name], seen.profile, seen.inputs)
    root = jnp.diag(jnp.exp(-0.5 * params["log_precision"]))
    return gaussian(apply(embed, "embed"), params["mean"], root, apply(offset, "offset"))


def neural_linear(
    network: Model,
    params: PyTree,
    size: int,
    precision: float | jax.Array = 1.0,
    mean: jax.Array | None = None,
) -> Beliefs:
    """A linear belief on the features of a trained network, which itself stays as it is.

    Args:
      network: its ``apply`` gives features (A, ``size``), such as a last hidden layer.
      mean: (``size``,) where the head starts, for instance as trained with the network; 0 without.

    References: Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown", ICLR 2018.
    """
    start = jnp.zeros(size) if mean is None else mean
    root = jnp.eye(size) / jnp.sqrt(precision)
    return gaussian(lambda seen: network.apply(params, seen.profile, seen.inputs), start, root)
