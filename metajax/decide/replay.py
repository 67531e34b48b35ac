"""Replay of real people: the reward of an action is what the person really said.

That works without a model of anybody where people have rated almost everything, as in jester5k and
sushi10. Held-out people are the tasks.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.sources.files import arrays, dataset_folder, required
from metajax.data.table import Interactions
from metajax.decide.environment import Environment, Observation
from metajax.types import PyTree, UserError

MOST_CELLS = 50_000_000


class Person(NamedTuple):
    """All that is known about what a person thinks of the V items.

    Attributes:
      rating: (V,) in the data set's unit; 0 where unknown.
      known: (V,) 1 where the person has rated the item.
    """

    rating: jax.Array
    known: jax.Array


class Left(NamedTuple):
    """The state: rounds so far, and (V,) 1 for the items that may still be shown."""

    round: jax.Array
    item: jax.Array


def people(table: Interactions) -> Person:
    """Everybody in a log: leaves (U, V).

    Raises:
      UserError: too many cells to be laid out densely.
    """
    shape = (table.num_users, table.num_items)
    if shape[0] * shape[1] > MOST_CELLS:
        raise UserError(
            f"{table.name}: {shape[0]:,} people x {shape[1]:,} items are too many to replay; "
            "choose a densely rated log, such as jester5k"
        )
    rating, known = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    rating[table.user, table.item], known[table.user, table.item] = table.label, 1.0
    return Person(jnp.asarray(rating), jnp.asarray(known))


def sushi(folder: Path | str) -> Person:
    """The 5,000 people of sushi10 in random order: leaves (5000, 10), ratings 1 (best) to 0.

    References: T. Kamishima, "Nantonac collaborative filtering", KDD 2003.
    """
    path = required(dataset_folder(folder, "sushi10"), "sushi10.npz", "sushi10")
    order = arrays(path, ["order"])["order"].astype(int)
    order = order[np.random.default_rng(0).permutation(len(order))]  # sorted by frequency as stored
    place = np.argsort(order, axis=1)
    rating = (1.0 - place / (order.shape[1] - 1)).astype(np.float32)
    return Person(jnp.asarray(rating), jnp.ones(rating.shape))


def replay(columns: PyTree, horizon: int, *, again: bool = False) -> Environment:
    """One item a round, rewarded by the rating of a `Person`, who is the environment's params.

    An item that the person has not rated is masked, and so is one that was shown, unless ``again``.
    The episode ends after ``horizon`` rounds or when nothing is left.

    Args:
      columns: leaves (V, ...), what is known about each item; the observation's inputs.
    """

    def seen(state: Left) -> Observation:
        return Observation((), columns, state.item)

    def reset(key: jax.Array, params: Person):
        state = Left(jnp.zeros((), jnp.int32), params.known)
        return seen(state), state

    def step(key: jax.Array, state: Left, action: jax.Array, params: Person):
        reward = params.rating[action]
        best = jnp.max(jnp.where(state.item > 0, params.rating, -jnp.inf))
        info = {"best": best, "expected": reward, "item": action}
        left = state.item if again else state.item.at[action].set(0.0)
        state = Left(state.round + 1, left)
        done = (state.round >= horizon) | (left.sum() == 0)
        return seen(state), state, reward, done, info

    return Environment(reset, step)


class Menu(NamedTuple):
    """The state of `slates`: the round, (V,) 1 for what is on the menu, and the last answer."""

    round: jax.Array
    item: jax.Array
    slate: jax.Array
    chosen: jax.Array


def slates(columns: PyTree, size: int, menu: int, horizon: int) -> Environment:
    """A slate a round, from which a `Person` chooses what they like best; its rating is the reward.

    An action is (size,) different items; which of them was chosen stands in the next observation's
    profile: ``slate`` (size,) and ``chosen``, the item, both -1 before the first round. With a
    ``size`` of 2 a round is a duel. ``menu`` of the V items, drawn in every round, are on offer.
    An item off the menu, or one twice in a slate, cannot be chosen; if none can, the reward is 0.
    """
    num_items = jax.tree.leaves(columns)[0].shape[0]
    if not 1 <= size <= menu <= num_items:
        raise UserError(
            f"a slate of {size} from a menu of {menu} of {num_items} items: give 1 <= size <= menu"
        )

    def offered(key: jax.Array, known: jax.Array) -> jax.Array:
        lot = jax.random.uniform(key, (num_items,)) + (1 - known)
        return (jnp.argsort(jnp.argsort(lot)) < menu) * known

    def seen(state: Menu) -> Observation:
        return Observation({"slate": state.slate, "chosen": state.chosen}, columns, state.item)

    def reset(key: jax.Array, params: Person):
        nothing = jnp.full(size, -1, jnp.int32)
        state = Menu(jnp.zeros((), jnp.int32), offered(key, params.known), nothing, nothing[0])
        return seen(state), state

    def step(key: jax.Array, state: Menu, action: jax.Array, params: Person):
        value = jnp.where(state.item[action] > 0, params.rating[action], -jnp.inf)
        top = value.max()
        found = jnp.isfinite(top)
        reward = jnp.where(found, top, 0.0)
        chosen = jnp.where(found, action[jnp.argmax(value)], -1).astype(jnp.int32)
        best = jnp.max(jnp.where(state.item > 0, params.rating, -jnp.inf))
        info = {"best": best, "expected": reward}
        item = offered(key, params.known)
        state = Menu(state.round + 1, item, action.astype(jnp.int32), chosen)
        return seen(state), state, reward, state.round >= horizon, info

    return Environment(reset, step)
