"""Defences against a support that lies: doubtful interactions are weighed down, in any learner."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

Trust = Callable[[jax.Array], jax.Array]
"""Residuals (N,) -> how much each interaction counts, 0 to 1."""


def huber(threshold: float | jax.Array) -> Trust:
    """Weights of the Huber loss: 1 up to the threshold, then threshold / size.

    >>> huber(1.0)(jnp.array([0.5, -4.0])).tolist()
    [1.0, 0.25]
    """
    return lambda r: jnp.minimum(1.0, threshold / jnp.maximum(jnp.abs(r), 1e-12))


def bisquare(threshold: float | jax.Array) -> Trust:
    """Tukey's weights: they fall to 0 at the threshold, beyond which nothing is believed."""
    return lambda r: jnp.maximum(0.0, 1.0 - (r / threshold) ** 2) ** 2


def cauchy(threshold: float | jax.Array) -> Trust:
    """Weights of the Cauchy likelihood: a half at the threshold, a tenth at three times it."""
    return lambda r: 1.0 / (1.0 + (r / threshold) ** 2)


def doubtful(
    learner: MetaLearner, trust: Trust, rounds: int = 2, *, first: Trust | None = None
) -> MetaLearner:
    """The learner that adapts again with each interaction weighed by how well it fits.

    Iteratively reweighted least squares for any learner whose ``adapt`` weighs rows by their mask,
    as those that take a mean loss or a ridge regression do: ``rounds`` times it adapts, looks at
    the residuals of the support and adapts anew from where it began. Outer training runs through
    the last ``adapt``; the weights are constants.

    Args:
      trust: residuals in units of the label -> weights.
      rounds: how often weights are set.
      first: weights by the residuals of before adapting, to begin with; None trusts all.

    References: Holland and Welsch, "Robust regression using iteratively reweighted least-squares",
    1977; Huber, "Robust estimation of a location parameter", 1964.
    """

    def weighed(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> Examples:
        """The examples, each weighed by how well it fits."""

        def residual(after: PyTree) -> jax.Array:
            error = examples.label - learner.predict(params, after, examples.inputs)
            return jax.lax.stop_gradient(jnp.where(examples.mask > 0, error, 0.0))

        by = lambda weight: examples._replace(mask=examples.mask * weight)
        weight = jnp.ones_like(examples.mask) if first is None else first(residual(state))
        for _ in range(rounds):
            weight = trust(residual(learner.adapt(params, state, by(weight), key)))
        return by(weight)

    def adapt(params: Params, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        return learner.adapt(params, state, weighed(params, state, examples, key), key)

    def loss(params: Params, episode: Episode, key: jax.Array):
        state = learner.start(params, episode.profile)
        support = weighed(params, state, episode.support, key)
        return learner.loss(params, episode._replace(support=support), key)

    return learner._replace(adapt=adapt, loss=loss)
