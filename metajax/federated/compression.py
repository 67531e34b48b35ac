"""Smaller uploads: the largest entries, eight bits, low rank; and a memory of what was left out.

A `Compression` turns an update into a message of arrays and back. Alone it loses what it leaves
out. `with_feedback` keeps that on the client and adds it to the next update, so that over time the
server gets everything: the sum of what it decodes is the sum of the updates, minus the memory.

References: Seide et al., Interspeech 2014 (error feedback); Lin et al., ICLR 2018 (top-k); Vogels
et al., NeurIPS 2019 (low rank, PowerSGD); Karimireddy et al., ICML 2019 (why feedback is needed).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax import precision
from metajax.types import PyTree, UserError

BLOCK = 256
"""Entries that share a scale of eight-bit numbers."""


class Compression(NamedTuple):
    """How an update is sent.

    Attributes:
      encode: update -> message, a tree of arrays.
      decode: (message, a tree shaped as the update) -> the update as the server sees it.
    """

    encode: Callable[[PyTree], PyTree]
    decode: Callable[[PyTree, PyTree], PyTree]


def whole() -> Compression:
    """The update as it is."""
    return Compression(lambda update: update, lambda message, like: message)


def top_k(share: float) -> Compression:
    """The entries of largest size, with their places: 8 bytes each.

    Args:
      share: of the entries that are sent, above 0 and up to 1; at least one is.

    Raises:
      UserError: the share is outside its range.
    """
    if not 0 < share <= 1:
        raise UserError(f"top-k sends a share of the entries, above 0 and up to 1, not {share:g}")

    def encode(update: PyTree) -> PyTree:
        flat, _ = ravel_pytree(update)
        count = max(1, math.ceil(share * flat.size))
        _, place = jax.lax.top_k(jnp.abs(flat), count)
        return {"place": place.astype(jnp.int32), "value": flat[place]}

    def decode(message: PyTree, like: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(like)
        return unravel(jnp.zeros_like(flat).at[message["place"]].set(message["value"]))

    return Compression(encode, decode)


def eight_bits() -> Compression:
    """Every entry as a byte: -127 to 127 times a scale that `BLOCK` entries share."""

    def encode(update: PyTree) -> PyTree:
        flat, _ = ravel_pytree(update)
        blocks = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
        scale = jnp.max(jnp.abs(blocks), axis=1) / 127
        whole_number = jnp.round(blocks / jnp.where(scale > 0, scale, 1.0)[:, None])
        return {"byte": whole_number.astype(jnp.int8).reshape(-1)[: flat.size], "scale": scale}

    def decode(message: PyTree, like: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(like)
        scale = jnp.repeat(message["scale"], BLOCK)[: flat.size]
        return unravel(message["byte"].astype(flat.dtype) * scale)

    return Compression(encode, decode)


def low_rank(rank: int) -> Compression:
    """Each matrix (M, N) as two factors of ``rank`` columns; vectors, and small matrices, whole.

    One step of the power method from a fixed random start, as PowerSGD takes it.
    """

    @precision.highest
    def factors(leaf: jax.Array) -> PyTree:
        if not _shrinks(leaf, rank):
            return {"whole": leaf}
        start = jax.random.normal(jax.random.key(leaf.shape[1]), (leaf.shape[1], rank))
        left, _ = jnp.linalg.qr(leaf @ start.astype(leaf.dtype))
        return {"left": left, "right": leaf.T @ left}

    @precision.highest
    def product(message: PyTree) -> jax.Array:
        return message["whole"] if "whole" in message else message["left"] @ message["right"].T

    def decode(message: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda _, part: product(part), like, message)

    return Compression(lambda update: jax.tree.map(factors, update), decode)


def with_feedback(
    compression: Compression,
) -> Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]:
    """(update, memory) -> (message, memory): what was left out before is sent along now.

    The memory is shaped as the update and starts at 0; it stays on the client.
    """

    def send(update: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        wanted = jax.tree.map(jnp.add, update, memory)
        message = compression.encode(wanted)
        arrives = compression.decode(message, wanted)
        return message, jax.tree.map(jnp.subtract, wanted, arrives)

    return send


def num_bytes(message: PyTree) -> int:
    """The bytes of a message's arrays, or of parameters; framing is not counted."""
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(message))


def message_bytes(compression: Compression, params: PyTree) -> int:
    """The bytes that an upload takes; nothing is computed."""
    return num_bytes(jax.eval_shape(compression.encode, params))


def _shrinks(leaf: jax.Array, rank: int) -> bool:
    return leaf.ndim == 2 and rank * sum(leaf.shape) < leaf.size
