"""Reptile: the outer gradient is the difference between initial and adapted parameters."""

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.learners.parts import moved_by_gradients, plain_loss
from metajax.learners.pooled import all_examples
from metajax.types import Episode, MetaLearner, PyTree


def reptile(learner: MetaLearner) -> MetaLearner:
    """The learner with Reptile's outer update, ``theta <- theta + b (phi - theta)``.

    The update is the gradient of the surrogate ``0.5 ||theta - stop_gradient(phi)||^2``, where phi
    are the parameters after adapting on all examples of the task. Only parameters that adapt are
    learned. The loss on the query is logged as ``query_loss`` and has no gradient.

    Args:
      learner: one that adapts by gradients from meta-parameters and whose outer loss is the plain
        loss on the query; its ``adapt`` is the inner loop.

    Raises:
      UserError: the learner is not such a one.

    References: Nichol et al., "On first-order meta-learning algorithms", 2018.
    """

    get, _ = moved_by_gradients(learner, "reptile")
    loss = plain_loss(learner, "reptile")

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        before = learner.start(params, episode.profile)
        after = learner.adapt(params, before, all_examples(episode), key)
        after = jax.lax.stop_gradient(after)
        way = jax.tree.map(jnp.subtract, get(before), get(after))
        scores = learner.predict(jax.lax.stop_gradient(params), after, episode.query.inputs)
        query_loss = loss(scores, episode.query.label, episode.query.mask)
        return 0.5 * tree.squared_norm(way), {"query_loss": query_loss}

    return learner._replace(loss=outer_loss)
