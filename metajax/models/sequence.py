"""A sequence recommender: a causal Transformer over a user's items, of the kind of SASRec.

A history is a row of item indices, oldest first, with its padding on the right. A start token comes
before it, so that an empty history has a prediction too: the cold start. Items are scored by the
inner product of the last hidden vector with their embeddings (tied). An item's embedding is a free
row of a table plus, where content vectors are given, a learned projection of them; rows are hidden
at random in training, so that the model also handles items that have only content.

References: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018; Klenitskiy and
Vasilev, RecSys 2023 (the loss decides); Bengio and Senecal, 2008 (sampled softmax with correction).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.losses import masked_mean
from metajax.models import transformer
from metajax.settings import Share
from metajax.types import Model, Params, PyTree, UserError

Objective = Callable[[jax.Array, jax.Array, jax.Array, "Drawn"], jax.Array]
"""(hidden vectors (L, D), all items (V, D), targets (L,), the items drawn) -> losses (L,)."""


class Drawn(NamedTuple):
    """Items drawn for a loss.

    Attributes:
      items: (n,) each drawn anew.
      log_q: (V,) the log-probability of each item to be a draw.
    """

    items: jax.Array
    log_q: jax.Array


@dataclasses.dataclass(frozen=True)
class Settings:
    """The size of a sequence recommender, and how it is trained.

    Attributes:
      num_items: V; items are 0..V-1.
      shape: of the Transformer.
      dropout: share dropped of the embeddings and of the output of each attention and MLP.
      hidden_rows: share of items whose free row is hidden in a training step; needs content.
      num_negatives: items drawn for the loss of a training step; 0 is the full softmax.
      objective: the loss over the items drawn.
      popular: share of the draws that are items of the batch, which are drawn as often as they are
        popular; the others are uniform.
      compute: the type of activations and of the factors of products in a training step, such as
        bfloat16; norms, softmaxes, logits and losses are float32, and so is all evaluation.
    """

    num_items: int
    shape: transformer.Shape
    dropout: float = 0.2
    hidden_rows: float = 0.0
    num_negatives: int = 0
    objective: "Objective | None" = None
    popular: Share = 0.0
    compute: str = "float32"


def small(width: int = 64, num_layers: int = 2, num_heads: int = 2) -> transformer.Shape:
    """A Transformer of SASRec's published size, with a gated MLP of hidden width ``2 * width``.

    Raises:
      UserError: the heads do not share the width evenly, an even number of columns each.
    """
    if width % (2 * num_heads):
        raise UserError(
            f"--width {width} must be a multiple of twice --num-heads {num_heads}: each head turns "
            "pairs of columns"
        )
    return transformer.Shape(num_layers, width, num_heads, num_heads, hidden=2 * width)


def init(key: jax.Array, settings: Settings, content: np.ndarray | None = None) -> Params:
    """Parameters: ``items`` (V, D), ``start`` (D,), the Transformer's, and, where given, content.

    Args:
      content: (V, F) vectors of the items, stored as the parameter ``content`` and never learned:
        no gradient reaches it, and weight decay must leave it out. ``content_kernel`` is (F, D).
    """
    key_items, key_start, key_stack, key_content = jax.random.split(key, 4)
    width = settings.shape.width
    params = {
        "items": 0.02 * jax.random.normal(key_items, (settings.num_items, width)),
        "start": 0.02 * jax.random.normal(key_start, (width,)),
        **transformer.init(key_stack, settings.shape),
    }
    if content is not None:
        kernel = jax.random.normal(key_content, (content.shape[1], width))
        params["content"] = jnp.asarray(content, jnp.float32)
        params["content_kernel"] = 0.02 * kernel
    return params


def item_embeddings(params: Params, shown: jax.Array | None = None) -> jax.Array:
    """The items' embeddings (V, D): free row plus projected content.

    Args:
      shown: (V,) 1 where the free row is used, 0 where it is hidden; None uses all.
    """
    rows = params["items"] if shown is None else params["items"] * shown[:, None]
    if "content" not in params:
        return rows
    return rows + jax.lax.stop_gradient(params["content"]) @ params["content_kernel"]


def hidden_vectors(
    settings: Settings,
    params: Params,
    catalogue_VxD: jax.Array,
    history: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """Hidden vectors (L + 1, D): before the first and after each item of a history (L,).

    Args:
      catalogue_VxD: the items' embeddings, of `item_embeddings`.
      key: for dropout; None for none.
    """
    x = jnp.concatenate([params["start"][None], catalogue_VxD[history]])
    x = x * settings.shape.width**0.5
    rate = settings.dropout
    if key is None or rate == 0.0:
        return transformer.forward(settings.shape, params, x)
    key_embed, key_stack = jax.random.split(key)
    x = jnp.where(jax.random.bernoulli(key_embed, 1 - rate, x.shape), x / (1 - rate), 0.0)
    return transformer.forward(settings.shape, params, x, key_stack, rate)


def next_loss(
    settings: Settings,
    params: Params,
    items_BxL: jax.Array,
    mask_BxL: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """The mean cross-entropy, in nats, of each real item of B histories given those before it.

    Over all items, or by the ``objective`` over ``num_negatives`` draws. All histories share hidden
    rows and draws, so that their logits are one matrix product.

    Args:
      mask_BxL: 1 where an item is real, 0 where it is padding.
      key: for dropout, hidden rows and negatives; None is evaluation, always over all items.
    """
    num_rows = items_BxL.shape[0]
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    target, mask = flat(items_BxL), flat(mask_BxL)
    read = functools.partial(hidden_vectors, settings, params)
    if key is None:
        catalogue = item_embeddings(params)
        hidden = flat(jax.vmap(lambda row: read(catalogue, row)[:-1])(items_BxL))
        return masked_mean(full_cross_entropy(hidden, catalogue, target), mask)
    params = jax.tree.map(lambda x: x.astype(settings.compute), params)
    key_rows, key_drop, key_negative = jax.random.split(key, 3)
    shown = None
    if settings.hidden_rows > 0.0:
        shape = (settings.num_items,)
        shown = jax.random.bernoulli(key_rows, 1.0 - settings.hidden_rows, shape)
        shown = shown.astype(settings.compute)
    catalogue = item_embeddings(params, shown)
    keys = jax.random.split(key_drop, num_rows)
    hidden = flat(jax.vmap(lambda row, key: read(catalogue, row, key)[:-1])(items_BxL, keys))
    if settings.num_negatives == 0:
        return masked_mean(full_cross_entropy(hidden, catalogue, target), mask)
    drawn = draw_items(key_negative, settings, target, mask)
    objective = settings.objective or sampled_softmax
    return masked_mean(objective(hidden, catalogue, target, drawn), mask)


def draw_items(key: jax.Array, settings: Settings, target: jax.Array, mask: jax.Array) -> Drawn:
    """``num_negatives`` items: from the targets (L,) of the batch, and uniform, by ``popular``."""
    key_any, key_place, key_which = jax.random.split(key, 3)
    size, num_items = (settings.num_negatives,), settings.num_items
    items = jax.random.randint(key_any, size, 0, num_items)
    if settings.popular == 0.0:
        return Drawn(items, jnp.full(num_items, -jnp.log(float(num_items))))
    share = mask / jnp.maximum(jnp.sum(mask), 1.0)
    place = jax.random.categorical(key_place, jnp.log(share), shape=size)
    met = jax.random.bernoulli(key_which, settings.popular, size)
    batch = jnp.zeros(num_items).at[target].add(share)
    q = settings.popular * batch + (1.0 - settings.popular) / num_items
    return Drawn(jnp.where(met, target[place], items), jnp.log(q))


def sampled_softmax(
    hidden_LxD: jax.Array, items_VxD: jax.Array, target: jax.Array, drawn: Drawn
) -> jax.Array:
    """`sampled_cross_entropy` of uniform draws."""
    return sampled_cross_entropy(hidden_LxD, items_VxD, target, drawn.items)


def logq_softmax(
    hidden_LxD: jax.Array, items_VxD: jax.Array, target: jax.Array, drawn: Drawn
) -> jax.Array:
    """-log softmax (L,) of each target (L,), the others estimated from draws of any probability q.

    ``Z = exp(s_target) + sum exp(s - log(n q))`` over the n draws, those that are the target left
    out: unbiased, whatever q is, as long as no item has q = 0.

    References: Bengio, Senecal, 2008; Yi et al., RecSys 2019 (logQ correction).
    """
    chosen = _chosen(hidden_LxD, items_VxD, target)
    corrected = _logits(hidden_LxD, items_VxD[drawn.items]) - drawn.log_q[drawn.items][None, :]
    corrected = corrected - jnp.log(float(drawn.items.shape[0]))
    other_Lxn = drawn.items[None, :] != target[:, None]
    together = jnp.concatenate([chosen[:, None], jnp.where(other_Lxn, corrected, -1e30)], axis=1)
    return jax.nn.logsumexp(together, axis=1) - chosen


def gbce(
    hidden_LxD: jax.Array,
    items_VxD: jax.Array,
    target: jax.Array,
    drawn: Drawn,
    calibration: float = 0.75,
) -> jax.Array:
    """Generalized binary cross-entropy (L,): the target's probability to a power, against draws.

    The power is ``a (t (1 - 1/a) + 1/a)``, a = n / V the rate at which an item is drawn. With t = 0
    it is 1, plain binary cross-entropy, whose probabilities are too large by 1/a; with t = 1 they
    are calibrated. Draws are uniform; those that are the target are left out.

    All logits are shifted by log(power / n), at which the gradients of an item that follows as
    often as any other cancel. No rank depends on it; without it the hidden vectors, whose length is
    fixed, first turn to one direction to lower all logits, and learn nothing of the history.

    References: Petrov, Macdonald, "gSASRec", RecSys 2023.
    """
    count = drawn.items.shape[0]
    rate = count / items_VxD.shape[0]
    power = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
    shift = math.log(power / count)
    chosen = _chosen(hidden_LxD, items_VxD, target) + shift
    logits_Lxn = _logits(hidden_LxD, items_VxD[drawn.items]) + shift
    other_Lxn = drawn.items[None, :] != target[:, None]
    against = jnp.sum(jnp.where(other_Lxn, jax.nn.log_sigmoid(-logits_Lxn), 0.0), axis=1)
    return -(power * jax.nn.log_sigmoid(chosen) + against) / (count + 1)


def full_cross_entropy(hidden_LxD: jax.Array, items_VxD: jax.Array, target: jax.Array) -> jax.Array:
    """-log softmax (L,), in nats, of each target (L,) over all items."""
    chosen = _chosen(hidden_LxD, items_VxD, target)
    return jax.nn.logsumexp(_logits(hidden_LxD, items_VxD), axis=1) - chosen


def _logits(hidden_LxD: jax.Array, items_VxD: jax.Array) -> jax.Array:
    """Logits (L, V) of all items in float32, whatever the type of the factors."""
    return jnp.matmul(hidden_LxD, items_VxD.T, preferred_element_type=jnp.float32)


def _chosen(hidden_LxD: jax.Array, items_VxD: jax.Array, target: jax.Array) -> jax.Array:
    """Logits (L,) of the targets in float32; no scatter into (L, V) is behind their derivative."""
    return jnp.sum((hidden_LxD * items_VxD[target]).astype(jnp.float32), axis=1)


def sampled_cross_entropy(
    hidden_LxD: jax.Array, items_VxD: jax.Array, target: jax.Array, drawn: jax.Array
) -> jax.Array:
    """-log softmax (L,) of each target (L,), the other items estimated from uniform draws (n,).

    ``Z = exp(s_target) + (V - 1) / m * sum exp(s)`` over the m draws that are not the target: an
    unbiased estimate of the full sum, so that the loss goes to the full one as n grows.
    """
    chosen = _chosen(hidden_LxD, items_VxD, target)
    logits_Lxn = _logits(hidden_LxD, items_VxD[drawn])
    other_Lxn = drawn[None, :] != target[:, None]
    count = jnp.maximum(jnp.sum(other_Lxn, axis=1), 1)
    correction = jnp.log((items_VxD.shape[0] - 1) / count)
    logits_Lxn = jnp.where(other_Lxn, logits_Lxn + correction[:, None], -1e30)
    together = jnp.concatenate([chosen[:, None], logits_Lxn], axis=1)
    return jax.nn.logsumexp(together, axis=1) - chosen


def next_item(settings: Settings, content: np.ndarray | None = None) -> Model:
    """A model that scores all V items after each of N histories: logits (N, V).

    ``inputs`` is the pair of ``items`` (N, L), padded on the right, and their number (N,).
    """

    def apply(params: Params, profile: PyTree, inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        del profile
        items_NxL, length = inputs
        catalogue = item_embeddings(params)
        read = lambda row, n: hidden_vectors(settings, params, catalogue, row)[n]
        hidden_NxD = jax.vmap(read)(items_NxL, length)
        return hidden_NxD @ catalogue.T

    return Model(lambda key, profile, inputs: init(key, settings, content), apply)
