"""Constrained decoding: beam search over the prefix tree of the items' token rows.

An item is a row of tokens: its title, or a semantic code. At each step only tokens that continue
some item are allowed, so that whatever is generated is an item of the catalogue, and a beam as wide
as the catalogue scores every item by its likelihood.

References: Tay et al., "DSI", NeurIPS 2022; Rajput et al., "TIGER", NeurIPS 2023; De Cao et al.,
"GENRE", ICLR 2021.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models.language import decoder as lm
from metajax.models.language.decoder import Decoder
from metajax.types import Params, UserError


class PrefixTree(NamedTuple):
    """A prefix tree (trie) of token rows; node 0 is the root.

    Attributes:
      tokens: (nodes, M) the tokens of the edges to the children, padded with 0.
      child: (nodes, M) the node that each edge leads to, -1 where padded.
      item: (nodes,) the item that ends there, or -1.
      depth: number of tokens of the longest item.
    """

    tokens: jax.Array
    child: jax.Array
    item: jax.Array
    depth: int


def prefix_tree(rows: Sequence[Sequence[int]]) -> PrefixTree:
    """The prefix tree of the items' token rows.

    Raises:
      UserError: an item without tokens, two of the same tokens, or one that is a prefix of another:
        end every row with an end token.
    """
    children: list[dict[int, int]] = [{}]
    item = [-1]
    for index, row in enumerate(rows):
        node = 0
        for token in row:
            if item[node] >= 0:
                raise UserError(f"item {item[node]} begins item {index}: end every row by a token")
            if token not in children[node]:
                children[node][int(token)] = len(children)
                children.append({})
                item.append(-1)
            node = children[node][int(token)]
        if node == 0 or children[node] or item[node] >= 0:
            raise UserError(f"item {index} has no tokens of its own: its row must differ from all")
        item[node] = index
    most = max(len(c) for c in children)
    tokens, child = np.zeros((len(children), most), np.int32), np.full((len(children), most), -1)
    for node, leads in enumerate(children):
        tokens[node, : len(leads)] = list(leads)
        child[node, : len(leads)] = list(leads.values())
    depth = max(len(row) for row in rows)
    return PrefixTree(jnp.asarray(tokens), jnp.asarray(child, jnp.int32), jnp.asarray(item), depth)


def best_items(
    decoder: Decoder,
    params: Params,
    prompt: jax.Array,
    length: jax.Array | int,
    tree: PrefixTree,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    """The items that beam search finds after a prompt, best first, and their log-likelihoods.

    Both are (``width``,); where the beam found fewer items, the rest is -1 and -inf. The
    log-likelihood, in nats, is that of all tokens of the item given the prompt. The result is exact
    if ``width`` is at least the number of items.

    Args:
      prompt: tokens (S,), padded on the right.
      length: how many are real, at least 1.
      width: of the beam.

    References: De Cao et al., "Autoregressive entity retrieval", ICLR 2021.
    """
    cache = lm.start_cache(decoder, params, prompt.shape[0] + tree.depth)
    rows, cache = lm.read(decoder, params, prompt, cache, length)
    logits = jnp.broadcast_to(rows[length - 1], (width, rows.shape[1]))
    caches = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), cache)
    node = jnp.zeros(width, jnp.int32)
    score = jnp.full(width, -jnp.inf).at[0].set(0.0)
    read_one = jax.vmap(lambda token, cache: lm.read(decoder, params, token[None], cache))

    def step(carry, _):
        node, score, logits, caches = carry
        beam, node, score, token = _widened(tree, node, score, logits, width)
        caches = jax.tree.map(lambda x: x[beam], caches)
        out, caches = read_one(token, caches)
        return (node, score, out[:, 0], caches), None

    carry = (node, score, logits, caches)
    (node, score, _, _), _ = jax.lax.scan(step, carry, length=tree.depth)
    found = jnp.where(jnp.isfinite(score), tree.item[node], -1)
    order = jnp.argsort(-score, stable=True)
    return found[order], score[order]


def _widened(tree: PrefixTree, node: jax.Array, score: jax.Array, logits: jax.Array, width: int):
    """The best continuations: the beams they come from, their nodes, scores and last tokens.

    A beam that has ended stays as it is, in the first of its places.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    tokens_WxM, child_WxM = tree.tokens[node], tree.child[node]
    on_WxM = score[:, None] + jnp.take_along_axis(log_p, tokens_WxM, axis=1)
    on_WxM = jnp.where(child_WxM >= 0, on_WxM, -jnp.inf)
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


def log_likelihood(
    decoder: Decoder, params: Params, tokens: jax.Array, judged: jax.Array
) -> jax.Array:
    """The log-likelihood (), in nats, of the tokens (S,) where ``judged`` (S,) is 1."""
    log_p = jax.nn.log_softmax(lm.logits(decoder, params, tokens[:-1]).astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_p, tokens[1:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(judged[1:] > 0, chosen, 0.0))
