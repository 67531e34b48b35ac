"""What a decision is made in: environments and policies as pure functions, for one user.

An environment has gymnax's two names, ``reset`` and ``step``; everything that it remembers is in
the state that they hand back, and who the user is, is an argument. Many users are ``jax.vmap``.

    world = ClickUsers()
    person = world.sample(jax.random.key(0))
    log = play(world.environment(), policy, person, jax.random.key(1), rounds=20)
    log.reward.sum()
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import PyTree


class Observation(NamedTuple):
    """What a policy sees before it decides.

    Attributes:
      profile: what is known about the user; ``()`` if nothing.
      inputs: leaves (A, ...), what is known about each of the A actions.
      mask: (A,) 1 where the action may be taken.
    """

    profile: PyTree
    inputs: PyTree
    mask: jax.Array


class Environment(NamedTuple):
    """Two pure functions for one user; gymnax's names, order and results.

    Attributes:
      reset: (key, params) -> (observation, state).
      step: (key, state, action, params) -> (observation, state, reward, done, info). ``info`` is a
        dict of scalars that no policy sees; ``best`` in it is the expected reward of the best
        action that could have been taken, ``expected`` that of the action taken, and ``item``, in
        the worlds of one catalogue, the number of the item that was shown.

    ``params`` is who the user is, for instance their weights, or all their ratings.
    """

    reset: Callable[[jax.Array, PyTree], tuple[Observation, PyTree]]
    step: Callable[
        [jax.Array, PyTree, jax.Array, PyTree],
        tuple[Observation, PyTree, jax.Array, jax.Array, dict[str, jax.Array]],
    ]


class Decision(NamedTuple):
    """One line of a log: what was seen, what was done, how likely that was, what came of it."""

    observation: Observation
    action: jax.Array
    propensity: jax.Array
    reward: jax.Array


class Policy(NamedTuple):
    """How one user is served: three pure functions, and the distribution that decisions are from.

    Attributes:
      init: (key, observation) -> state, all that the policy remembers of this user.
      act: (state, observation, key) -> (action, propensity), the action's probability.
      update: (state, decision, key) -> state; it sees the reward of the action taken alone.
      chances: (state, observation, key) -> (A,) the probability of every action, that ``act`` draws
        from with the same key; None where actions are not the A alternatives, as with slates.
    """

    init: Callable[[jax.Array, Observation], PyTree]
    act: Callable[[PyTree, Observation, jax.Array], tuple[jax.Array, jax.Array]]
    update: Callable[[PyTree, Decision, jax.Array], PyTree]
    chances: Callable[[PyTree, Observation, jax.Array], jax.Array] | None = None


class Log(NamedTuple):
    """What `play` writes down of each of T rounds.

    Attributes:
      action, propensity, reward: (T,).
      mask: (T,) 1 for a round that took place, 0 for those behind the end; rewards there are 0.
      info: (T,) of each name, from the environment.
    """

    action: jax.Array
    propensity: jax.Array
    reward: jax.Array
    mask: jax.Array
    info: dict[str, jax.Array]


def draw(chance_A: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An action drawn by its chances (A,), and the chance that it had."""
    # Of a cumulative sum that a uniform number falls into: one number, not A as in Gumbel's way;
    # rounding must not reach behind the last action that has a chance.
    upto_A = jnp.cumsum(chance_A)
    action = jnp.sum(upto_A <= jax.random.uniform(key) * upto_A[-1])
    last = chance_A.shape[0] - 1 - jnp.argmax(chance_A[::-1] > 0)
    action = jnp.minimum(action, last)
    return action, chance_A[action]


def drawing(
    init: Callable[[jax.Array, Observation], PyTree],
    chances: Callable[[PyTree, Observation, jax.Array], jax.Array],
    update: Callable[[PyTree, Decision, jax.Array], PyTree],
) -> Policy:
    """The policy that draws its action from ``chances``, and says how likely it was."""

    def act(state: PyTree, observation: Observation, key: jax.Array):
        # the key itself is that of the chances
        return draw(chances(state, observation, key), jax.random.fold_in(key, 1))

    return Policy(init, act, update, chances)


def play(
    environment: Environment, policy: Policy, params: PyTree, key: jax.Array, rounds: int
) -> Log:
    """One user's rounds: see, act, get the reward, learn, in one scan."""
    key_reset, key_init, key_rounds = jax.random.split(key, 3)
    seen, state = environment.reset(key_reset, params)
    begin = (seen, state, policy.init(key_init, seen), jnp.zeros((), bool))

    def one(carry: Any, key: jax.Array):
        seen, state, known, done = carry
        key_act, key_step, key_update = jax.random.split(key, 3)
        action, propensity = policy.act(known, seen, key_act)
        later, after, reward, ended, info = environment.step(key_step, state, action, params)
        reward = jnp.where(done, 0.0, reward)
        new = policy.update(known, Decision(seen, action, propensity, reward), key_update)
        keep = lambda old, fresh: jax.tree.map(lambda a, b: jnp.where(done, a, b), old, fresh)
        line = Log(action, propensity, reward, 1.0 - done, info)
        return (keep(seen, later), keep(state, after), keep(known, new), done | ended), line

    return jax.lax.scan(one, begin, jax.random.split(key_rounds, rounds))[1]
