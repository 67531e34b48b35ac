"""Altered histories: cropped, masked or reordered rows of items, for contrastive learning.

Each takes a row (L,) whose first ``length`` () places are real and the others 0, and gives such a
row and its length. Pure; ``vmap`` for many.

References: Xie et al., "Contrastive learning for sequential recommendation" (CL4SRec), ICDE 2022.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

View = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(items (L,), length (), key) -> (items (L,), length ()) of a view."""


def _window(length: jax.Array, share: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a stretch of a share of the real places begins, at random, and how long it is."""
    size = jnp.clip(jnp.floor(share * length).astype(jnp.int32), 1, jnp.maximum(length, 1))
    first = jax.random.randint(key, (), 0, jnp.maximum(length - size, 0) + 1)
    return first, size


def crop(share: float = 0.6) -> View:
    """A stretch of the history, a share of its length and one item at least."""

    def view(items: jax.Array, length: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, size = _window(length, share, key)
        size = jnp.minimum(size, length)
        place = jnp.arange(items.shape[0])
        moved = items[jnp.minimum(first + place, items.shape[0] - 1)]
        return jnp.where(place < size, moved, 0), size

    return view


def mask(token: int, share: float = 0.3) -> View:
    """The history in which each item is replaced by ``token``, with the probability ``share``."""

    def view(items: jax.Array, length: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        real = jnp.arange(items.shape[0]) < length
        hidden = real & jax.random.bernoulli(key, share, items.shape)
        return jnp.where(hidden, token, items), length

    return view


def reorder(share: float = 0.6) -> View:
    """The history in which a stretch of that share of its length is in random order."""

    def view(items: jax.Array, length: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_place, key_order = jax.random.split(key)
        first, size = _window(length, share, key_place)
        place = jnp.arange(items.shape[0])
        inside = (place >= first) & (place < first + size)
        lottery = jax.random.uniform(key_order, items.shape)
        # Places outside keep theirs; those inside are sorted by lot between their neighbors.
        draw = jnp.where(inside, first + size * lottery, place.astype(lottery.dtype))
        return items[jnp.argsort(draw)], length

    return view


def one_of(views: tuple[View, ...]) -> View:
    """One of the views, each as likely."""

    def view(items: jax.Array, length: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_which, key_view = jax.random.split(key)
        which = jax.random.randint(key_which, (), 0, len(views))
        return jax.lax.switch(which, views, items, length, key_view)

    return view
