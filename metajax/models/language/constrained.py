"""Constrained decoding: beam search over the prefix tree of the items' token rows, and scores.

An item is a row of tokens: its title, or a semantic code. At each step only tokens that continue
some item are allowed, so that whatever is generated is an item of the catalogue, and a beam as wide
as the catalogue scores every item by its likelihood.

What many continuations share, the prompt, is read once (`prompt_cache`); each beam and each
candidate keeps only its own tokens. Parameters, tree and prompt are arguments: jit a function of
them and close over none of them, or hundreds of megabytes become constants of the program.

References: Tay et al., "DSI", NeurIPS 2022; Rajput et al., "TIGER", NeurIPS 2023; De Cao et al.,
"GENRE", ICLR 2021.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models import transformer
from metajax.models.language import decoder as lm
from metajax.models.language.decoder import Decoder
from metajax.models.transformer import Cache
from metajax.types import Params, UserError


class PrefixTree(NamedTuple):
    """A prefix tree (trie) of token rows; node 0 is the root.

    Attributes:
      tokens: (nodes, M) the tokens of the edges to the children, padded with 0.
      child: (nodes, M) the node that each edge leads to, -1 where padded.
      item: (nodes,) the item that ends there, or -1.
      path: (items, depth) the nodes on the way to each item; its last one again where it is short.
    """

    tokens: jax.Array
    child: jax.Array
    item: jax.Array
    path: jax.Array

    @property
    def depth(self) -> int:
        """Number of tokens of the longest item."""
        return self.path.shape[1]


class Prompt(NamedTuple):
    """A text that has been read.

    Attributes:
      cache: of its tokens.
      log_p: (V,) log-probabilities of the token that follows, in float32.
    """

    cache: Cache
    log_p: jax.Array


def prefix_tree(rows: Sequence[Sequence[int]]) -> PrefixTree:
    """The prefix tree of the items' token rows.

    Raises:
      UserError: an item without tokens, two of the same tokens, or one that is a prefix of another:
        end every row with an end token.
    """
    children: list[dict[int, int]] = [{}]
    item, paths = [-1], []
    for index, row in enumerate(rows):
        node, path = 0, []
        for token in row:
            if item[node] >= 0:
                raise UserError(f"item {item[node]} begins item {index}: end every row by a token")
            if token not in children[node]:
                children[node][int(token)] = len(children)
                children.append({})
                item.append(-1)
            node = children[node][int(token)]
            path.append(node)
        if node == 0 or children[node] or item[node] >= 0:
            raise UserError(f"item {index} has no tokens of its own: its row must differ from all")
        item[node] = index
        paths.append(path)
    most, depth = max(len(c) for c in children), max(map(len, paths))
    tokens, child = np.zeros((len(children), most), np.int32), np.full((len(children), most), -1)
    for node, leads in enumerate(children):
        tokens[node, : len(leads)] = list(leads)
        child[node, : len(leads)] = list(leads.values())
    path = np.array([p + p[-1:] * (depth - len(p)) for p in paths], np.int32)
    as_array = lambda x: jnp.asarray(x, jnp.int32)
    return PrefixTree(as_array(tokens), as_array(child), as_array(item), as_array(path))


def prompt_cache(
    decoder: Decoder, params: Params, prompt: jax.Array, length: jax.Array | int
) -> Prompt:
    """A prompt, read once for all that may follow.

    Args:
      prompt: tokens (S,), padded on the right.
      length: how many are real, at least 1.
    """
    cache = lm.start_cache(decoder, params, prompt.shape[0])
    hidden, cache = lm.read_hidden(decoder, params, prompt, cache, length)
    logits = lm.to_logits(decoder, params, hidden[length - 1][None])[0]
    return Prompt(cache, jax.nn.log_softmax(logits.astype(jnp.float32)))


def cut(prompt: Prompt, length: jax.Array | int) -> Cache:
    """The cache of the first ``length`` tokens of a prompt that was read: what follows sees them.

    A soft prompt of an adapter counts among them.
    """
    return prompt.cache._replace(length=jnp.asarray(length, jnp.int32))


def _own(decoder: Decoder, cache: Cache, capacity: int, count: int) -> Cache:
    """Empty caches of ``count`` continuations of what ``cache`` holds; batched, but the length."""
    empty = transformer.empty_cache(decoder.shape, capacity, cache.keys.dtype)
    wide = jnp.zeros((count, *empty.keys.shape), empty.keys.dtype)
    return Cache(wide, wide, empty.length, cache)


def _in_parallel(decoder: Decoder, params: Params):
    """Reads tokens (B, S) of B continuations; their caches differ, and share what is before."""
    axes: Any = Cache(*(0, 0, None), before=None)  # what is shared has no axis of its own
    one = lambda tokens, cache: lm.read_hidden(decoder, params, tokens, cache)
    return jax.vmap(one, (0, axes), (0, axes))


def best_items(
    decoder: Decoder,
    params: Params,
    prompt: jax.Array,
    length: jax.Array | int,
    tree: PrefixTree,
    width: int,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The items that beam search finds after a prompt, best first, and their log-likelihoods.

    Both are (``width``,); where the beam found fewer items, the rest is -1 and -inf. The
    log-likelihood, in nats, is that of all tokens of the item given the prompt. The result is exact
    if ``width`` is at least the number of items. The search ends when all that is left has ended.

    Args:
      prompt: tokens (S,), padded on the right.
      length: how many are real, at least 1.
      width: of the beam.
      allowed: (items,) True for those that may be found, such as unseen ones; None for all.

    References: De Cao et al., "Autoregressive entity retrieval", ICLR 2021.
    """
    read = prompt_cache(decoder, params, prompt, length)
    return search(decoder, params, read, tree, width, allowed)


