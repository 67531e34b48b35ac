"""Adaptation by a neural process with clustered task embeddings: TaNP."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.learners.pooled import all_examples
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


class State(NamedTuple):
    """What a task remembers: sums of its encoded examples and their number.

    Attributes:
      shared: the meta-parameters, the same for all tasks.
      latent: (H,) sum of the codes that the latent variable is made of.
      task: (T,) sum of the codes that the task embedding is made of.
      weight: () number of examples.
      profile: the task's profile.
    """

    shared: PyTree
    latent: jax.Array
    task: jax.Array
    weight: jax.Array
    profile: PyTree


class Gaussian(NamedTuple):
    """Independent normal variables: means and standard deviations (Z,)."""

    mean: jax.Array
    deviation: jax.Array


def divergence(q: Gaussian, p: Gaussian) -> jax.Array:
    """KL(q || p) in nats, summed over the variables."""
    ratio = q.deviation / p.deviation
    shift = (q.mean - p.mean) / p.deviation
    return jnp.sum(0.5 * (ratio**2 + shift**2 - 1.0) - jnp.log(ratio))


def assignment(task: jax.Array, memory_KxT: jax.Array) -> jax.Array:
    """The share (K,) of each cluster in a task embedding (T,), by Student's t with 1 degree."""
    near = 1.0 / (1.0 + jnp.sum((task[None, :] - memory_KxT) ** 2, axis=1))
    return near / jnp.sum(near)


def cluster_loss(share: jax.Array) -> jax.Array:
    """KL(sharpened || share) in nats, where sharpened is proportional to ``share ** 2``.

    The sharpened shares are a target and get no gradient.
    """
    target = jax.lax.stop_gradient(share**2 / jnp.sum(share**2))
    return jnp.sum(target * (jnp.log(target) - jnp.log(share)))


def _linear(key: jax.Array, a: int, b: int) -> PyTree:
    return {"kernel": jax.random.normal(key, (a, b)) / a**0.5, "bias": jnp.zeros(b)}


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
    """TaNP: a latent variable and a clustered task embedding, both read off the support.

    ``t' = t + C A`` with t the mean task code, A the cluster centers and C = `assignment`. While
    training, z is drawn from q(z | support and query) and t is read off the support; the outer loss
    is the loss on support and query plus KL(q(z | both) || q(z | support)) plus `cluster_loss`.
    ``predict`` uses the mean of q(z | support), without randomness. No identifiers of users enter.

    Deviates from the published code: the target of the cluster loss is sharpened within the task,
    for the frequencies of the clusters over a batch are not a matter of one task.

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

    References: Lin et al., "Task-adaptive neural process for user cold-start recommendation", WWW
    2021.
    """
    num_code, num_task = num_codes

    def init(key: jax.Array, episode: Episode) -> PyTree:
        keys = jax.random.split(key, 8)
        profile, (inputs, label, _) = episode.profile, episode.support
        embedding = embed.init(keys[0], profile, inputs)
        x_NxE = embed.apply(embedding, profile, inputs)
        code = (jnp.zeros(num_latent), jnp.zeros(num_task))
        return {
            "embed": embedding,
            "encode_latent": encode_latent.init(keys[1], profile, (x_NxE, label)),
            "encode_task": encode_task.init(keys[2], profile, (x_NxE, label)),
            "decode": decode.init(keys[3], (profile, code), x_NxE),
            "offset": offset.init(keys[4], profile, inputs),
            "mean": _linear(keys[5], num_code, num_latent),
            "deviation": _linear(keys[6], num_code, num_latent),
            "memory": jax.random.normal(keys[7], (num_clusters, num_task)),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        return State(params, jnp.zeros(num_code), jnp.zeros(num_task), jnp.zeros(()), profile)

    def adapt(state: State, examples: Examples, key: jax.Array) -> State:
        del key
        shared, profile = state.shared, state.profile
        pairs = (embed.apply(shared["embed"], profile, examples.inputs), examples.label)
        real_Nx1 = examples.mask[:, None] > 0
        total = lambda code_NxD: jnp.sum(jnp.where(real_Nx1, code_NxD, 0.0), axis=0)
        latent = total(encode_latent.apply(shared["encode_latent"], profile, pairs))
        task = total(encode_task.apply(shared["encode_task"], profile, pairs))
        return state._replace(
            latent=state.latent + latent,
            task=state.task + task,
            weight=state.weight + jnp.sum(examples.mask > 0),
        )

    def latent_of(state: State) -> Gaussian:
        code = state.latent / jnp.maximum(state.weight, 1.0)
        read = lambda layer: code @ layer["kernel"] + layer["bias"]
        share = jax.nn.sigmoid(read(state.shared["deviation"]))
        return Gaussian(read(state.shared["mean"]), 0.1 + 0.9 * share)

    def decoded(state: State, latent: jax.Array, inputs: PyTree) -> tuple[jax.Array, jax.Array]:
        """Scores (N,) under a latent (Z,), and the cluster shares (K,)."""
        shared, profile = state.shared, state.profile
        task = state.task / jnp.maximum(state.weight, 1.0)
        share = assignment(task, shared["memory"])
        code = (latent, task + share @ shared["memory"])
        x_NxE = embed.apply(shared["embed"], profile, inputs)
        base = offset.apply(shared["offset"], profile, inputs)
        return base + decode.apply(shared["decode"], (profile, code), x_NxE), share

    def predict(state: State, inputs: PyTree) -> jax.Array:
        return decoded(state, latent_of(state).mean, inputs)[0]

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        context = adapt(start(params, episode.profile), episode.support, key)
        posterior = latent_of(adapt(context, episode.query, key))
        noise = jax.random.normal(key, (num_latent,))
        target = all_examples(episode)
        drawn = posterior.mean + posterior.deviation * noise
        scores, share = decoded(context, drawn, target.inputs)
        fit = loss(scores, target.label, target.mask)
        gap, clusters = divergence(posterior, latent_of(context)), cluster_loss(share)
        value = fit + divergence_weight * gap + cluster_weight * clusters
        return value, {"query_loss": fit, "divergence": gap, "clusters": clusters}

    return MetaLearner(init, start, adapt, predict, outer_loss)
