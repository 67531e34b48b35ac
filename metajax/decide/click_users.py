"""`ClickUsers`: a world of users who click by a logistic law, whose best action is known."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.decide.environment import Environment, Observation
from metajax.types import UserError


class Shown(NamedTuple):
    """The state: the round from 0, and the items (A,) that are offered now."""

    round: jax.Array
    item: jax.Array


@dataclasses.dataclass(frozen=True)
class ClickUsers:
    """Users who click with probability ``sigmoid(bias + strength * v . w_u)``.

    As in `LatentUsers`, ``w_u = w_bar + tau eps`` and items are ``v ~ N(0, I) / sqrt(dim)``. In
    every round some items of a fixed catalogue are offered, drawn without replacement; one is
    shown, and the reward is 1 for a click, else 0. The params of the environment are ``w_u``; an
    observation's inputs are ``item`` (A,), its number, and ``vector`` (A, dim).

    Attributes:
      dim: of items and users.
      tau: standard deviation of the users around ``w_bar``; 0: all users are the same.
      num_items: of the catalogue.
      candidates: A, items that are offered in a round.
      horizon: rounds of an episode.
      bias: logit of an average item.
      strength: factor on taste.
      seed: of catalogue and ``w_bar``.
    """

    dim: int = 8
    tau: float = 1.0
    num_items: int = 100
    candidates: int = 20
    horizon: int = 20
    bias: float = -1.0
    strength: float = 1.5
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.candidates <= self.num_items:
            raise UserError(
                f"{self.candidates} candidates of {self.num_items} items: give 1 to all of them"
            )
        if self.horizon < 1 or self.dim < 1:
            raise UserError("an episode has at least 1 round and a vector 1 number")

    @property
    def mean_weights(self) -> jax.Array:
        """``w_bar`` (dim,)."""
        return jax.random.normal(jax.random.key(self.seed), (self.dim,))

    @property
    def vectors(self) -> jax.Array:
        """The catalogue (num_items, dim)."""
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        return jax.random.normal(key, (self.num_items, self.dim)) / self.dim**0.5

    def sample(self, key: jax.Array) -> jax.Array:
        """One user's weights ``w_u`` (dim,)."""
        return self.mean_weights + self.tau * jax.random.normal(key, (self.dim,))

    @precision.highest
    def chance(self, vector_AxD: jax.Array, w: jax.Array) -> jax.Array:
        """The probability (A,) of a click on each item by the user w."""
        return jax.nn.sigmoid(self.bias + self.strength * vector_AxD @ w)

    def environment(self) -> Environment:
        """The environment of one user."""
        vectors_VxD = self.vectors

        def offered(key: jax.Array) -> jax.Array:
            lot = jax.random.uniform(key, (self.num_items,))
            return jax.lax.top_k(lot, self.candidates)[1]  # a draw without replacement

        def seen(state: Shown) -> Observation:
            inputs = {"item": state.item, "vector": vectors_VxD[state.item]}
            return Observation((), inputs, jnp.ones(self.candidates))

        def reset(key: jax.Array, params: jax.Array):
            state = Shown(jnp.zeros((), jnp.int32), offered(key))
            return seen(state), state

        def step(key: jax.Array, state: Shown, action: jax.Array, params: jax.Array):
            key_click, key_next = jax.random.split(key)
            chance_A = self.chance(vectors_VxD[state.item], params)
            reward = (jax.random.uniform(key_click) < chance_A[action]).astype(chance_A.dtype)
            item = state.item[action]
            info = {"best": chance_A.max(), "expected": chance_A[action], "item": item}
            state = Shown(state.round + 1, offered(key_next))
            return seen(state), state, reward, state.round >= self.horizon, info

        return Environment(reset, step)
