"""Click-through-rate models that take an item's embedding as an argument, and content networks.

A task is an item here: ``profile`` has the item's content columns, ``inputs`` the columns of the
users. The *user* index is the input ``item``, for `metajax.data.episodes.fetch` gives the other
side of a task that name.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.models import mlp
from metajax.models.bridge import from_nnx
from metajax.types import Model, PyTree


class _DeepFm(nnx.Module):
    """A factorization machine over fields of one width, plus a perceptron over the same fields."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        num_users: int,
        users: Mapping[str, int],
        items: Mapping[str, int],
        dim: int,
        hidden: Sequence[int],
    ):
        small = nnx.initializers.normal(0.05)
        table = lambda size: nnx.Embed(size, dim, embedding_init=small, rngs=rngs)
        self.owner = table(num_users)
        self.user = nnx.Dict({k: table(n) for k, n in users.items()})
        self.item = nnx.Dict({k: table(n) for k, n in items.items()})
        num_fields = 2 + len(users) + len(items)
        self.deep = mlp.stack(rngs, (num_fields * dim, *hidden, 1))
        self.users, self.items = tuple(users), tuple(items)

    def __call__(self, profile: tuple[Mapping, jax.Array], inputs: Mapping) -> jax.Array:
        content, embedding = profile
        n = inputs["item"].shape[0]
        own = [embedding, *(mlp.mean_embedding(self.item[k], content[k]) for k in self.items)]
        met = [
            self.owner(inputs["item"]),
            *(mlp.mean_embedding(self.user[k], inputs[k]) for k in self.users),
        ]
        fields = [*(jnp.broadcast_to(f, (n, f.shape[0])) for f in own), *met]
        field_NxFxD = jnp.stack(fields, axis=1)
        pairs_NxD = field_NxFxD.sum(axis=1) ** 2 - (field_NxFxD**2).sum(axis=1)
        deep_N = mlp.activate_between(self.deep, field_NxFxD.reshape(n, -1))[:, 0]
        return 0.5 * pairs_NxD.sum(axis=1) + deep_N


def deep_fm(
    num_users: int,
    users: Mapping[str, int],
    items: Mapping[str, int],
    dim: int = 16,
    hidden: Sequence[int] = (64, 64),
) -> Model:
    """Click logits (N,) of an item with each of N users; its profile is ``(profile, (dim,))``.

    The second of the pair is the item's embedding. The table of user embeddings is the parameter
    ``owner/embedding`` (num_users, dim).

    Args:
      users, items: name -> number of indices of the categorical columns to embed.

    References: Guo et al., "DeepFM: a factorization-machine based neural network for CTR
    prediction", IJCAI 2017; without the first-order terms.
    """
    return from_nnx(lambda rngs, profile, x: _DeepFm(rngs, num_users, users, items, dim, hidden))


def with_table(base: Model, num_items: int, dim: int, scale: float = 0.05) -> Model:
    """A base, such as `deep_fm`, with a table of item embeddings: a model with a plain profile.

    The parameters are ``base`` and ``table`` (num_items, dim), of which the profile's column
    ``index`` chooses the row. Trained on items with many clicks, it is what warm-up starts from.

    Args:
      scale: standard deviation of the table at the start.
    """

    def init(key: jax.Array, profile: Mapping, inputs: PyTree) -> PyTree:
        key_base, key_table = jax.random.split(key)
        table = scale * jax.random.normal(key_table, (num_items, dim))
        return {"base": base.init(key_base, (profile, table[0]), inputs), "table": table}

    def apply(params: PyTree, profile: Mapping, inputs: PyTree) -> jax.Array:
        return base.apply(params["base"], (profile, params["table"][profile["index"]]), inputs)

    return Model(init, apply)


class _Content(nnx.Module):
    """A perceptron on embedded categories, joined with a vector if there is one."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: jax.Array | tuple,
        sizes: Mapping[str, int],
        dim: int,
        hidden: Sequence[int],
        width: int,
        center: float,
    ):
        self.embed = nnx.Dict({k: nnx.Embed(n, dim, rngs=rngs) for k, n in sizes.items()})
        joined = dim * len(sizes) + (0 if isinstance(inputs, tuple) else inputs.shape[0])
        self.body = mlp.stack(rngs, (max(joined, 1), *hidden))
        self.head = nnx.Linear(
            hidden[-1], width, kernel_init=nnx.initializers.normal(0.05), rngs=rngs
        )
        self.names, self.center = tuple(sizes), center

    def __call__(self, profile: Mapping, inputs: jax.Array | tuple) -> jax.Array:
        known = [mlp.mean_embedding(self.embed[k], profile[k]) for k in self.names]
        told = [] if isinstance(inputs, tuple) else [inputs]
        x = jnp.concatenate([*known, *told]) if known or told else jnp.ones(1)
        return self.center + self.head(mlp.activate_after(self.body, x))


def content_net(
    sizes: Mapping[str, int],
    width: int,
    *,
    dim: int = 16,
    hidden: Sequence[int] = (32,),
    center: float = 0.0,
) -> Model:
    """A vector (``width``,) from an item's content and the inputs: a vector, or ``()`` for none.

    Args:
      sizes: name -> number of indices of the profile's categorical columns to embed.
      width: of the output.
      dim: width of each embedding.
      hidden: widths of the hidden layers.
      center: a constant added to the output.
    """
    return from_nnx(
        lambda rngs, profile, inputs: _Content(rngs, inputs, sizes, dim, hidden, width, center)
    )


def table_rows(rows: jax.Array) -> Model:
    """Rows (N, D) of the fixed table ``rows`` (num_users, D) that the input ``item`` selects."""
    return Model(lambda key, profile, inputs: {}, lambda params, p, inputs: rows[inputs["item"]])
