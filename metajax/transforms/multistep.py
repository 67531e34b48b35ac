"""MAML++'s multi-step loss: a weighted sum of the query losses after each inner step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metajax.learners.parts import plain_loss
from metajax.types import Episode, Examples, MetaLearner, PyTree, UserError


def multistep(
    learner: MetaLearner,
    weights: Sequence[float],
) -> MetaLearner:
    """The learner that adapts ``len(weights)`` times, with a loss on the query after each time.

    The outer loss is ``sum_j weights[j] L_Q(phi_j)``, where phi_j is the state after j + 1 calls of
    the wrapped ``adapt``; with all weight on the last it is the plain outer loss. The paper anneals
    the weights toward the last step while training. A learner does not know the outer step, so
    train once with each set of weights, starting from the parameters of the training before.

    Args:
      learner: one call of its ``adapt`` is one step, for instance `gradient` with ``num_steps=1``;
        with `optim.learned_step_rates` every step has its own learned rate.
      weights: one per step.

    Raises:
      UserError: the learner takes no gradients, so that a second call on the same support would
        count it twice; or its outer loss is not the plain loss on the query.

    References: Antoniou et al., "How to train your MAML", ICLR 2019, equation 4.
    """

    loss = plain_loss(learner, "multistep")
    if learner.num_gradients == 0:
        raise UserError("multistep needs a learner that adapts by gradients; this one does not")

    def adapt(params: PyTree, state: PyTree, examples: Examples, key: jax.Array) -> PyTree:
        step = lambda state, key: (learner.adapt(params, state, examples, key), None)
        return jax.lax.scan(step, state, jax.random.split(key, len(weights)))[0]

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        query = episode.query

        def step(state: PyTree, key: jax.Array):
            state = learner.adapt(params, state, episode.support, key)
            scores = learner.predict(params, state, query.inputs)
            return state, loss(scores, query.label, query.mask)

        keys = jax.random.split(key, len(weights))
        _, each = jax.lax.scan(step, learner.start(params, episode.profile), keys)
        mean = jnp.matmul(jnp.asarray(weights, each.dtype), each, precision="highest")
        return mean, {"query_loss": each[-1]}

    num_gradients = len(weights) * learner.num_gradients
    return learner._replace(adapt=adapt, loss=outer_loss, num_gradients=num_gradients)
