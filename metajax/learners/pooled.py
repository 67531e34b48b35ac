"""Joint training: one model trained on all tasks' examples, as it is or fine-tuned to each task."""

import jax
import jax.numpy as jnp
import optax

from metajax import losses, optim, tree
from metajax.learners.gradient.maml import gradient
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree


def all_examples(episode: Episode) -> Examples:
    """Support and query of an episode as one set of examples."""
    return jax.tree.map(lambda s, q: jnp.concatenate([s, q]), episode.support, episode.query)


def pooled(model: Model, *, loss: losses.Loss = losses.squared_error) -> MetaLearner:
    """Joint training without adaptation: the loss is over all examples, ``adapt`` changes nothing.

    With `towers.stored_mean` as the model this is the item-mean baseline. Parameters have the
    structure of `gradient`'s, so that they can be fine-tuned. A state holds the profile only.
    """
    learner = fine_tuned(model, optax.identity(), 0, adapts=tree.nothing, loss=loss)
    return learner._replace(adapted=None)


def fine_tuned(
    model: Model,
    inner: optim.Inner | optax.GradientTransformation,
    num_steps: int,
    *,
    adapts: tree.Filter = tree.everything,
    loss: losses.Loss = losses.squared_error,
) -> MetaLearner:
    """Joint training, then ``num_steps`` of ``inner`` on each task's support: transfer learning.

    The outer loss is over all examples, without adaptation. Choose the inner rate and ``num_steps``
    on meta-validation: untuned, this baseline can diverge. Arguments are those of `gradient`.
    """
    learner = gradient(model, inner, num_steps, adapts=adapts, loss=loss)

    def joint_loss(params: PyTree, episode: Episode, key: jax.Array):
        del key
        examples = all_examples(episode)
        scores = model.apply(params["model"], episode.profile, examples.inputs)
        value = loss(scores, examples.label, examples.mask)
        return value, {"query_loss": value}

    return learner._replace(loss=joint_loss)
