"""CVAR: new items start from an embedding decoded from their content, by a conditional VAE.

A known item's embedding e is encoded to q(z | e), its content to p(z | content); a sample of each
is decoded. The outer loss is the loss of the embedding decoded from p, plus the squared error of
the one decoded from q, plus the Wasserstein distance of q and p. A new item starts from the
embedding decoded from the mean of p, and warms up by gradient steps.

Deviates from the published code: the embedding of a training item comes from some calls of
``adapt`` on all its examples, starting at 0, not from a stored table.

References: Zhao et al., "Improving item cold-start recommendation via model-agnostic conditional
variational autoencoder", SIGIR 2022, equations 5 to 13.
"""

from collections.abc import Callable

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
from metajax.learners.pooled import all_examples
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def wasserstein(first: jax.Array, second: jax.Array) -> jax.Array:
    """The squared 2-Wasserstein distance () of diagonal Gaussians (2 Z,): means, log-variances."""
    (mean_a, log_a), (mean_b, log_b) = jnp.split(first, 2), jnp.split(second, 2)
    return jnp.sum((mean_a - mean_b) ** 2 + (jnp.exp(log_a / 2) - jnp.exp(log_b / 2)) ** 2)


def mean_of(gaussian: jax.Array) -> jax.Array:
    """The mean (Z,) of a diagonal Gaussian (2 Z,)."""
    return jnp.split(gaussian, 2)[0]


def drawn(gaussian: jax.Array, noise: float, key: jax.Array) -> jax.Array:
    """A sample (Z,) of a diagonal Gaussian (2 Z,), with its deviation multiplied by ``noise``."""
    mean, log_variance = jnp.split(gaussian, 2)
    return mean + noise * jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)


def _settled(
    learner: MetaLearner,
    params: PyTree,
    state: State,
    examples: Examples,
    key: jax.Array,
    num_calls: int,
) -> jax.Array:
    """The embedding (D,) after so many calls of ``adapt`` on the same examples."""
    step = lambda s, k: (learner.adapt(params, s, examples, k), None)
    state, _ = jax.lax.scan(step, state, jax.random.split(key, num_calls))
    return jax.lax.stop_gradient(embedding_of(state))


def _initializer(
    base: Model, encode: Model, prior: Model, decode: Model, num_embedding: int
) -> Callable[[jax.Array, Episode], PyTree]:
    """The parameters of `cvar`: those of the base and of each of the three networks."""

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_base, key_encode, key_prior, key_decode = jax.random.split(key, 4)
        own = prior.init(key_prior, episode.profile, ())
        z = mean_of(prior.apply(own, episode.profile, ()))
        return {
            "base": init_base(base, key_base, episode, num_embedding),
            "encode": encode.init(key_encode, episode.profile, jnp.zeros(num_embedding)),
            "prior": own,
            "decode": decode.init(key_decode, episode.profile, z),
        }

    return init


def cvar(
    base: Model,
    encode: Model,
    prior: Model,
    decode: Model,
    num_embedding: int,
    inner: optax.GradientTransformation,
    num_steps: int = 1,
    *,
    num_teacher_steps: int = 10,
    noise: float = 1.0,
    wasserstein_weight: float = 1e-4,
    reconstruction_weight: float = 1.0,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """CVAR: a variational autoencoder of known embeddings, with a prior that depends on content.

    Args:
      base: the frozen model.
      encode: a model whose ``apply(params, profile, embedding)`` is (2 Z,), means and
        log-variances of q; prior: the same of p, from ``apply(params, profile, ())``.
      decode: a model whose ``apply(params, profile, z)`` is (``num_embedding``,).
      num_teacher_steps: calls of ``adapt`` that make the embedding of a training item.
      noise: factor on the deviation of the samples; published 1e-4.
      inner, num_steps, loss: as in `meta_embedding`.
    """
    item = context_learner(base, num_embedding, inner, num_steps, loss=loss)
    learner = on_frozen_base(item)
    begin = lambda params, embedding, profile: item.start(on_base(params, embedding), profile)
    decoded = lambda params, profile, z: decode.apply(params["decode"], profile, z)

    init = _initializer(base, encode, prior, decode, num_embedding)

    def start(params: PyTree, profile: PyTree) -> State:
        mean = mean_of(prior.apply(params["prior"], profile, ()))
        return begin(params, decoded(params, profile, mean), profile)

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        key_teacher, key_encoded, key_prior = jax.random.split(key, 3)
        profile, examples = episode.profile, all_examples(episode)
        unknown = begin(params, jnp.zeros(num_embedding), profile)
        known = _settled(learner, params, unknown, examples, key_teacher, num_teacher_steps)
        posterior = encode.apply(params["encode"], profile, known)
        expected = prior.apply(params["prior"], profile, ())
        made = decoded(params, profile, drawn(expected, noise, key_prior))
        state = begin(params, made, profile)
        fit = loss(learner.predict(params, state, examples.inputs), examples.label, examples.mask)
        again = decoded(params, profile, drawn(posterior, noise, key_encoded))
        error, gap = jnp.mean((again - known) ** 2), wasserstein(posterior, expected)
        value = fit + reconstruction_weight * error + wasserstein_weight * gap
        return value, {"query_loss": fit, "reconstruction": error, "wasserstein": gap}

    return learner._replace(init=init, start=start, loss=outer_loss)
