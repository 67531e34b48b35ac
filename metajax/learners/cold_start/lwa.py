"""Adaptation from two vectors of a user: the mean disliked item R_0 and the mean liked item R_1.

Linear maps of R_0 and R_1 give the weights of a linear classifier (`lwa`) or the biases of a
network (`nlba`); all else is shared by all tasks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses, precision
from metajax.adapters.mixed import Compute, mixed
from metajax.learners.parts import query_loss
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

Pool = Callable[[jax.Array, jax.Array], jax.Array]
"""(sums (2, D), numbers (2,)) -> the class vectors R (2, D)."""


class State(NamedTuple):
    """What a task remembers: the sum and number of its embedded items per class.

    Attributes:
      total: (2, D) sums; row 0 of the items disliked, row 1 of those liked.
      weight: (2,) their numbers.
      profile: the task's profile.
    """

    total: jax.Array
    weight: jax.Array
    profile: PyTree


def by_mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean item (2, D) of each class, 0 without items, from sums (2, D) and numbers (2,)."""
    return total / jnp.maximum(weight, 1.0)[:, None]


def by_sum(total: jax.Array, weight: jax.Array) -> jax.Array:
    """The sum (2, D) of each class's items as it is, as in RecBole-MetaRec."""
    del weight
    return total


def lwa(
    embed: Model,
    num_features: int,
    *,
    threshold: float = 0.5,
    pool: Pool = by_mean,
    loss: losses.Loss = losses.log_loss,
) -> MetaLearner:
    """Linear weight adaptation: ``score = b + embed(x)' (W_0 R_0 + W_1 R_1)``.

    Args:
      embed: a model whose ``apply`` gives features (N, ``num_features``).
      num_features: D.
      threshold: labels above it are liked.
      pool: `by_mean` or `by_sum`.
      loss: the outer loss; `losses.log_loss` takes scores for logits.

    References: Vartak et al., "A meta-learning perspective on cold-start recommendations for
    items", NeurIPS 2017, section 4.1; there W_0 and W_1 are numbers, here matrices that start as
    minus and plus the identity.
    """

    def parameters(key: jax.Array) -> PyTree:
        del key
        identity = jnp.eye(num_features)
        return {"weights": jnp.stack([-identity, identity]), "bias": jnp.zeros(())}

    @precision.highest
    def score(params: PyTree, x_NxD: jax.Array, classes_2xD: jax.Array) -> jax.Array:
        weights = jnp.einsum("cij,cj->i", params["weights"], classes_2xD)
        return params["bias"] + x_NxD @ weights

    return _by_classes(embed, num_features, parameters, score, threshold, pool, loss)


def nlba(
    embed: Model,
    num_features: int,
    hidden: Sequence[int] = (64,),
    *,
    threshold: float = 0.5,
    pool: Pool = by_mean,
    loss: losses.Loss = losses.log_loss,
    compute: Compute = "float32",
) -> MetaLearner:
    """Non-linear bias adaptation: a network whose biases are linear in R_0 and R_1.

    Every layer is ``W x + b + V_0 R_0 + V_1 R_1``, with ReLU between layers; of the layers' weights
    and biases only what R adds differs between tasks. Other arguments are those of `lwa`.

    Args:
      hidden: widths of the hidden layers.
      compute: the type of activations, see `adapters.mixed`.

    References: Vartak et al., NeurIPS 2017, section 4.2.
    """
    widths = (num_features, *hidden, 1)

    def parameters(key: jax.Array) -> PyTree:
        layers = []
        for a, b, k in zip(
            widths[:-1], widths[1:], jax.random.split(key, len(widths) - 1), strict=True
        ):
            key_kernel, key_classes = jax.random.split(k)
            kernel = jax.random.normal(key_kernel, (a, b)) * (2.0 / a) ** 0.5
            by_class = jax.random.normal(key_classes, (2, num_features, b)) / num_features**0.5
            layers.append({"kernel": kernel, "bias": jnp.zeros(b), "classes": by_class})
        return {"layers": layers}

    def score(params: PyTree, x_NxD: jax.Array, classes_2xD: jax.Array) -> jax.Array:
        for i, layer in enumerate(params["layers"]):
            bias = layer["bias"] + jnp.einsum("cij,ci->j", layer["classes"], classes_2xD)
            x_NxD = (jax.nn.relu(x_NxD) if i else x_NxD) @ layer["kernel"] + bias[None, :]
        return x_NxD[:, 0]

    net = mixed(Model(lambda *_: {}, lambda params, classes, x: score(params, x, classes)), compute)
    narrow = lambda params, x_NxD, classes_2xD: net.apply(params, classes_2xD, x_NxD)
    return _by_classes(embed, num_features, parameters, narrow, threshold, pool, loss)


def _by_classes(
    embed: Model,
    num_features: int,
    parameters: Callable[[jax.Array], PyTree],
    score: Callable[[PyTree, jax.Array, jax.Array], jax.Array],
    threshold: float,
    pool: Pool,
    loss: losses.Loss,
) -> MetaLearner:
    """A learner whose tasks differ by their class vectors alone."""

    def init(key: jax.Array, episode: Episode) -> PyTree:
        key_embed, key_own = jax.random.split(key)
        profile, inputs = episode.profile, episode.support.inputs
        return {
            "embed": embed.init(key_embed, profile, inputs),
            **parameters(key_own),
        }

    def start(params: PyTree, profile: PyTree) -> State:
        del params
        return State(jnp.zeros((2, num_features)), jnp.zeros(2), profile)

    def adapt(params: PyTree, state: State, examples: Examples, key: jax.Array) -> State:
        del key
        x_NxD = embed.apply(params["embed"], state.profile, examples.inputs)
        x_NxD = jnp.where(examples.mask[:, None] > 0, x_NxD, 0.0)
        liked = examples.label > threshold
        member_2xN = jnp.where(examples.mask[None, :] > 0, jnp.stack([~liked, liked]), 0.0)
        own_2xD = jnp.matmul(member_2xN, x_NxD, precision="highest")
        weight = state.weight + member_2xN.sum(axis=1)
        return state._replace(total=state.total + own_2xD, weight=weight)

    def predict(params: PyTree, state: State, inputs: PyTree) -> jax.Array:
        x_NxD = embed.apply(params["embed"], state.profile, inputs)
        return score(params, x_NxD, pool(state.total, state.weight))

    return MetaLearner(init, start, adapt, predict, query_loss(start, adapt, predict, loss))
