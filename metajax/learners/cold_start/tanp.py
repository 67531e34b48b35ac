"""TaNP: a neural process with clustered task embeddings.

With t the mean task code of the support and A the cluster centers, the decoder is conditioned on
``t' = t + C A``, C = `assignment`, and on a latent z. In training, z is drawn from q(z | support
and query); the outer loss is the loss on support and query plus KL(q(z | both) || q(z | support))
plus `cluster_loss`. ``predict`` uses the mean of q(z | support), without randomness. Identifiers of
users are no inputs.

Deviates from the published code: the target of the cluster loss is sharpened within each task,
since a learner does not see the frequencies of the clusters over a batch.

References: Lin et al., "Task-adaptive neural process for user cold-start recommendation", WWW 2021.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.parts import linear, linear_layer, real_sum
from metajax.learners.pooled import all_examples
from metajax.types import Episode, Examples, MetaLearner, Model, Params, PyTree


class State(NamedTuple):
    """What a task has of its own: sums of its encoded examples and their number.

    Attributes:
      latent: (H,) sum of the codes for the latent variable.
      task: (T,) sum of the codes for the task embedding.
      weight: () number of examples.
      profile: the task's profile.
    """

    latent: jax.Array
    task: jax.Array
    weight: jax.Array
    profile: PyTree


class Gaussian(NamedTuple):
    """A diagonal Gaussian: ``mean`` (Z,) and standard ``deviation`` (Z,)."""

    mean: jax.Array
    deviation: jax.Array


def divergence(q: Gaussian, p: Gaussian) -> jax.Array:
    """KL(q || p) () in nats, summed over the Z variables."""
    ratio = q.deviation / p.deviation
    shift = (q.mean - p.mean) / p.deviation
    return jnp.sum(0.5 * (ratio**2 + shift**2 - 1.0) - jnp.log(ratio))


def assignment(task: jax.Array, memory_KxT: jax.Array) -> jax.Array:
    """The share (K,) of each cluster in a task embedding (T,), by Student's t with 1 degree."""
    near = 1.0 / (1.0 + jnp.sum((task[None, :] - memory_KxT) ** 2, axis=1))
    return near / jnp.sum(near)


def cluster_loss(share: jax.Array) -> jax.Array:
    """KL(sharpened || share) () in nats of cluster shares (K,); sharpened is the normalized square.

    The sharpened shares are a target and get no gradient.
    """
    target = jax.lax.stop_gradient(share**2 / jnp.sum(share**2))
    return jnp.sum(target * (jnp.log(target) - jnp.log(share)))


class Networks(NamedTuple):
    """The models that `tanp` takes, under the names of its arguments."""

    embed: Model
    encode_latent: Model
    encode_task: Model
    decode: Model
    offset: Model


def tanp(
    embed: Model,
    encode_latent: Model,
    encode_task: Model,
    decode: Model,
    offset: Model,
    *,
    num_latent: int = 32,
    num_codes: tuple[int, int] = (32, 16),
    num_clusters: int = 10,
    divergence_weight: float = 1.0,
    cluster_weight: float = 1.0,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """TaNP: a latent variable and a clustered task embedding, both encoded from the support.

    Args:
      embed: a model whose ``apply`` gives features (N, E).
      encode_latent, encode_task: models of the inputs ``(features, label)`` whose codes are
        (N, H) and (N, T).
      decode: a model of features, called with the profile ``(profile, (z, t'))``, for instance
        `models.modulated.adaptive_decoder`.
      offset: a model of scores (N,) that all tasks share.
      num_latent: Z.
      num_codes: (H, T).
      num_clusters: rows of A.
      divergence_weight, cluster_weight: of the two divergences in the outer loss.
      loss: (scores, label, mask) -> scalar.
    """
    nets = Networks(embed, encode_latent, encode_task, decode, offset)
    num_code, num_task = num_codes

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros(num_code), jnp.zeros(num_task), jnp.zeros(()), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        return _encoded(nets, params, state, examples)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        return _decoded(nets, params, state, latent_of(params, state).mean, inputs)[0]

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        context = adapt(params, start(params, episode.profile), episode.support, key)
        posterior = latent_of(params, adapt(params, context, episode.query, key))
        noise = jax.random.normal(key, (num_latent,))
        target = all_examples(episode)
        drawn = posterior.mean + posterior.deviation * noise
        scores, share = _decoded(nets, params, context, drawn, target.inputs)
        fit = loss(scores, target.label, target.mask)
        gap, clusters = divergence(posterior, latent_of(params, context)), cluster_loss(share)
        value = fit + divergence_weight * gap + cluster_weight * clusters
        return value, {"query_loss": fit, "divergence": gap, "clusters": clusters}

    init = _initializer(nets, num_latent, num_codes, num_clusters)
    return MetaLearner(init, start, adapt, predict, outer_loss)


def _initializer(
    nets: Networks, num_latent: int, num_codes: tuple[int, int], num_clusters: int
) -> Callable[[jax.Array, Episode], Params]:
    """`MetaLearner.init` of TaNP."""
    num_code, num_task = num_codes

    def init(key: jax.Array, episode: Episode) -> Params:
        keys = jax.random.split(key, 8)
        profile, (inputs, label, _) = episode.profile, episode.support
        embedding = nets.embed.init(keys[0], profile, inputs)
        x_NxE = nets.embed.apply(embedding, profile, inputs)
        code = (jnp.zeros(num_latent), jnp.zeros(num_task))
        return {
            "embed": embedding,
            "encode_latent": nets.encode_latent.init(keys[1], profile, (x_NxE, label)),
            "encode_task": nets.encode_task.init(keys[2], profile, (x_NxE, label)),
            "decode": nets.decode.init(keys[3], (profile, code), x_NxE),
            "offset": nets.offset.init(keys[4], profile, inputs),
            "mean": linear_layer(keys[5], num_code, num_latent),
            "deviation": linear_layer(keys[6], num_code, num_latent),
            "memory": jax.random.normal(keys[7], (num_clusters, num_task)),
        }

    return init


def _encoded(nets: Networks, params: Params, state: State, examples: Examples) -> State:
    """The state with the codes of the examples added."""
    profile = state.profile
    pairs = (nets.embed.apply(params["embed"], profile, examples.inputs), examples.label)
    latent_NxH = nets.encode_latent.apply(params["encode_latent"], profile, pairs)
    task_NxT = nets.encode_task.apply(params["encode_task"], profile, pairs)
    latent, number = real_sum(latent_NxH, examples.mask)
    task, _ = real_sum(task_NxT, examples.mask)
    return state._replace(
        latent=state.latent + latent, task=state.task + task, weight=state.weight + number
    )


def latent_of(params: Params, state: State) -> Gaussian:
    """The Gaussian q(z | examples so far)."""
    code = state.latent / jnp.maximum(state.weight, 1.0)
    share = jax.nn.sigmoid(linear(params["deviation"], code))
    return Gaussian(linear(params["mean"], code), 0.1 + 0.9 * share)


def _decoded(
    nets: Networks, params: Params, state: State, latent: jax.Array, inputs: PyTree
) -> tuple[jax.Array, jax.Array]:
    """Scores (N,) under a latent (Z,), and the cluster shares (K,)."""
    profile = state.profile
    task = state.task / jnp.maximum(state.weight, 1.0)
    share = assignment(task, params["memory"])
    code = (latent, task + share @ params["memory"])
    x_NxE = nets.embed.apply(params["embed"], profile, inputs)
    base = nets.offset.apply(params["offset"], profile, inputs)
    return base + nets.decode.apply(params["decode"], (profile, code), x_NxE), share
