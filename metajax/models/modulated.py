"""Networks conditioned on a task's code (context or embedding), and user-item features for them.

The conditioned networks take the pair ``(profile, code)`` as their profile and features (N, E) as
their inputs.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.types import Model, PyTree


def _plain(rngs: nnx.Rngs, a: int, b: int) -> nnx.Linear:
    """A linear layer without a bias."""
    return nnx.Linear(a, b, use_bias=False, rngs=rngs)


class _Film(nnx.Module):
    """A perceptron whose hidden layers are scaled and shifted by a network of the context."""

    def __init__(self, rngs: nnx.Rngs, width: int, hidden: Sequence[int], num_hyper: int):
        self.body = mlp.stack(rngs, (width, *hidden))
        self.head = nnx.Linear(hidden[-1], 1, rngs=rngs)
        self.hyper = _plain(rngs, width, num_hyper)
        self.modulate = nnx.List([_plain(rngs, num_hyper, 2 * b) for b in hidden])

    def __call__(self, profile: tuple[PyTree, jax.Array], x_NxE: jax.Array) -> jax.Array:
        _, context = profile
        hyper_NxH = jax.nn.relu(self.hyper(x_NxE * context[None, :]))
        for layer, modulate in zip(self.body, self.modulate, strict=True):
            scale_NxB, shift_NxB = jnp.split(modulate(hyper_NxH), 2, axis=1)
            x_NxE = jax.nn.relu((1.0 + scale_NxB) * layer(x_NxE) + shift_NxB)
        return self.head(x_NxE)[:, 0]


def film_mlp(hidden: Sequence[int] = (64, 64), num_hyper: int = 256) -> Model:
    """Scores (N,) of features (N, E) given a context (E,), by feature-wise linear modulation.

    A network of ``x * context`` gives each hidden layer its scale and shift, row by row. It has no
    biases, so that with the context 0 this is the plain MLP.

    Args:
      hidden: widths of the hidden layers.
      num_hyper: width of the hidden layer of the network of ``x * context``.

    References: Feng et al., "CMML: contextual modulation meta learning for cold-start
    recommendation", CIKM 2021; Perez et al., "FiLM", AAAI 2018.
    """
    return from_nnx(lambda rngs, profile, x: _Film(rngs, x.shape[-1], hidden, num_hyper))


class _Adaptive(nnx.Module):
    """TaNP's decoder: a perceptron on features and latent, steered by the task embedding."""

    def __init__(self, rngs: nnx.Rngs, width: int, num_task: int, hidden: Sequence[int]):
        self.body = mlp.stack(rngs, (width, *hidden))
        self.head = nnx.Linear(hidden[-1], 1, rngs=rngs)
        self.scale = nnx.List([_plain(rngs, num_task, b) for b in hidden])
        self.shift = nnx.List([_plain(rngs, num_task, b) for b in hidden])

    def __call__(
        self, profile: tuple[PyTree, tuple[jax.Array, jax.Array]], x_NxE: jax.Array
    ) -> jax.Array:
        _, (latent, task) = profile
        latent_NxZ = jnp.broadcast_to(latent, (x_NxE.shape[0], latent.shape[0]))
        h_NxB = jnp.concatenate([x_NxE, latent_NxZ], axis=1)
        for layer, scale, shift in zip(self.body, self.scale, self.shift, strict=True):
            gamma, beta = jnp.tanh(scale(task)), jnp.tanh(shift(task))
            h_NxB = jax.nn.relu(gamma[None, :] * layer(h_NxB) + beta[None, :])
        return self.head(h_NxB)[:, 0]


def adaptive_decoder(hidden: Sequence[int] = (32, 32, 16)) -> Model:
    """TaNP's decoder: scores (N,) of features (N, E) given ``(latent (Z,), task embedding (T,))``.

    Every hidden layer is ``ReLU(h * tanh(Gamma t) + tanh(B t))``, Gamma and B without biases.

    References: Lin et al., "Task-adaptive neural process for user cold-start recommendation", WWW
    2021.
    """

    def make(rngs: nnx.Rngs, profile: tuple, x_NxE: jax.Array) -> nnx.Module:
        latent, task = profile[1]
        return _Adaptive(rngs, x_NxE.shape[-1] + latent.shape[0], task.shape[0], hidden)

    return from_nnx(make)


