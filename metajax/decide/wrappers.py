"""Rewards that come late, wrong, or from somebody else: wrappers of policies and environments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.decide.environment import Decision, Environment, Observation, Policy
from metajax.types import PyTree, UserError


class Waiting(NamedTuple):
    """The state of `delayed`: the policy's own, the decisions on their way, and their number."""

    inner: PyTree
    queue: Decision
    count: jax.Array


def delayed(policy: Policy, rounds: int) -> Policy:
    """The policy that learns of a reward only ``rounds`` rounds after those who learn at once.

    Raises:
      UserError: a negative delay.
    """
    if rounds < 0:
        raise UserError(f"a delay of {rounds} rounds: give 0 or more")
    if rounds == 0:
        return policy

    def init(key: jax.Array, seen: Observation) -> Waiting:
        number = jnp.zeros(())
        blank = Decision(seen, jnp.zeros((), jnp.int32), number, number)
        shape = jax.eval_shape(lambda k: policy.act(policy.init(k, seen), seen, k), key)
        blank = blank._replace(action=jnp.zeros(shape[0].shape, shape[0].dtype))
        queue = jax.tree.map(lambda x: jnp.zeros((rounds, *x.shape), x.dtype), blank)
        return Waiting(policy.init(key, seen), queue, jnp.zeros((), jnp.int32))

    def act(state: Waiting, seen: Observation, key: jax.Array):
        return policy.act(state.inner, seen, key)

    def update(state: Waiting, told: Decision, key: jax.Array) -> Waiting:
        place = state.count % rounds
        due = jax.tree.map(lambda x: x[place], state.queue)
        new = policy.update(state.inner, due, key)
        ready = state.count >= rounds
        inner = jax.tree.map(lambda a, b: jnp.where(ready, b, a), state.inner, new)
        put = lambda x, y: x.at[place].set(jnp.asarray(y, x.dtype))
        return Waiting(inner, jax.tree.map(put, state.queue, told), state.count + 1)

    inner_chances = policy.chances
    if inner_chances is None:
        return Policy(init, act, update)
    chances = lambda state, seen, key: inner_chances(state.inner, seen, key)
    return Policy(init, act, update, chances)


def flipped(environment: Environment, share: float | jax.Array) -> Environment:
    """The environment whose rewards of 0 and 1 come as their opposites in a share of the rounds."""

    def step(key: jax.Array, state: PyTree, action: jax.Array, params: PyTree):
        seen, after, reward, done, info = environment.step(key, state, action, params)
        wrong = jax.random.uniform(jax.random.fold_in(key, 1)) < share
        return seen, after, jnp.where(wrong, 1.0 - reward, reward), done, info

    return environment._replace(step=step)


def shuffled(environment: Environment) -> Environment:
    """The control whose reward is that of another allowed action, drawn anew in each round.

    ``info`` still tells of the action that was taken.
    """

    def reset(key: jax.Array, params: PyTree):
        seen, state = environment.reset(key, params)
        return seen, (state, seen.mask)

    def step(key: jax.Array, state: PyTree, action: jax.Array, params: PyTree):
        inner, mask = state
        lot = jax.random.uniform(jax.random.fold_in(key, 1), mask.shape)
        other = jnp.argmax(jnp.where(mask > 0, lot, -1.0))
        reward = environment.step(key, inner, other, params)[2]
        seen, after, _, done, info = environment.step(key, inner, action, params)
        return seen, (after, seen.mask), reward, done, info

    return Environment(reset, step)


def of_others(environment: Environment) -> Environment:
    """The control whose reward is what another user says of the action.

    Its params are a pair: who the user is, and whose rewards they get. ``info`` tells of the user.
    """

    def step(key: jax.Array, state: PyTree, action: jax.Array, params: tuple[PyTree, PyTree]):
        own, other = params
        reward = environment.step(key, state, action, other)[2]
        seen, after, _, done, info = environment.step(key, state, action, own)
        return seen, after, reward, done, info

    return Environment(lambda key, params: environment.reset(key, params[0]), step)
