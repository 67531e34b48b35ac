"""Task augmentation: training tasks altered to look like those of a cold-start test."""

from collections.abc import Callable

import jax

from metajax import tree
from metajax.types import Episode, MetaLearner, PyTree


def hide(learner: MetaLearner, share: float, as_cold: Callable[[PyTree], PyTree]) -> MetaLearner:
    """The learner, meta-trained with all items of a task as cold items, in a share of the tasks.

    DropoutNet hides the identifiers of single interactions; here all items of a task are hidden
    together, as at an item-cold test, where support and query are both cold. Adaptation and
    prediction are unchanged.

    Args:
      share: probability that a training task is hidden.
      as_cold: inputs -> the inputs as they would be if the items had no interactions, such as
        `data.features.represent.as_cold`.

    References: Volkovs, Yu, Poutanen, "DropoutNet", NeurIPS 2017.
    """

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        key_hide, key_loss = jax.random.split(key)
        hidden = jax.random.uniform(key_hide) < share
        cover = lambda e: e._replace(inputs=tree.where(hidden, as_cold(e.inputs), e.inputs))
        covered = episode._replace(support=cover(episode.support), query=cover(episode.query))
        return learner.loss(params, covered, key_loss)

    return learner._replace(loss=loss)


def forget(learner: MetaLearner, share: float) -> MetaLearner:
    """The learner, meta-trained without any support in a share of the tasks.

    DropoutNet drops the identity of a user or item, which here is what the support tells: what a
    model can say of a task then comes from its profile, as at a cold start. Adaptation and
    prediction are unchanged.

    Args:
      share: probability that a training task's support is dropped.

    References: Volkovs, Yu, Poutanen, "DropoutNet", NeurIPS 2017.
    """

    def loss(params: PyTree, episode: Episode, key: jax.Array):
        key_drop, key_loss = jax.random.split(key)
        kept = jax.random.uniform(key_drop) >= share
        support = episode.support._replace(mask=episode.support.mask * kept)
        return learner.loss(params, episode._replace(support=support), key_loss)

    return learner._replace(loss=loss)
