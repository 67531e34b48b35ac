"""Networks over the estimated item columns: item features for a task's own linear head, and offset.

The offset is the score that all users share. Inputs are the columns that `data.features.represent`
adds. Both networks start as the closed-form models that they refine: the features as the ALS
factors and those of hierarchical Bayes side by side, the offset as the stored item mean.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.models.towers import Wrap, unwrapped
from metajax.types import Model, PyTree


def _evidence(inputs: Mapping[str, jax.Array]) -> jax.Array:
    """What is known of each item (N, E): estimates, what content says, how many ratings."""
    factor, content = inputs["factor"], inputs["content_factor"]
    scale = factor.shape[-1] ** 0.5  # factors have mean squared length 1
    known = (inputs["count"] > 0).astype(factor.dtype)
    scalars = (inputs["bias"], inputs["content_bias"], inputs["count"] / 5.0 - 1.0, known)
    vectors = (scale * factor, scale * content, inputs["bayes"], inputs["content_bayes"])
    return jnp.concatenate([*vectors, jnp.stack(scalars, -1)], axis=-1)


def _start(inputs: Mapping[str, jax.Array], start: Sequence[str]) -> jax.Array:
    """The columns named, side by side."""
    return jnp.concatenate([inputs[name] for name in start], axis=-1)


class _Features(nnx.Module):
    """The learned part (N, D + ``extra``) of `item_features`."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: Mapping[str, jax.Array],
        start: Sequence[str],
        extra: int,
        hidden: int,
    ):
        dim = _start(inputs, start).shape[-1] + extra
        small = nnx.initializers.normal(0.02)
        self.body = nnx.Linear(_evidence(inputs).shape[-1], hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, dim, kernel_init=small, rngs=rngs)

    def __call__(self, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        del profile
        return self.head(jax.nn.gelu(self.body(_evidence(inputs))))


def item_features(
    start: Sequence[str] = ("factor", "bayes"),
    extra: int = 4,
    hidden: int = 32,
    *,
    wrap: Wrap = unwrapped,
) -> Model:
    """Item features (N, 1 + D + ``extra``): a constant 1, then stored columns plus a learned part.

    Args:
      start: the stored columns, D wide together.
      extra: further features, which start near 0.
      hidden: width of the hidden layer.
      wrap: of the network of the learned part, see `towers.Wrap`.
    """
    net = wrap(
        from_nnx(lambda rngs, profile, inputs: _Features(rngs, inputs, start, extra, hidden))
    )

    def apply(params: PyTree, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        learned_NxD = net.apply(params, profile, inputs)
        start_NxD = jnp.pad(_start(inputs, start), ((0, 0), (0, extra)))
        ones = jnp.ones((learned_NxD.shape[0], 1), learned_NxD.dtype)
        return jnp.concatenate([ones, start_NxD + learned_NxD], axis=1)

    return Model(net.init, apply)


class _Offset(nnx.Module):
    """The learned part of `item_offset`."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: Mapping[str, jax.Array],
        user_sizes: Mapping[str, int],
        hidden: int,
        dim: int,
    ):
        table = lambda size: nnx.Embed(size, dim, rngs=rngs)
        self.embed = nnx.Dict({name: table(size) for name, size in user_sizes.items()})
        width = _evidence(inputs).shape[-1] + dim * len(user_sizes)
        self.body = nnx.Linear(width, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.names = tuple(user_sizes)

    def __call__(
        self, profile: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]
    ) -> jax.Array:
        x_NxE = _evidence(inputs)
        user = [mlp.mean_embedding(self.embed[name], profile[name]) for name in self.names]
        user_NxF = [jnp.broadcast_to(u, (x_NxE.shape[0], *u.shape)) for u in user]
        hidden = jax.nn.gelu(self.body(jnp.concatenate([x_NxE, *user_NxF], axis=1)))
        return self.head(hidden)[:, 0]


def item_offset(
    user_sizes: Mapping[str, int],
    mean: float,
    hidden: int = 64,
    dim: int = 8,
    bias: str = "bias",
    *,
    wrap: Wrap = unwrapped,
) -> Model:
    """Scores (N,) where only the user's profile is known: ``mean + b_i + f(item, profile)``.

    Args:
      user_sizes: name -> number of indices of the profile's categorical columns to embed.
      mean: the mean rating.
      hidden: width of the hidden layer.
      dim: width of each embedding.
      bias: the input column b_i.
      wrap: of the network f, see `towers.Wrap`.
    """
    net = from_nnx(lambda rngs, profile, inputs: _Offset(rngs, inputs, user_sizes, hidden, dim))
    return mlp.added(lambda inputs: mean + inputs[bias], wrap(net))


def linear_head(embed: Model, offset: Model, num_features: int) -> Model:
    """The scores (N,) ``offset(x) + embed(x)' w`` with an ordinary parameter w, which starts at 0.

    It is the counterpart of `closed_form.ridge` for joint training and fine-tuning, where w is
    trained and not solved.
    """

    def init(key: jax.Array, profile: PyTree, inputs: PyTree) -> PyTree:
        key_embed, key_offset = jax.random.split(key)
        return {
            "embed": embed.init(key_embed, profile, inputs),
            "offset": offset.init(key_offset, profile, inputs),
            "head": jnp.zeros(num_features),
        }

    def apply(params: PyTree, profile: PyTree, inputs: PyTree) -> jax.Array:
        base = offset.apply(params["offset"], profile, inputs)
        return base + embed.apply(params["embed"], profile, inputs) @ params["head"]

    return Model(init, apply)
