"""The Flax modules of the multi-layer perceptrons in `metajax.models.towers`.

They stand in a file of their own that is imported when such a model is made: Flax takes a third of
a second to import, which a command that only prints its help need not wait for.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.types import Model, PyTree


class Perceptron(nnx.Module):
    """The scores (N,) of inputs (N, D): ReLU layers (``body``), then a linear one (``head``)."""

    def __init__(self, rngs: nnx.Rngs, width: int, hidden: Sequence[int]):
        self.body = mlp.stack(rngs, (width, *hidden))
        self.head = nnx.Linear((width, *hidden)[-1], 1, rngs=rngs)

    def __call__(self, profile: PyTree, inputs: jax.Array) -> jax.Array:
        del profile
        return self.head(mlp.activate_after(self.body, inputs))[..., 0]


class FactorMlp(Perceptron):
    """A perceptron on stored item factors and biases."""

    def __init__(self, rngs: nnx.Rngs, factor: jax.Array, hidden: Sequence[int]):
        super().__init__(rngs, factor.shape[-1] + 1, hidden)

    def __call__(self, profile: PyTree, inputs: Mapping[str, jax.Array]) -> jax.Array:
        x_NxD = jnp.concatenate([inputs["factor"], inputs["bias"][:, None]], axis=1)
        return super().__call__(profile, x_NxD)


class MeluNet(Perceptron):
    """Embeddings of user and item features, then decision layers (MeLU's network)."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        user_sizes: Mapping[str, int],
        item_sizes: Mapping[str, int],
        dim: int,
        hidden: Sequence[int],
    ):
        table = lambda size: nnx.Embed(size, dim, rngs=rngs)
        self.embed = nnx.Dict(
            {f"user_{k}": table(n) for k, n in user_sizes.items()}
            | {f"item_{k}": table(n) for k, n in item_sizes.items()}
        )
        super().__init__(rngs, dim * (len(user_sizes) + len(item_sizes)), hidden)
        self.user_names, self.item_names = tuple(user_sizes), tuple(item_sizes)

    def __call__(self, profile: Mapping, inputs: Mapping) -> jax.Array:
        n = inputs["item"].shape[0]
        user = [mlp.mean_embedding(self.embed[f"user_{k}"], profile[k]) for k in self.user_names]
        user_NxE = [jnp.broadcast_to(e, (n, *e.shape)) for e in user]
        item_NxE = [mlp.mean_embedding(self.embed[f"item_{k}"], inputs[k]) for k in self.item_names]
        x_NxD = jnp.concatenate([*user_NxE, *item_NxE], axis=1)
        return super().__call__(profile, x_NxD)


def vector_mlp(hidden: Sequence[int]) -> Model:
    """See `towers.vector_mlp`."""
    return from_nnx(lambda rngs, profile, inputs: Perceptron(rngs, inputs.shape[-1], hidden))


def factor_mlp(mean: float, hidden: Sequence[int], wrap: Callable[[Model], Model]) -> Model:
    """See `towers.factor_mlp`."""
    net = from_nnx(lambda rngs, profile, inputs: FactorMlp(rngs, inputs["factor"], hidden))
    return mlp.added(lambda inputs: mean + inputs["bias"], wrap(net))


def melu_net(
    user_sizes: Mapping[str, int],
    item_sizes: Mapping[str, int],
    mean: float,
    dim: int,
    hidden: Sequence[int],
    wrap: Callable[[Model], Model],
) -> Model:
    """See `towers.melu_net`."""
    net = from_nnx(lambda rngs, profile, inputs: MeluNet(rngs, user_sizes, item_sizes, dim, hidden))
    return mlp.added(lambda inputs: mean, wrap(net))
