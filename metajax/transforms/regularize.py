"""Meta-regularization: a penalty on the information that shared parameters hold about tasks."""

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.types import Episode, Examples, MetaLearner, PyTree


def gaussian_divergence(mean: PyTree, log_scale: PyTree) -> jax.Array:
    """KL(N(mean, exp(log_scale)^2) || N(0, I)) in nats, summed over all entries."""
    one = lambda m, s: jnp.sum(0.5 * (jnp.exp(2 * s) + m**2 - 1) - s)
    return sum(jax.tree.leaves(jax.tree.map(one, mean, log_scale)), jnp.zeros(()))


def noisy(
    learner: MetaLearner,
    strength: float,
    noisy_on: tree.Filter,
    *,
    initial_scale: float = 1e-3,
) -> MetaLearner:
    """MR-MAML: the learner with Gaussian noise on some meta-parameters, and a penalty on them.

    Meta-parameters under the filter become Gaussians ``N(mean, scale^2)`` from which each task
    draws its own; ``strength`` times their KL divergence from N(0, I) is added to the outer loss.
    They can then memorize little about single tasks, so that a task has to be learned from its
    support, even where its inputs identify it. ``start``, ``adapt`` and ``predict`` use the means.

    Args:
      learner: its meta-parameters become ``{"mean": ..., "log_scale": ...}``.
      strength: beta, per task; the divergence is a sum over entries.
      noisy_on: a filter over the paths of the learner's meta-parameters; the paper's are those that
        do not adapt. Noise on all of them is its control.
      initial_scale: the scale to start from.

    References: Yin et al., "Meta-learning without memorization", ICLR 2020, equation 5.
    """

    def init(key: jax.Array, episode: Episode) -> PyTree:
        mean = learner.init(key, episode)
        noisy_mean, _ = tree.partition(mean, noisy_on)
        start = lambda x: jnp.full_like(x, jnp.log(initial_scale))
        return {"mean": mean, "log_scale": jax.tree.map(start, noisy_mean)}

    def draw(params: PyTree, key: jax.Array) -> PyTree:
        mean, rest = tree.partition(params["mean"], noisy_on)
        leaves, structure = jax.tree.flatten(mean)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, max(len(leaves), 1))))
        one = lambda m, s, k: m + jnp.exp(s) * jax.random.normal(k, m.shape, m.dtype)
        return tree.merge(jax.tree.map(one, mean, params["log_scale"], keys), rest)

    def start(params: PyTree, profile: PyTree) -> PyTree:
        return learner.start(params["mean"], profile)

    def adapt(params: PyTree, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        return learner.adapt(params["mean"], state, examples, key)

    def predict(params: PyTree, state: PyTree, inputs: PyTree) -> jax.Array:
        return learner.predict(params["mean"], state, inputs)

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        key_draw, key_loss = jax.random.split(key)
        value, info = learner.loss(draw(params, key_draw), episode, key_loss)
        mean, _ = tree.partition(params["mean"], noisy_on)
        divergence = gaussian_divergence(mean, params["log_scale"])
        return value + strength * divergence, {**info, "divergence": divergence}

    return learner._replace(init=init, start=start, adapt=adapt, predict=predict, loss=loss)
