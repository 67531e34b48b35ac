"""Losses along the way: the outer loss of a learner after each of its inner steps, not the last."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.types import Episode, Examples, MetaLearner, PyTree


def multistep(
    learner: MetaLearner,
    weights: Sequence[float],
    *,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """The learner that adapts ``len(weights)`` times on its support and is judged after each time.

    The outer loss is ``sum_j weights[j] L_Q(phi_j)``, where phi_j is the state after j + 1 calls of
    the wrapped ``adapt``; with all weight on the last it is the plain outer loss. The paper moves
    the weight from all steps to the last one while training; the outer step is no part of the
    contract, so train once with each set of weights, the second time from the first's parameters.

    Args:
      learner: one call of its ``adapt`` is one step, for instance `gradient` with ``num_steps=1``;
        with `optim.learned_step_rates` each of the steps has a learned rate of its own.
      weights: one per step.
      loss: the outer loss on the query set.

    References: Antoniou et al., "How to train your MAML", ICLR 2019, equation 4.
    """

    def adapt(state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        step = lambda state, key: (learner.adapt(state, examples, key), None)
        return jax.lax.scan(step, state, jax.random.split(key, len(weights)))[0]

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        query = episode.query

        def step(state: PyTree, key: jax.Array):
            state = learner.adapt(state, episode.support, key)
            return state, loss(learner.predict(state, query.inputs), query.label, query.mask)

        keys = jax.random.split(key, len(weights))
        _, each = jax.lax.scan(step, learner.start(params, episode.profile), keys)
        return jnp.asarray(weights, each.dtype) @ each, {"query_loss": each[-1]}

    return learner._replace(adapt=adapt, loss=outer_loss)
