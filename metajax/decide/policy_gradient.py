"""Learning a policy by the gradient of what it earns, from its own decisions or from a log.

What is maximized is a scalar whose ``jax.grad`` is the policy gradient; negate it for a minimizer.
Log probabilities must be differentiable functions of the parameters: those of `environment.play`
are, where the policy closes over its parameters.

References: Williams, Machine Learning 1992; Mnih et al., ICML 2016 (advantage actor-critic); Chen
et al., WSDM 2019 (top-K off-policy correction).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide.logged import Logged
from metajax.decide.off_policy import of_actions


def to_go(reward_T: jax.Array, discount: float) -> jax.Array:
    """The discounted rewards (T,) from each round on."""
    last = jnp.zeros((), reward_T.dtype)
    add = lambda later, reward: (reward + discount * later,) * 2
    return jax.lax.scan(add, last, reward_T, reverse=True)[1]


def reinforce(log_chance_ExT: jax.Array, reward_ExT: jax.Array, discount: float = 1.0) -> jax.Array:
    """REINFORCE with a baseline: () per episode, of E episodes of T rounds.

    The baseline of a round is the mean reward to go of the *other* episodes in that round, which
    depends on nothing that was drawn in this one: the gradient stays unbiased.

    Args:
      discount: of later rewards; 0 where an action has no effect beyond its round.
    """
    told_ExT = jax.vmap(lambda reward: to_go(reward, discount))(reward_ExT)
    advantage = jax.lax.stop_gradient(told_ExT - leave_one_out(told_ExT))
    return (log_chance_ExT * advantage).sum(axis=1).mean()


def leave_one_out(values_ExT: jax.Array) -> jax.Array:
    """The mean (E, T) of the other episodes; 0 where there is no other."""
    others = values_ExT.shape[0] - 1
    return (values_ExT.sum(axis=0, keepdims=True) - values_ExT) / max(others, 1) * (others > 0)


class ActorCritic(NamedTuple):
    """What advantage actor-critic maximizes and minimizes, each ().

    Attributes:
      actor: to be maximized.
      critic: mean squared error of the values, to be minimized.
      entropy: mean entropy of the policy, to be added with a small factor.
    """

    actor: jax.Array
    critic: jax.Array
    entropy: jax.Array


def actor_critic(
    chance_TxA: jax.Array,
    action_T: jax.Array,
    value_T: jax.Array,
    reward_T: jax.Array,
    discount: float,
    last_value: jax.Array | float = 0.0,
) -> ActorCritic:
    """Advantage actor-critic on T rounds of one user.

    Args:
      chance_TxA: the policy's probabilities; value_T: what the critic expects from each round on.
      last_value: what it expects behind the last round; 0 if the session ends there.
    """
    ended = jnp.concatenate([reward_T, jnp.atleast_1d(jnp.asarray(last_value, reward_T.dtype))])
    target = jax.lax.stop_gradient(to_go(ended, discount)[:-1])
    log_chance = jnp.log(of_actions(chance_TxA, action_T))
    advantage = target - jax.lax.stop_gradient(value_T)
    surely = jnp.maximum(chance_TxA, jnp.finfo(chance_TxA.dtype).tiny)
    entropy = -(chance_TxA * jnp.log(surely)).sum(axis=1).mean()
    return ActorCritic((log_chance * advantage).mean(), ((value_T - target) ** 2).mean(), entropy)


def appears(chance: jax.Array, k: int) -> jax.Array:
    """The probability that an action is among k drawn with replacement: ``1 - (1 - pi)^k``."""
    return 1.0 - (1.0 - chance) ** k


def top_k(chance_NxA: jax.Array, logged: Logged, k: int = 1, clip: float = jnp.inf) -> jax.Array:
    """Off-policy REINFORCE for slates of k, corrected for who wrote the log: () a round.

    The gradient of a round is ``pi / beta * k (1 - pi)^(k - 1) * r * grad log pi``: in expectation
    that of ``sum_a r(a) * appears(pi(a), k)``. Once an action is all but sure to be in the slate,
    nothing pulls at it any more, and others get their share; with k = 1 the best takes everything.

    Args:
      chance_NxA: probabilities of the policy that learns, differentiable.
      logged: the log, with the propensities ``beta``.
      clip: largest weight ``pi / beta``.
    """
    chance = of_actions(chance_NxA, logged.action)
    weight = jnp.minimum(chance / logged.propensity, clip)
    factor = k * (1.0 - chance) ** (k - 1)
    scale = jax.lax.stop_gradient(weight * factor)
    return (scale * logged.reward * jnp.log(chance)).mean()
