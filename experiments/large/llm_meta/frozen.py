"""What all people share: a catalogue that a pretrained model has read once, and its upper layers.

An adapter of a person acts on the last word of "TITLE is a movie about" alone, in the layers from
``bottom`` to ``top``. What stands before that word is then the same for everybody: its keys and
values are kept, and so is the state of the word below ``bottom``. To read a title anew for a person
costs one position in a few layers, and nothing is approximated.

References: Greenewald et al., "Activated LoRA", 2025 (adapters after a shared cache); Lester et
al., EMNLP 2021 (soft prompts, started from words).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models import transformer
from metajax.models.language.pretrained import Pretrained
from metajax.models.transformer import Shape
from metajax.types import Model, Params, PyTree, UserError

AT_ONCE, SIZE = 32, 8  # texts in a batch, and what they are padded to a multiple of


class Reading(NamedTuple):
    """N texts, read up to their last token.

    Attributes:
      keys, values: (N, layers, S, heads, dim) of the upper layers, at positions from 0.
      length: (N,) how many stand before the last token.
      word: (N, D) the state of the last token as it enters the upper layers.
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array
    word: jax.Array


class Frozen(NamedTuple):
    """What all people share.

    Attributes:
      blocks: the upper layers.
      titles: the catalogue.
      prompt: (P, D) the states of a prompt's words as they enter the upper layers.
      center, spread: (D,), () of the features of all titles, so that these have mean 0 and mean
        square length 1.
      plain: (N, D) features without an adapter.
      order: (N,) the title that each item has: its own, or another one's in the control.
    """

    blocks: Params
    titles: Reading
    prompt: jax.Array
    center: jax.Array
    spread: jax.Array
    plain: jax.Array
    order: jax.Array


