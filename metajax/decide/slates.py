"""Slates: which of the shown items a user picks, and SlateQ, the value of a slate from its items'.

A user picks one item of a slate, or nothing. SlateQ learns what each *item* is worth once it is
picked, in a state; the slate's value is a mean over what may be picked. So C(A, k) slates need
A + 1 values.

References: Ie et al., IJCAI 2019 (SlateQ).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import UserError

MOST = 5_000
"""Slates that are enumerated, at most."""


def all_slates(num_items: int, size: int) -> np.ndarray:
    """Every slate (C, size) of different items, each in ascending order.

    Raises:
      UserError: there are none, or more than can be tried one by one.
    """
    if not 1 <= size <= num_items:
        raise UserError(f"a slate of {size} from {num_items} items: give 1 to all of them")
    slates = np.array(
        list(itertools.islice(itertools.combinations(range(num_items), size), MOST + 1))
    )
    if len(slates) > MOST:
        raise UserError(
            f"more than {MOST:,} slates of {size} from {num_items} items; offer fewer candidates"
        )
    return slates


def picks(
    appeal_A: jax.Array, slates_Cxk: jax.Array, nothing: float | jax.Array = 0.0
) -> jax.Array:
    """The chance (C, k + 1) that each item of each slate is picked, and last, that none is.

    Multinomial logit: proportional to ``exp(appeal)``.

    Args:
      appeal_A: of each candidate.
      nothing: appeal of picking none.
    """
    shown_Cxk = appeal_A[slates_Cxk]
    none_Cx1 = jnp.full((shown_Cxk.shape[0], 1), nothing, shown_Cxk.dtype)
    return jax.nn.softmax(jnp.concatenate([shown_Cxk, none_Cx1], axis=1), axis=1)


def of_slates(
    value_A: jax.Array, value_none: jax.Array, slates_Cxk: jax.Array, picks_Cxk1: jax.Array
) -> jax.Array:
    """The value (C,) of each slate: ``sum_i P(i | slate) value(i)``, picking none included."""
    shown_Cxk = value_A[slates_Cxk]
    none_Cx1 = jnp.broadcast_to(value_none, (shown_Cxk.shape[0], 1))
    return (picks_Cxk1 * jnp.concatenate([shown_Cxk, none_Cx1], axis=1)).sum(axis=1)


class ItemValues(NamedTuple):
    """Values of the items of a state if they are picked, (A,), and of picking none, ()."""

    item: jax.Array
    none: jax.Array
