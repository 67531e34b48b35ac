"""Reptile: the outer gradient is the way that a task's parameters went."""

import jax
import jax.numpy as jnp

from metajax import losses, tree
from metajax.learners.pooled import all_examples
from metajax.types import Episode, MetaLearner, PyTree


def reptile(learner: MetaLearner, *, loss: losses.Loss = losses.squared_error) -> MetaLearner:
    """The learner with Reptile's outer update, ``theta <- theta + b (phi - theta)``.

    The update is the gradient of the surrogate ``0.5 ||theta - stop_gradient(phi)||^2``, where phi
    is the state after adapting on all examples of the task. Only what adapts is learned.

    Args:
      learner: the learner whose ``adapt`` is the inner loop.
      loss: what is shown as ``query_loss``; it has no gradient.

    References: Nichol et al., "On first-order meta-learning algorithms", 2018.
    """

    def outer_loss(params: PyTree, episode: Episode, key: jax.Array):
        before = learner.start(params, episode.profile)
        after = jax.lax.stop_gradient(learner.adapt(before, all_examples(episode), key))
        is_float = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
        way = jax.tree.map(lambda a, b: a - b if is_float(a) else jnp.zeros(()), before, after)
        scores = learner.predict(after, episode.query.inputs)
        query_loss = loss(scores, episode.query.label, episode.query.mask)
        return 0.5 * tree.squared_norm(way), {"query_loss": query_loss}

    return learner._replace(loss=outer_loss)