def parts_of(shape: Shape, layers: int, top: int) -> tuple[Shape, Shape]:
    """The shapes of the layers below, which nobody changes, and of those that adapters act in.

    Args:
      layers: how many adapters act in.
      top: the layer whose output is used, counted from 1; 0 for two thirds of all.

    Raises:
      UserError: the model has fewer.
    """
    top = top or max(1, 2 * shape.num_layers // 3)
    if top > shape.num_layers or layers > top:
        raise UserError(
            f"adapters in {layers} layers up to layer {top}: the model has {shape.num_layers}; "
            "give a smaller --layers or --top"
        )
    of = functools.partial(dataclasses.replace, shape)
    return of(num_layers=top - layers), of(num_layers=layers)


def cut(params: Params, low: Shape, high: Shape) -> tuple[Params, Params]:
    """The parameters of both parts, without a norm at their end."""
    first, last = low.num_layers, low.num_layers + high.num_layers
    part = lambda a, b: {"blocks": jax.tree.map(lambda x: x[a:b], params["blocks"])}
    return part(0, first), part(first, last)


def read(model: Pretrained, texts: Sequence[str], low: Shape, high: Shape) -> Reading:
    """The texts, each read once; those of similar length together."""

    @jax.jit
    def run(params: Params, tokens_BxS: jax.Array, length_B: jax.Array):
        lower, upper = cut(params, low, high)

        def one(tokens: jax.Array, length: jax.Array):
            x = transformer.forward(low, lower, params["tokens"][tokens])
            empty = transformer.empty_cache(high, tokens.shape[0], x.dtype)
            cache = transformer.extend(high, upper, x, empty)[1]
            return cache.keys, cache.values, x[length - 1]

        return jax.vmap(one)(tokens_BxS, length_B)

    ids = [model.encode(text) for text in texts]
    size = np.array([len(row) for row in ids])
    order, widest = np.argsort(size, kind="stable"), -(-int(size.max()) // SIZE) * SIZE
    kept = (len(ids), high.num_layers, widest, high.num_kv_heads, high.dim)
    keys, values = np.zeros(kept, np.float32), np.zeros(kept, np.float32)
    word = np.zeros((len(ids), high.width), np.float32)
    for at in range(0, len(ids), AT_ONCE):
        chosen = order[at : at + AT_ONCE]
        width = -(-int(size[chosen].max()) // SIZE) * SIZE
        tokens = np.zeros((AT_ONCE, width), np.int32)
        for i, text in enumerate(chosen):
            tokens[i, : size[text]] = ids[text]
        length = np.pad(size[chosen], (0, AT_ONCE - len(chosen)), constant_values=1)
        k, v, last = run(model.params, tokens, length)
        keys[chosen, :, :width] = np.asarray(k)[: len(chosen)]
        values[chosen, :, :width] = np.asarray(v)[: len(chosen)]
        word[chosen] = np.asarray(last)[: len(chosen)]
    return Reading(*map(jnp.asarray, (keys, values, size - 1, word)))


def tail(shape: Shape, shared: Frozen) -> Model:
    """The features (N, D) of the items ``inputs["item"]`` (N,), from the upper layers.

    Its parameters are ``blocks``, and ``prompt`` (P, D) if an adapter puts it there: what is added
    to the prompt's states, in units of their root mean square. The prompt stands before the title,
    and the last word alone sees it.
    """

    def lead(params: Params) -> transformer.Cache:
        size = jnp.sqrt(jnp.mean(shared.prompt**2))
        states = shared.prompt + size * params["prompt"]
        empty = transformer.empty_cache(shape, states.shape[0])
        return transformer.extend(shape, {"blocks": params["blocks"]}, states, empty)[1]

    def moved(keys: jax.Array, by: int) -> jax.Array:
        """The keys (layers, S, heads, dim) as they are ``by`` positions further on."""
        flat = keys.reshape(-1, *keys.shape[2:])
        return transformer.rotate(flat, jnp.full(flat.shape[0], by), shape).reshape(keys.shape)

    def apply(params: Params, profile: PyTree, inputs: PyTree) -> jax.Array:
        del profile
        before = lead(params) if "prompt" in params else None

        def one(item: jax.Array) -> jax.Array:
            keys, values, length, word = jax.tree.map(lambda x: x[item], shared.titles)
            if before is not None:
                keys = jnp.concatenate([before.keys, moved(keys, before.keys.shape[1])], axis=1)
                values = jnp.concatenate([before.values, values], axis=1)
                length = length + before.keys.shape[1]
            cache = transformer.empty_cache(shape, 1)
            cache = cache._replace(before=transformer.Cache(keys, values, length))
            blocks = {"blocks": params["blocks"]}
            return transformer.extend(shape, blocks, word[None], cache)[0][0]

        out = jax.vmap(one)(shared.order[inputs["item"]])
        ones = {"scale": jnp.ones(shape.width)}
        normed = transformer.rms_norm(ones, out, shape.norm_eps)
        return (normed - shared.center[None]) / shared.spread

    return Model(lambda key, profile, inputs: {"blocks": shared.blocks}, apply)


def frozen(
    model: Pretrained, texts: Sequence[str], prompt: str, layers: int, top: int
) -> tuple[Shape, Frozen]:
    """The shape of the upper layers, and what all people share.

    Args:
      texts: of the catalogue.
      prompt: the words that a soft prompt starts from.
      layers, top: as `parts_of`.
    """
    low, high = parts_of(model.decoder.shape, layers, top)
    count, width = len(texts), high.width

    @jax.jit
    def begun(params: Params, words: jax.Array) -> tuple[Params, jax.Array]:
        lower, upper = cut(params, low, high)
        return upper["blocks"], transformer.forward(low, lower, params["tokens"][words])

    blocks, states = begun(model.params, jnp.asarray(model.encode(prompt)))
    shared = Frozen(
        blocks,
        read(model, texts, low, high),
        states,
        jnp.zeros(width),
        jnp.ones(()),
        jnp.zeros((count, width)),
        jnp.arange(count),
    )

    @jax.jit
    def plain(shared: Frozen, items: jax.Array) -> jax.Array:
        base = {"blocks": shared.blocks}
        return tail(high, shared).apply(base, (), {"item": items})

    size = min(256, count)
    items = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    found = np.concatenate([np.asarray(plain(shared, row)) for row in items])[:count]
    center = found.mean(axis=0)
    spread = np.sqrt(np.mean(np.sum((found - center) ** 2, axis=1)))
    found = jnp.asarray((found - center) / spread)
    return high, shared._replace(
        center=jnp.asarray(center), spread=jnp.asarray(spread), plain=found
    )
