"""Policies from beliefs: greedy, epsilon-greedy, upper confidence bounds, Thompson sampling.

    beliefs.of_learner(learner, params)            any learner: greedy, epsilon_greedy
    beliefs.of_ridge(embed, offset, params)        a meta-learned prior: these, ucb, thompson

Actions that are masked are never taken; between equal scores the chances are equal.
"""

import jax
import jax.numpy as jnp

from metajax.decide.beliefs import Belief, Beliefs, Features, flat
from metajax.decide.environment import Observation, Policy, drawing
from metajax.types import PyTree, UserError

Number = float | jax.Array


def best_of(score_A: jax.Array, mask_A: jax.Array) -> jax.Array:
    """The chances (A,) of whoever takes the best action that is allowed: equal between equals."""
    allowed = jnp.where(mask_A > 0, score_A, -jnp.inf)
    best = (allowed == allowed.max()) & ((mask_A > 0) | (mask_A.sum() == 0))
    return best / best.sum()


def greedy(beliefs: Beliefs) -> Policy:
    """Takes the action of the highest expected reward."""
    return epsilon_greedy(beliefs, 0.0)


def epsilon_greedy(beliefs: Beliefs, epsilon: Number) -> Policy:
    """Takes the best action, or with probability ``epsilon`` any that is allowed."""

    def chances(state: PyTree, seen: Observation, key: jax.Array) -> jax.Array:
        best = best_of(beliefs.believe(state, seen).mean, seen.mask)
        return (1 - epsilon) * best + epsilon * any_of(seen.mask)

    return drawing(beliefs.init, chances, beliefs.update)


def any_of(mask_A: jax.Array) -> jax.Array:
    """Equal chances (A,) of all actions that are allowed."""
    return best_of(jnp.zeros(mask_A.shape), mask_A)


def at_random() -> Policy:
    """Takes any action that is allowed, and learns nothing."""
    chances = lambda state, seen, key: any_of(seen.mask)
    return drawing(lambda key, seen: (), chances, lambda state, decision, key: state)


def _doubted(belief: Belief) -> Belief:
    if belief.root.shape[1] == 0:
        raise UserError(
            "these beliefs have no posterior: use greedy or epsilon_greedy, or a ridge head "
            "(beliefs.of_ridge, beliefs.neural_linear)"
        )
    return belief


def ucb(beliefs: Beliefs, width: Number) -> Policy:
    """Takes the action of the highest ``mean + width * standard deviation``.

    Args:
      width: exploration, in the unit of the reward; 0 is greedy.

    References: Li, Chu, Langford, Schapire, "A contextual-bandit approach to personalized news
    article recommendation", WWW 2010.

    Raises:
      UserError: beliefs without a posterior.
    """

    def chances(state: PyTree, seen: Observation, key: jax.Array) -> jax.Array:
        mean, root = _doubted(beliefs.believe(state, seen))
        return best_of(mean + width * jnp.linalg.norm(root, axis=1), seen.mask)

    return drawing(beliefs.init, chances, beliefs.update)


def thompson(beliefs: Beliefs, width: Number, draws: int = 32) -> Policy:
    """Draws weights from the posterior, and takes the action that is best under them.

    The probability of an action has no closed form. The chances are the shares of ``draws`` drawn
    weights, of which one decides: on average over keys they are those of Thompson sampling, and an
    action that is taken has a chance of at least 1 / draws. With ``draws=1`` the logged propensity
    is always 1; then keep no log for off-policy values.

    Args:
      width: the standard deviation of a reward's noise makes it exact; 0 is greedy.

    References: Thompson, 1933; Chapelle, Li, NeurIPS 2011; Agrawal, Goyal, ICML 2013; with a prior
    that is learned from other users, Kveton et al., "Meta-Thompson sampling", ICML 2021.

    Raises:
      UserError: beliefs without a posterior; no draws.
    """
    if draws < 1:
        raise UserError(f"Thompson sampling with {draws} draws: give at least 1")

    def chances(state: PyTree, seen: Observation, key: jax.Array) -> jax.Array:
        mean, root = _doubted(beliefs.believe(state, seen))
        noise_MxD = jax.random.normal(key, (draws, root.shape[1]), root.dtype)
        score_MxA = mean[None] + jnp.matmul(width * noise_MxD, root.T, precision="highest")
        return jax.vmap(best_of, in_axes=(0, None))(score_MxA, seen.mask).mean(axis=0)

    return drawing(beliefs.init, chances, beliefs.update)


def lin_ucb(features: Features, size: int, width: Number, precision: Number = 1.0) -> Policy:
    """LinUCB with weights that all actions share, from a flat prior (Li et al., WWW 2010)."""
    return ucb(flat(features, size, precision), width)


def linear_thompson(
    features: Features, size: int, width: Number, precision: Number = 1.0, draws: int = 32
) -> Policy:
    """Linear Thompson sampling from a flat prior (Agrawal, Goyal, ICML 2013)."""
    return thompson(flat(features, size, precision), width, draws)
