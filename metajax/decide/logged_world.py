"""`LoggedWorld`: contexts, rewards and two policies of which everything is known."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import precision
from metajax.decide.logged import Logged


@dataclasses.dataclass(frozen=True)
class LoggedWorld:
    """A finite world to test off-policy estimators in: the value of a policy is a sum.

    One of ``num_contexts`` unit vectors comes with equal chance; an action earns 1 with a
    probability that is linear in the context, so that `reward_model.ridge` can be right, else 0.
    The policy that logs prefers what a noisy copy of the rewards suggests, the target what the
    rewards do: the more ``shift``, the larger the weights.

    Attributes:
      num_contexts, num_actions, dim: X, A and the length of a context.
      shift: how sharply the target prefers.
      logs: how sharply the policy that logs prefers.
      seed: of the world.
    """

    num_contexts: int = 50
    num_actions: int = 10
    dim: int = 5
    shift: float = 12.0
    logs: float = 8.0
    seed: int = 0

    @property
    def contexts(self) -> jax.Array:
        """The contexts (X, dim), of length 1."""
        drawn = jax.random.normal(jax.random.key(self.seed), (self.num_contexts, self.dim))
        return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)

    def _linear(self, part: int) -> jax.Array:
        """Numbers (X, A) between -.45 and .45, linear in the contexts."""
        key = jax.random.fold_in(jax.random.key(self.seed), part)
        drawn = jax.random.normal(key, (self.num_actions, self.dim))
        told = precision.highest(jnp.matmul)(self.contexts, drawn.T)
        return 0.45 * told / jnp.abs(told).max()

    @property
    def chance(self) -> jax.Array:
        """The expected reward (X, A)."""
        return 0.5 + self._linear(1)

    @property
    def logging(self) -> jax.Array:
        """The policy (X, A) that writes the log; none of its probabilities is below .01."""
        noisy = 0.5 * self._linear(1) + 0.5 * self._linear(2)
        chance = jax.nn.softmax(self.logs * noisy, axis=1)
        return 0.01 + (1.0 - 0.01 * self.num_actions) * chance

    @property
    def target(self) -> jax.Array:
        """The policy (X, A) in question."""
        return jax.nn.softmax(self.shift * self._linear(1), axis=1)

    def value(self, policy_XxA: jax.Array) -> jax.Array:
        """The expected reward () of a policy, exactly."""
        return (policy_XxA * self.chance).sum(axis=1).mean()

    def sample(self, key: jax.Array, rounds: int) -> tuple[Logged, jax.Array]:
        """A log, and the number of the context (rounds,) of each round."""
        key_context, key_action, key_reward = jax.random.split(key, 3)
        index = jax.random.randint(key_context, (rounds,), 0, self.num_contexts)
        table = self.logging
        action = jax.random.categorical(key_action, jnp.log(table[index]))
        chance = self.chance[index, action]
        reward = jax.random.bernoulli(key_reward, chance).astype(chance.dtype)
        return Logged(self.contexts[index], action, table[index, action], reward), index
