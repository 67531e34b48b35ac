"""Small models: linear ones, multi-layer perceptrons (MLPs), and embeddings of side information.

Inputs are vectors (N, D), or dicts of columns, as is then the profile. Parameter paths for filters
of `metajax.tree`: ``embed/...`` are embeddings, ``body/...`` hidden layers, ``head/...`` the last
layer.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from metajax.types import Model, PyTree

Wrap = Callable[[Model], Model]
"""What a network is wrapped in before means are added to it, such as `adapters.mixed.mixed`."""


def unwrapped(model: Model) -> Model:
    """The model itself."""
    return model


def vector_mlp(hidden: Sequence[int] = (40, 40)) -> Model:
    """Scores (N,) by an MLP with ReLU on vectors (N, D): MAML's regression network (ICML 2017)."""
    from metajax.models import perceptrons

    return perceptrons.vector_mlp(hidden)


def vector_linear() -> Model:
    """Scores (N,) linear in vector inputs (N, D), without an intercept; weights start at 0."""
    return Model(
        init=lambda key, profile, inputs: {"head": {"kernel": jnp.zeros(inputs.shape[-1])}},
        apply=lambda params, profile, inputs: inputs @ params["head"]["kernel"],
    )


def identity() -> Model:
    """Vector inputs (N, D) as features, without parameters."""
    return Model(lambda key, profile, inputs: {}, lambda params, profile, inputs: inputs)


def stored_mean(mean: float, name: str = "bias") -> Model:
    """The scores (N,) ``mu + bias``: a learnable mu, and the column ``name`` (N,) of the inputs."""
    return Model(
        init=lambda key, profile, inputs: {"mu": jnp.asarray(mean)},
        apply=lambda params, profile, inputs: params["mu"] + inputs[name],
    )


def column(name: str, *, scale: float = 1.0, constant: bool = False) -> Model:
    """The numeric column ``name`` (N, D) of the inputs as features (N, D), without parameters.

    Args:
      scale: a factor on the column.
      constant: put a feature that is always 1 first: (N, 1 + D).
    """

    def apply(params: PyTree, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        x_NxD = scale * inputs[name]
        ones = jnp.ones((x_NxD.shape[0], 1), x_NxD.dtype)
        return jnp.concatenate([ones, x_NxD], axis=1) if constant else x_NxD

    return Model(lambda key, profile, inputs: {}, apply)


def constant_feature() -> Model:
    """A constant feature (N, 1) of 1: its weight in `closed_form.ridge` is the damped user bias."""
    return Model(
        init=lambda key, profile, inputs: {},
        apply=lambda params, profile, inputs: jnp.ones((*inputs["item"].shape, 1)),
    )


def factor_mlp(mean: float, hidden: Sequence[int] = (64, 64), *, wrap: Wrap = unwrapped) -> Model:
    """Scores (N,) by an MLP f on frozen item factors: ``mean + b_i + f(factor_i, b_i)``.

    Items enter through the stored columns ``factor`` (N, D) and ``bias`` (N,), so that a cold item
    whose factors were predicted from its content is served by the same parameters.

    Args:
      mean: added to the scores, the mean rating.
      hidden: widths of the hidden layers.
      wrap: of f alone, see `Wrap`.
    """
    from metajax.models import perceptrons

    return perceptrons.factor_mlp(mean, hidden, wrap)


def melu_net(
    user_sizes: Mapping[str, int],
    item_sizes: Mapping[str, int],
    mean: float,
    dim: int = 32,
    hidden: Sequence[int] = (64, 64),
    *,
    wrap: Wrap = unwrapped,
) -> Model:
    """MeLU's network: one embedding per feature, averaged over its values, then decision layers.

    Gives scores (N,). Identifiers are no inputs, so that seen and unseen users and items are served
    in the same way. The decision layers are ``body`` and ``head``.

    Args:
      user_sizes, item_sizes: name -> number of indices of the categorical columns to embed.
      mean: added to the scores, the mean rating.
      dim: width of each embedding.
      hidden: widths of the decision layers.
      wrap: of the network without the mean, see `Wrap`.

    References: Lee et al., "MeLU: meta-learned user preference estimator for cold-start
    recommendation", KDD 2019.
    """
    from metajax.models import perceptrons

    return perceptrons.melu_net(user_sizes, item_sizes, mean, dim, hidden, wrap)