class _Pair(nnx.Module):
    """Embeddings of the categories of user and item beside the item's stored columns."""

    def __init__(
        self, rngs: nnx.Rngs, users: Mapping[str, int], items: Mapping[str, int], dim: int
    ):
        table = lambda size: nnx.Embed(size, dim, rngs=rngs)
        self.user = nnx.Dict({k: table(n) for k, n in users.items()})
        self.item = nnx.Dict({k: table(n) for k, n in items.items()})
        self.user_names, self.item_names = tuple(users), tuple(items)

    def __call__(self, profile: Mapping, inputs: Mapping) -> jax.Array:
        n = inputs["item"].shape[0]
        user = [mlp.mean_embedding(self.user[k], profile[k]) for k in self.user_names]
        user_NxD = [jnp.broadcast_to(e, (n, *e.shape)) for e in user]
        item_NxD = [mlp.mean_embedding(self.item[k], inputs[k]) for k in self.item_names]
        stored_NxD = [inputs["factor"], inputs["bias"][:, None]]
        return jnp.concatenate([*user_NxD, *item_NxD, *stored_NxD], axis=1)


def pair_features(users: Mapping[str, int], items: Mapping[str, int], dim: int = 16) -> Model:
    """Features (N, E) of a user with each item: embedded categories, stored factors and bias.

    Identifiers are no inputs, so that seen and unseen users and items are served in the same way. E
    is the number of categorical columns times ``dim``, plus the width of the factors, plus 1.

    Args:
      users, items: name -> number of indices of the categorical columns to embed.
    """
    return from_nnx(lambda rngs, profile, inputs: _Pair(rngs, users, items, dim))


def over_features(embed: Model, net: Model, offset: Model) -> Model:
    """The scores (N,) ``offset(x) + net(embed(x), code)``; its profile is ``(profile, code)``.

    Parameter paths are ``embed``, ``net`` and ``offset``; embed and offset see the plain profile.
    """

    def init(key: jax.Array, profile: tuple[PyTree, PyTree], inputs: PyTree) -> PyTree:
        key_embed, key_net, key_offset = jax.random.split(key, 3)
        own = embed.init(key_embed, profile[0], inputs)
        x_NxE = embed.apply(own, profile[0], inputs)
        return {
            "embed": own,
            "net": net.init(key_net, profile, x_NxE),
            "offset": offset.init(key_offset, profile[0], inputs),
        }

    def apply(params: PyTree, profile: tuple[PyTree, PyTree], inputs: PyTree) -> jax.Array:
        x_NxE = embed.apply(params["embed"], profile[0], inputs)
        base = offset.apply(params["offset"], profile[0], inputs)
        return base + net.apply(params["net"], profile, x_NxE)

    return Model(init, apply)


def with_fixed_code(model: Model, code: PyTree) -> Model:
    """The conditioned model as one that takes a plain profile, with a code that never changes.

    It is the counterpart of a conditioned network for joint training and fine-tuning.
    """
    return Model(
        init=lambda key, profile, inputs: model.init(key, (profile, code), inputs),
        apply=lambda params, profile, inputs: model.apply(params, (profile, code), inputs),
    )


def centered_labels(encode: Model, mean: float) -> Model:
    """The encoder of pairs ``(features (N, E), label (N,))``, given the labels minus ``mean``."""
    around = lambda inputs: (inputs[0], inputs[1] - mean)
    return Model(
        init=lambda key, profile, inputs: encode.init(key, profile, around(inputs)),
        apply=lambda params, profile, inputs: encode.apply(params, profile, around(inputs)),
    )


class _User(nnx.Module):
    """Embeddings of the categories of a profile."""

    def __init__(self, rngs: nnx.Rngs, users: Mapping[str, int], dim: int):
        self.embed = nnx.Dict({k: nnx.Embed(n, dim, rngs=rngs) for k, n in users.items()})
        self.names, self.dim = tuple(users), dim

    def __call__(self, profile: Mapping, inputs: PyTree) -> jax.Array:
        del inputs
        known = [mlp.mean_embedding(self.embed[k], profile[k]) for k in self.names]
        return jnp.concatenate(known) if known else jnp.zeros(self.dim)


def user_features(users: Mapping[str, int], dim: int = 16) -> Model:
    """The embeddings (F * dim,) of a profile's F categorical columns; ``dim`` zeros if F is 0.

    Args:
      users: name -> number of indices of the categorical columns to embed.
    """
    return from_nnx(lambda rngs, profile, inputs: _User(rngs, users, dim))
