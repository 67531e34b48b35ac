"""Binary relevance: a learner of its own for each label, which shares nothing with the others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.transforms.committee import copies
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError


def per_label(
    learner: MetaLearner, num_labels: int, label_of: Callable[[PyTree], jax.Array]
) -> MetaLearner:
    """The learner that is ``num_labels`` independent copies, each of which scores one label's rows.

    Every copy adapts on all of the support. The outer loss is that of each copy on the query rows
    of its label, weighed by their number. Parameters and states have leaves (``num_labels``, ...).

    Args:
      label_of: inputs of N rows -> the number (N,) of the label each asks for, from 0.

    Raises:
      UserError: ``num_labels`` is below 1.

    References: Zhang, Zhou, "A review on multi-label learning algorithms", TKDE 2014 (binary
    relevance).
    """
    if num_labels < 1:
        raise UserError(f"there is one label or more to learn, not {num_labels}")

    own = copies(learner, num_labels)

    def predict(params: Params, state: PyTree, inputs: PyTree) -> jax.Array:
        score_LxN = own.predict(params, state, inputs)
        own_LxN = label_of(inputs)[None] == jnp.arange(num_labels)[:, None]
        return jnp.sum(jnp.where(own_LxN, score_LxN, 0.0), axis=0)

    def loss(params: Params, episode: Episode, key: jax.Array):
        keys, query = jax.random.split(key, num_labels), episode.query
        asked = label_of(query.inputs)

        def of_copy(params: Params, key: jax.Array, number: jax.Array):
            mask = query.mask * (asked == number)
            asking = episode._replace(query=query._replace(mask=mask))
            return learner.loss(params, asking, key), mask.sum()

        found, weight = jax.vmap(of_copy)(params, keys, jnp.arange(num_labels))
        share = weight / jnp.maximum(weight.sum(), 1.0)
        return jax.tree.map(lambda x: jnp.sum(share * x), found)

    return own._replace(predict=predict, loss=loss)
