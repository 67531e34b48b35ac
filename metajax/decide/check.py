"""What every policy and environment must hold to: properties to try on one of your own.

Each is a plain function of a `Trial`, and raises an AssertionError that says what is wrong.

    check.everything(check.Trial(environment, policy, users))
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.decide.environment import Decision, Environment, Log, Observation, Policy, play
from metajax.types import PyTree

DRAWS = 2_000
"""Keys that frequencies are counted over."""


class Probed(NamedTuple):
    """What a policy does in one state, of which the first action is masked, over K keys.

    Attributes:
      mask: (A,). action, propensity: (K,). chance: (K, A). spoiled: (K, A) the chances with other
        numbers in the row of the masked action.
    """

    mask: np.ndarray
    action: np.ndarray
    propensity: np.ndarray
    chance: np.ndarray
    spoiled: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trial:
    """A policy in an environment; what it does there is computed once for all properties.

    Attributes:
      users: the environment's params of U users, leaves (U, ...).
      rounds: that each is played.
      spoil: (params of one user, their Log) -> params in which only rewards of actions that were
        not taken are others; None to leave `no_other_reward_is_seen` out.
    """

    environment: Environment
    policy: Policy
    users: PyTree
    rounds: int = 4
    spoil: Callable[[PyTree, Log], PyTree] | None = None

    @functools.cached_property
    def keys(self) -> jax.Array:
        """(U,) a key for each user."""
        return jax.random.split(jax.random.key(7), jax.tree.leaves(self.users)[0].shape[0])

    @functools.cached_property
    def every(self) -> Callable[[PyTree, jax.Array], Log]:
        """(users, keys) -> the logs of all, leaves (U, T), in one program."""
        one = lambda params, key: play(self.environment, self.policy, params, key, self.rounds)
        return jax.jit(jax.vmap(one))

    @functools.cached_property
    def log(self) -> Log:
        """Of all users, leaves (U, T)."""
        return jax.tree.map(np.asarray, self.every(self.users, self.keys))

    @functools.cached_property
    def probed(self) -> Probed | None:
        """The policy behind two rounds of the first user; None if it has no chances to look at."""
        chances = self.policy.chances
        if chances is None:
            return None

        def probe(params: PyTree, keys: jax.Array):
            seen, state = _after_two(self.environment, self.policy, params)
            seen = seen._replace(mask=seen.mask.at[0].set(0.0))
            spoil = lambda x: x.at[0].set(7) if jnp.issubdtype(x.dtype, jnp.floating) else x
            other = seen._replace(inputs=jax.tree.map(spoil, seen.inputs))
            over = lambda f: jax.vmap(f)(keys)
            action, told = over(lambda key: self.policy.act(state, seen, key))
            own = over(lambda key: chances(state, seen, key))
            return Probed(
                seen.mask, action, told, own, over(lambda key: chances(state, other, key))
            )

        found = jax.jit(probe)(_at(self.users, 0), jax.random.split(jax.random.key(11), DRAWS))
        return jax.tree.map(np.asarray, found)


def _after_two(environment: Environment, policy: Policy, params: PyTree):
    seen, state = environment.reset(jax.random.key(0), params)
    known = policy.init(jax.random.key(1), seen)
    for i in range(2):
        key = jax.random.key(2 + i)
        action, chance = policy.act(known, seen, key)
        later, state, reward, _, _ = environment.step(key, state, action, params)
        known = policy.update(known, Decision(seen, action, chance, reward), key)
        seen: Observation = later
    return seen, known


def _at(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def _close(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(np.asarray(x), np.asarray(y), 1e-4, 1e-5) for x, y in pairs)


def users_are_apart(t: Trial) -> None:
    """Many users at once are the same users one by one."""
    one = jax.jit(lambda params, key: play(t.environment, t.policy, params, key, t.rounds))
    for i in range(len(t.keys)):
        alone = one(_at(t.users, i), t.keys[i])
        assert _close(alone, _at(t.log, i)), f"user {i} among others is served otherwise"


def keys_decide_everything(t: Trial) -> None:
    """The same keys give the same bits: nothing is remembered outside the state."""
    pairs = zip(jax.tree.leaves(t.every(t.users, t.keys)), jax.tree.leaves(t.log), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs)
    assert same, "a second run with the same keys differs"


def only_allowed_actions_are_taken(t: Trial) -> None:
    """An action has had a chance, and is never better than the best."""
    real, info = t.log.mask > 0, t.log.info
    chance = t.log.propensity[real]
    assert ((chance > 0) & (chance <= 1 + 1e-6)).all(), "a propensity outside of (0, 1]"
    if t.probed is not None:
        action = t.log.action[real]
        inside = (action >= 0) & (action < t.probed.chance.shape[1])
        assert inside.all(), "an action outside of the set"
    assert (info["best"] >= info["expected"] - 1e-5)[real].all(), "better than the best action"


def chances_are_probabilities(t: Trial) -> None:
    """They sum to 1, are 0 where an action is masked, and the propensity is the action's."""
    if (p := t.probed) is None:
        return
    sums = p.chance.sum(axis=1)
    assert (p.chance >= 0).all() and np.allclose(sums, 1, atol=1e-5), "chances do not sum to 1"
    assert p.chance[:, p.mask == 0].sum() == 0, "a masked action has a chance"
    own = p.chance[np.arange(DRAWS), p.action]
    assert np.allclose(own, p.propensity, atol=1e-6), "the propensity is another one"


def frequencies_are_propensities(t: Trial) -> None:
    """Over keys, actions come as often as their chances say, within five standard errors."""
    if (p := t.probed) is None:
        return
    chance = p.chance.mean(axis=0)
    found = np.bincount(p.action, minlength=len(chance)) / DRAWS
    error = np.sqrt(np.maximum(chance * (1 - chance), 1e-4) / DRAWS)
    assert (np.abs(found - chance) < 5 * error).all(), "actions come more or less often than told"


def masked_actions_are_not_read(t: Trial) -> None:
    """What stands in the row of an action that is not allowed moves no chance."""
    if (p := t.probed) is None:
        return
    assert np.allclose(p.chance, p.spoiled, atol=1e-6), "a masked row moves the chances of others"


def no_other_reward_is_seen(t: Trial) -> None:
    """Rewards of actions that were not taken can be anything: the same is done, and rewarded."""
    if t.spoil is None:
        return
    others = [t.spoil(_at(t.users, i), _at(t.log, i)) for i in range(len(t.keys))]
    after = t.every(jax.tree.map(lambda *x: jnp.stack(x), *others), t.keys)
    same = np.array_equal(t.log.action, after.action)
    assert same and _close(t.log.reward, after.reward), "a reward not taken changed an action"


def everything(t: Trial) -> tuple[str, ...]:
    """Checks all properties that the trial can tell; their names."""
    told = [p for p in PROPERTIES if t.spoil is not None or p is not no_other_reward_is_seen]
    for holds in told:
        holds(t)
    return tuple(holds.__name__ for holds in told)


PROPERTIES = (
    users_are_apart,
    keys_decide_everything,
    only_allowed_actions_are_taken,
    chances_are_probabilities,
    frequencies_are_propensities,
    masked_actions_are_not_read,
    no_other_reward_is_seen,
)
