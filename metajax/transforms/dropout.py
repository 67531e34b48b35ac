"""Dropout in a learner's model, in meta-training alone."""

from collections.abc import Callable

import jax

from metajax.types import Episode, MetaLearner, Params


def with_dropout(make: Callable[[jax.Array | None], MetaLearner]) -> MetaLearner:
    """The learner ``make(None)``, trained by the loss of ``make(key)`` with a new key in each task.

    ``with_dropout(lambda key: gradient(from_nnx(module, dropout=key), inner, 5))`` is MAML with the
    module's dropout. One mask serves a task: all its inner steps and its query. ``start``,
    ``adapt`` and ``predict`` are without dropout.

    Args:
      make: key of the dropout masks, or None for none -> the learner. It is called at each trace of
        the loss, and must give learners of the same parameters.

    References: Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 2014.
    """

    def loss(params: Params, episode: Episode, key: jax.Array):
        key_dropout, key_loss = jax.random.split(key)
        return make(key_dropout).loss(params, episode, key_loss)

    return make(None)._replace(loss=loss)
