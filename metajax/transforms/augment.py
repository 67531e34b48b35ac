"""Tasks made from tasks: what a learner should meet in training and the log does not show."""

from collections.abc import Callable

import jax

from metajax import tree
from metajax.types import Episode, MetaLearner, PyTree


def hide(learner: MetaLearner, share: float, as_cold: Callable[[PyTree], PyTree]) -> MetaLearner:
    """The learner, trained on tasks of which a share looks as if all their items were unseen.

    What DropoutNet does to single identifiers happens here to whole tasks, since at an item-cold
    test the support is as cold as the query. Adaptation and prediction are unchanged.

    Args:
      share: probability that a training task is hidden.
      as_cold: inputs -> the inputs as they would be if the items had no interactions.

    References: Volkovs, Yu, Poutanen, "DropoutNet", NeurIPS 2017.
    """

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        key_hide, key_loss = jax.random.split(key)
        hidden = jax.random.uniform(key_hide) < share
        cover = lambda e: e._replace(inputs=tree.where(hidden, as_cold(e.inputs), e.inputs))
        covered = episode._replace(support=cover(episode.support), query=cover(episode.query))
        return learner.loss(params, covered, key_loss)

    return learner._replace(loss=loss)
