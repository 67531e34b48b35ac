"""Slates, and what is learned from which item of a slate a person chose.

A choice says that one item is worth more than each of the others beside it; no number is told.
`learned_choice` takes that into a linear belief of what items are worth; `slate` shows those that
are worth most under it. They fit environments as `replay.slates`, whose observations tell the last
slate and what was chosen from it.

References: Herbrich, Minka, Graepel, "TrueSkill", NeurIPS 2007 (the update, of one comparison);
Chu, Ghahramani, "Preference learning with Gaussian processes", ICML 2005 (the model).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax import precision as products
from metajax.decide.beliefs import Beliefs, Features, Weights
from metajax.decide.environment import Decision, Observation, Policy
from metajax.decide.policies import Number
from metajax.types import PyTree, UserError


@products.highest
def preferred(weights: Weights, more_D: jax.Array, less_D: jax.Array, noise: Number) -> Weights:
    """The belief after one item was preferred to another, by the normal of equal moments.

    The person prefers by the difference of what the items are worth to them plus normal noise.

    Args:
      more_D, less_D: features of the item that was preferred, and of the other.
      noise: () standard deviation of that noise, above 0.
    """
    x_D = more_D - less_D
    along_D = weights.root.T @ x_D
    known = along_D @ along_D
    spread = jnp.sqrt(known + noise**2)
    at = x_D @ weights.mean / spread
    # phi / Phi, by logarithms: both vanish where a surprise is large
    pull = jnp.exp(jax.scipy.stats.norm.logpdf(at) - jax.scipy.stats.norm.logcdf(at))
    shrinks = jnp.clip(pull * (pull + at), 0.0, 1.0) / spread**2
    half = shrinks / (1.0 + jnp.sqrt(jnp.maximum(1.0 - shrinks * known, 0.0)))
    gain_D = weights.root @ along_D
    return Weights(
        weights.mean + pull / spread * gain_D, weights.root - half * jnp.outer(gain_D, along_D)
    )


Learn = Callable[[PyTree, Observation], PyTree]
"""(state, observation) -> the state after the choice that the observation tells of."""


def untaught(state: PyTree, seen: Observation) -> PyTree:
    """The state as it was: nothing is learned."""
    return state


def learned_choice(features: Features, noise: Number) -> Learn:
    """Takes the last choice into a linear belief, a `Weights`.

    Nothing is learned before the first choice, or if nothing was chosen.

    Args:
      features: an observation -> (A, D), a row for each of the A items.
    """

    def learn(weights: Weights, seen: Observation) -> Weights:
        x_AxD, chosen = features(seen), seen.profile["chosen"]

        def against(weights: Weights, other: jax.Array):
            new = preferred(weights, x_AxD[chosen], x_AxD[other], noise)
            real = (chosen >= 0) & (other != chosen)
            return jax.tree.map(lambda a, b: jnp.where(real, b, a), weights, new), None

        return jax.lax.scan(against, weights, seen.profile["slate"])[0]

    return learn


def slate(
    beliefs: Beliefs,
    size: int,
    width: Number = 0.0,
    *,
    draws: int = 0,
    learn: Learn = untaught,
) -> Policy:
    """The policy that shows the ``size`` items of the highest scores.

    A score is ``mean + width * deviation`` (upper confidence bounds; ``width`` 0 is greedy), or
    with ``draws`` above 0 the worth under drawn weights (Thompson sampling): the propensity of a
    slate is then the share of the draws under which it is the same, in the same order.

    Args:
      learn: of the last choice, see `learned_choice`. A choice is told one round later, and is
        taken in before that round's slate is made.

    Raises:
      UserError: a slate of no items.
    """
    if size < 1:
        raise UserError(f"a slate of {size} items: give at least 1")

    def act(state: PyTree, seen: Observation, key: jax.Array):
        mean_A, root_AxD = beliefs.believe(learn(state, seen), seen)
        if draws:
            noise_MxD = jax.random.normal(key, (draws, root_AxD.shape[1]), root_AxD.dtype)
            drawn_MxA = jnp.matmul(width * noise_MxD, root_AxD.T, precision="highest")
            score_MxA = mean_A[None] + drawn_MxA
        else:
            score_MxA = (mean_A + width * jnp.linalg.norm(root_AxD, axis=1))[None]
        score_MxA = jnp.where(seen.mask[None] > 0, score_MxA, -jnp.inf)
        shown = jax.lax.top_k(score_MxA, size)[1]
        return shown[0], jnp.all(shown == shown[:1], axis=1).mean()

    def update(state: PyTree, told: Decision, key: jax.Array) -> PyTree:
        return learn(state, told.observation)

    return Policy(beliefs.init, act, update)


def random_slate(size: int) -> Policy:
    """The policy that shows any ``size`` items of the menu, all orders alike."""

    def act(state: PyTree, seen: Observation, key: jax.Array):
        lot_A = jnp.where(seen.mask > 0, jax.random.uniform(key, seen.mask.shape), -1.0)
        left = seen.mask.sum() - jnp.arange(size)
        return jax.lax.top_k(lot_A, size)[1], 1.0 / jnp.prod(jnp.maximum(left, 1.0))

    return Policy(lambda key, seen: (), act, lambda state, decision, key: state)
