"""DiCE: a scalar of drawn decisions whose derivatives of every order are those of what is expected.

A drawn action hides how likely it was: the reward of a round is a number, and nothing in it is
differentiable. ``box(x)`` is 1, and its derivative is itself times that of x: a reward times the
box of the log probabilities it depends on has the right gradient, and that gradient, being made of
boxes again, the right derivative in turn. Meta-learning needs the second one: a user's policy is a
gradient step, and the outer gradient goes through it.

References: Foerster et al., ICML 2018 (DiCE); Finn et al., ICML 2017, section 5.3 (MAML-RL);
Stadie et al., 2018 (E-MAML); Rothfuss et al., ICLR 2019 (which terms are biased, and why).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.decide.environment import Log
from metajax.decide.policy_gradient import leave_one_out, to_go
from metajax.types import PyTree


def box(x: jax.Array) -> jax.Array:
    """1, with the derivative of x: ``exp(x - stop_gradient(x))``."""
    return jnp.exp(x - jax.lax.stop_gradient(x))


def no_box(x: jax.Array) -> jax.Array:
    """1 plus x less its value: right once, but the second derivative lacks the square of the first.

    A control: with it, an outer gradient misses how the inner step's own gradient depends on which
    actions are drawn.
    """
    return 1.0 + x - jax.lax.stop_gradient(x)


def objective(
    log_chance_ExT: jax.Array,
    reward_ExT: jax.Array,
    discount: float = 1.0,
    baseline: bool = True,
    operator: Callable[[jax.Array], jax.Array] = box,
) -> jax.Array:
    """The mean return () of E episodes of T rounds, differentiable any number of times.

    Args:
      log_chance_ExT: log probabilities of the actions taken, differentiable.
      discount: how much of an earlier decision's credit is left a round later; 1 for what the
        whole past may have caused, 0 where a reward depends on the decision of its round alone.
      baseline: take off the mean reward to go of the other episodes. It adds terms whose value is
        0 and whose derivatives have expectation 0, and makes these far less noisy.
      operator: `box`; `no_box` is a control.
    """
    first = jnp.zeros(log_chance_ExT.shape[0], log_chance_ExT.dtype)
    add = lambda past, now: (discount * past + now,) * 2
    caused_ExT = jax.lax.scan(add, first, log_chance_ExT.T)[1].T
    total = (operator(caused_ExT) * reward_ExT).sum(axis=1).mean()
    if baseline:
        told_ExT = jax.vmap(lambda reward: to_go(reward, discount))(reward_ExT)
        mean_ExT = jax.lax.stop_gradient(leave_one_out(told_ExT))
        total += ((1.0 - operator(log_chance_ExT)) * mean_ExT).sum(axis=1).mean()
    return total


def of_logs(logs: Log, reward: jax.Array | None = None, **options: Any) -> jax.Array:
    """`objective` of logs with leaves (E, T).

    Args:
      reward: (E, T) in the place of those logged, for instance shuffled ones.
    """
    reward = logs.reward if reward is None else reward
    return objective(jnp.log(logs.propensity), reward * logs.mask, **options)


def step(
    params: PyTree,
    rate: jax.Array,
    play: Callable[[PyTree, jax.Array], Log],
    key: jax.Array,
    shuffle: jax.Array | None = None,
    **options: Any,
) -> tuple[PyTree, Log]:
    """The parameters after one policy-gradient step on a user's episodes, and these.

    The step itself is differentiable: its derivative has the curvature of the *expected* return.

    Args:
      play: (params, key) -> logs with leaves (E, T), whose propensities depend on params.
      shuffle: (E, T) numbers whose order deals the rewards to other rounds, the control.
      options: of `objective`.
    """

    def earned(params: PyTree) -> tuple[jax.Array, Log]:
        logs = play(params, key)
        reward = logs.reward
        if shuffle is not None:
            order = jnp.argsort(shuffle.ravel())
            reward = reward.ravel()[order].reshape(reward.shape)
        return of_logs(logs, reward, **options), logs

    slope, logs = jax.grad(earned, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p + rate * g, params, slope), logs


def after_step(
    params: PyTree,
    rate: jax.Array,
    play: Callable[[PyTree, jax.Array], Log],
    key: jax.Array,
    **options: Any,
) -> tuple[jax.Array, tuple[Log, Log]]:
    """What a policy earns after its step on a user: the outer objective () of MAML-RL, a maximum.

    Its gradient goes through the step.

    Returns:
      The objective, and the logs before and after the step.
    """
    key_before, key_after = jax.random.split(key)
    own, before = step(params, rate, play, key_before, **options)
    after = play(own, key_after)
    return of_logs(after, **options), (before, after)


def exploring(total_B: jax.Array, before: Log) -> jax.Array:
    """The outer objectives (B,) of E-MAML, from those of MAML-RL and the logs (B, E, T) before.

    What the first episodes *are* depends on the parameters too: a return behind the step times the
    box of all decisions before it credits episodes from which much is learned. The mean of the
    other users is taken off the return, which changes the noise alone.
    """
    caused_B = (jnp.log(before.propensity) * before.mask).sum(axis=(1, 2))
    level_B = leave_one_out(total_B[:, None])[:, 0]
    return total_B + (box(caused_B) - 1.0) * jax.lax.stop_gradient(total_B - level_B)