def search(
    decoder: Decoder,
    params: Params,
    prompt: Prompt,
    tree: PrefixTree,
    width: int,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`best_items` after a prompt that has been read."""
    open_N = jnp.ones(tree.item.shape[0], bool)
    if allowed is not None:
        open_N = jnp.zeros(tree.item.shape[0], bool).at[tree.path].max(allowed[:, None])
    own = _own(decoder, prompt.cache, tree.depth, width)
    read = _in_parallel(decoder, params)

    def goes_on(carry) -> jax.Array:
        step, node, score = carry[:3]
        return (step < tree.depth) & jnp.any(jnp.isfinite(score) & (tree.item[node] < 0))

    def step(carry):
        count, node, score, log_p, keys, values = carry
        beam, node, score, token = _widened(tree, open_N, node, score, log_p, width)
        caches = own._replace(keys=keys[beam], values=values[beam], length=count)
        hidden, caches = read(token[:, None], caches)
        logits = lm.to_logits(decoder, params, hidden[:, 0]).astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits, axis=-1)
        return count + 1, node, score, log_p, caches.keys, caches.values

    first = jnp.broadcast_to(prompt.log_p, (width, prompt.log_p.shape[0]))
    score = jnp.full(width, -jnp.inf).at[0].set(0.0)
    node = jnp.zeros(width, jnp.int32)
    carry = (jnp.int32(0), node, score, first, own.keys, own.values)
    _, node, score, *_ = jax.lax.while_loop(goes_on, step, carry)
    found = jnp.where(jnp.isfinite(score), tree.item[node], -1)
    order = jnp.argsort(-score, stable=True)
    return found[order], score[order]


def _widened(
    tree: PrefixTree,
    open_N: jax.Array,
    node: jax.Array,
    score: jax.Array,
    log_p: jax.Array,
    width: int,
):
    """The best continuations: the beams they come from, their nodes, scores and last tokens.

    A beam that has ended stays as it is, in the first of its places.
    """
    tokens_WxM, child_WxM = tree.tokens[node], tree.child[node]
    on_WxM = score[:, None] + jnp.take_along_axis(log_p, tokens_WxM, axis=1)
    on_WxM = jnp.where((child_WxM >= 0) & open_N[child_WxM], on_WxM, -jnp.inf)
    ended = tree.item[node] >= 0
    first = jnp.arange(tokens_WxM.shape[1]) == 0
    stays_WxM = ended[:, None] & first[None, :]
    on_WxM = jnp.where(stays_WxM, score[:, None], on_WxM)
    child_WxM = jnp.where(stays_WxM, node[:, None], child_WxM)
    flat = on_WxM.reshape(-1)
    if flat.shape[0] < width:
        flat = jnp.pad(flat, (0, width - flat.shape[0]), constant_values=-jnp.inf)
    best, at = jax.lax.top_k(flat, width)
    at = jnp.minimum(at, on_WxM.size - 1)
    beam, place = at // on_WxM.shape[1], at % on_WxM.shape[1]
    return beam, jnp.maximum(child_WxM[beam, place], 0), best, tokens_WxM[beam, place]


class Packed(NamedTuple):
    """K rows of tokens, one after the other in one row of S, padded at its end.

    Attributes:
      tokens: (S,); place: (S,) of each in its row, from 0.
      row: (S,) the number of its row; K in the padding.
      last: (K,) where the last token of each row is.
    """

    tokens: jax.Array
    place: jax.Array
    row: jax.Array
    last: jax.Array


def packed(rows: Sequence[Sequence[int]], size: int = 64) -> Packed:
    """Rows of tokens, none of them empty, in one whose length is a multiple of ``size``."""
    lengths = np.array([len(row) for row in rows])
    last = np.cumsum(lengths) - 1
    pad = -int(lengths.sum()) % size
    tokens = np.concatenate([*rows, np.zeros(pad, np.int64)])
    place = np.concatenate([*map(np.arange, lengths), np.arange(pad)])
    row = np.concatenate([np.repeat(np.arange(len(rows)), lengths), np.full(pad, len(rows))])
    return Packed(*(jnp.asarray(x, jnp.int32) for x in (tokens, place, row, last)))


def after(decoder: Decoder, params: Params, cache: Cache, rows: Packed) -> jax.Array:
    """The last hidden vectors (S, D) of rows that each continue one text, which is read once.

    Args:
      cache: of the text, of `prompt_cache` or `cut`.
    """
    x = params["tokens"][rows.tokens]
    return transformer.continue_in_one_row(decoder.shape, params, x, rows.place, rows.row, cache)


def log_likelihoods(
    decoder: Decoder, params: Params, prompt: Prompt, rows: Packed, block: int = 64
) -> jax.Array:
    """The log-likelihoods (K,), in nats, of K rows of tokens, each right after the same prompt.

    Args:
      block: positions whose logits are in memory at once.
    """
    hidden = after(decoder, params, prompt.cache, rows)
    following = jnp.roll(rows.tokens, -1)
    size = -(-hidden.shape[0] // block) * block - hidden.shape[0]
    cut_up = lambda x: jnp.pad(x, [(0, size)] + [(0, 0)] * (x.ndim - 1)).reshape(
        -1, block, *x.shape[1:]
    )

    def one(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, following = given
        logits = lm.to_logits(decoder, params, hidden).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, following[:, None], axis=1)[:, 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    told = jax.lax.map(one, (cut_up(hidden), cut_up(following))).reshape(-1)
    told = jnp.roll(told[: hidden.shape[0]], 1)  # of each token, by what stands before it
    told = jnp.where(rows.place == 0, prompt.log_p[rows.tokens], told)
    return jax.ops.segment_sum(told, rows.row, rows.last.shape[0] + 1)[:-1]


def log_likelihood(
    decoder: Decoder, params: Params, tokens: jax.Array, judged: jax.Array
) -> jax.Array:
    """The log-likelihood (), in nats, of the tokens (S,) where ``judged`` (S,) is 1."""
    log_p = jax.nn.log_softmax(lm.logits(decoder, params, tokens[:-1]).astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_p, tokens[1:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(judged[1:] > 0, chosen, 0.0))
