"""`ChocKale`: what is picked now makes people content or tired later; RecSim's world in JAX.

Items lie between chocolate (kale 0: picked often, engaging at once) and kale (1: less so). What a
user consumes leaves a trace in their satisfaction, and satisfaction multiplies every engagement: a
policy that looks at the next reward alone serves chocolate, and ends with people who are tired.

References: Ie et al., "RecSim: A Configurable Simulation Platform for Recommender Systems", 2019
(long-term satisfaction), re-derived; the constants are ours, chosen so that satisfaction covers its
range, and users may pick nothing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide import slates
from metajax.decide.environment import Environment, Observation
from metajax.types import UserError


class Session(NamedTuple):
    """The state: rounds so far, net exposure to kale, and the candidates' kaleness (A,)."""

    round: jax.Array
    exposure: jax.Array
    kale: jax.Array


@dataclasses.dataclass(frozen=True)
class ChocKale:
    """Sessions of people whose satisfaction remembers what they consumed.

    An action is the number of a slate, of all ``slates.all_slates(candidates, size)``. An item is
    picked by multinomial logit with appeal ``appeal (1 - kale)``, or none with appeal 0. Picked,
    it engages for ``exp(N(s (kale kale_mean + (1 - kale) choc_mean), deviation))``, the reward,
    where ``s = sigmoid(sensitivity exposure)`` is satisfaction, and exposure becomes
    ``memory exposure + 2 (kale - 1/2) + noise``; nothing picked, it fades by ``memory``. The params
    of the environment are the exposure () that a person comes with.

    An observation's profile is ``satisfaction`` and ``left``, the share of the session to come; its
    inputs are ``kale`` (C, size) of every slate, and the candidates' kaleness ``items`` (C, A) in
    every row. ``info`` has the number ``picked``, ``candidates`` where none was, and its ``kale``.

    Attributes:
      candidates: A, items offered in a round, their kaleness uniform.
      size: items of a slate.
      horizon: rounds of a session.
      memory: of exposure, from one round to the next.
      sensitivity: of satisfaction to exposure.
      noise: standard deviation of what else moves exposure.
    """

    candidates: int = 5
    size: int = 2
    horizon: int = 60
    memory: float = 0.9
    sensitivity: float = 0.3
    noise: float = 0.05
    appeal: float = 2.0
    choc_mean: float = 3.0
    kale_mean: float = 2.0
    deviation: float = 0.3

    def __post_init__(self):
        if self.horizon < 1 or not 0 <= self.memory < 1:
            raise UserError("a session has at least 1 round, and memory is from 0 to below 1")
        slates.all_slates(self.candidates, self.size)

    @property
    def slates(self) -> jax.Array:
        """All slates (C, size)."""
        return jnp.asarray(slates.all_slates(self.candidates, self.size))

    def sample(self, key: jax.Array) -> jax.Array:
        """One person: the exposure () they come with."""
        return jax.random.normal(key)

    def satisfaction(self, exposure: jax.Array) -> jax.Array:
        """From 0 to 1."""
        return jax.nn.sigmoid(self.sensitivity * exposure)

    def engagement(self, kale: jax.Array, satisfaction: jax.Array) -> jax.Array:
        """The expected reward of a picked item: the mean of the log-normal."""
        mean = satisfaction * (kale * self.kale_mean + (1.0 - kale) * self.choc_mean)
        return jnp.exp(mean + self.deviation**2 / 2.0)

    def picks(self, kale_A: jax.Array) -> jax.Array:
        """The chance (C, size + 1) of each item of each slate, of none last."""
        return slates.picks(self.appeal * (1.0 - kale_A), self.slates)

    def expected(self, state: Session) -> jax.Array:
        """The expected reward (C,) of every slate, now."""
        worth_A = self.engagement(state.kale, self.satisfaction(state.exposure))
        return slates.of_slates(worth_A, jnp.zeros(()), self.slates, self.picks(state.kale))

    def environment(self) -> Environment:
        """The environment of one person."""
        offered = lambda key: jax.random.uniform(key, (self.candidates,))
        count = len(slates.all_slates(self.candidates, self.size))

        def seen(state: Session) -> Observation:
            left = 1.0 - state.round / self.horizon
            profile = {"satisfaction": self.satisfaction(state.exposure), "left": left}
            items = jnp.broadcast_to(state.kale, (count, self.candidates))
            inputs = {"kale": state.kale[self.slates], "items": items}
            return Observation(profile, inputs, jnp.ones(count))

        def reset(key: jax.Array, params: jax.Array):
            state = Session(jnp.zeros((), jnp.int32), jnp.asarray(params), offered(key))
            return seen(state), state

        def step(key: jax.Array, state: Session, action: jax.Array, params: jax.Array):
            key_pick, key_engage, key_noise, key_next = jax.random.split(key, 4)
            chance_k1 = self.picks(state.kale)[action]
            place = jax.random.categorical(key_pick, jnp.log(chance_k1))
            item = jnp.append(self.slates[action], self.candidates)[place]
            some = item < self.candidates
            kale = jnp.append(state.kale, 0.5)[item]
            content = self.satisfaction(state.exposure)
            mean = content * (kale * self.kale_mean + (1.0 - kale) * self.choc_mean)
            drawn = jnp.exp(mean + self.deviation * jax.random.normal(key_engage))
            reward = jnp.where(some, drawn, 0.0)
            moved = self.noise * jax.random.normal(key_noise) + jnp.where(
                some, 2.0 * kale - 1.0, 0.0
            )
            worth_C = self.expected(state)
            info = {
                "best": worth_C.max(), "expected": worth_C[action], "picked": item,
                "kale": jnp.where(some, kale, 0.0), "satisfaction": content,
            }  # fmt: skip
            later = Session(
                state.round + 1, self.memory * state.exposure + moved, offered(key_next)
            )
            return seen(later), later, reward, later.round >= self.horizon, info

        return Environment(reset, step)


def features(seen: Observation) -> jax.Array:
    """The features (C, D) of every action: its items' kaleness, in order, and the state.

    All are centered: from features above 0 a network whose values grow learns to like large ones,
    whatever the rewards say.
    """
    return with_state(seen, jnp.sort(seen.inputs["kale"], axis=1) - 0.5)


def with_state(seen: Observation, own_NxD: jax.Array) -> jax.Array:
    """The rows (N, D) with the state in two more columns, centered."""
    state = jnp.stack([seen.profile["satisfaction"], seen.profile["left"]]) - 0.5
    return jnp.concatenate([own_NxD, jnp.tile(state, (own_NxD.shape[0], 1))], axis=1)
