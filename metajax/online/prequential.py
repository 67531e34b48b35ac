"""Predict first, then learn: a learner on a stream of rounds, in memory that does not grow.

A round holds what is asked (inputs without labels), the labels, and what is told: the data that may
be learned from after the round. `prequential` is a `jax.lax.scan` over rounds: predictions are
recorded before the state learns, so that every event is predicted from earlier ones alone. A
learner on a stream is an `Online`, three pure functions.

    state, scores = prequential(online, online.init(key), rounds)

References: Gama, Sebastião, Rodrigues, "On evaluating stream learning algorithms", Machine
Learning 2013.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import PyTree


class Round(NamedTuple):
    """One round of a stream, or, with an axis before all others, many.

    Attributes:
      asked: leaves (B, ...), what is known before the labels are.
      label: (B, ...) the true answers.
      mask: of the shape of ``label``: 1 for a real label, 0 for padding.
      told: what may be learned after this round, with its own mask, such as the tasks that have
        ended by now; None where it is what was asked with its answers (`Answered`).
    """

    asked: PyTree
    label: jax.Array
    mask: jax.Array
    told: PyTree = None


class Answered(NamedTuple):
    """What was asked, leaves (B, ...), with its label (B, ...) and mask: what an event teaches."""

    asked: PyTree
    label: jax.Array
    mask: jax.Array


def told_in(one: Round) -> PyTree:
    """What may be learned after a round.

    Answers are put together here, within the program: were they two inputs of it, XLA would not
    see that predicting and learning read the same rows, and copy a table at every event.
    """
    return Answered(one.asked, one.label, one.mask) if one.told is None else one.told


class Online(NamedTuple):
    """A learner on a stream.

    Attributes:
      init: key -> state, all that it keeps: tables, weights, buffers, counters.
      predict: (state, asked) -> scores of the shape of the labels.
      learn: (state, told) -> state. What is all padding leaves the state as it is, to the bit.
      ready: asked -> what predict and learn take as well in its place: look-ups that are done for
        all rounds at once, leaves (R, ...), where the loop over rounds would repeat them.
    """

    init: Callable[[jax.Array], PyTree]
    predict: Callable[[PyTree, PyTree], jax.Array]
    learn: Callable[[PyTree, PyTree], PyTree]
    ready: Callable[[PyTree], PyTree] | None = None


Record = Callable[[jax.Array, jax.Array, jax.Array], PyTree]
"""(scores, label, mask) of a round -> what is kept of it."""


def scores_alone(scores: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The scores, 0 in the place of padding."""
    del label
    return jnp.where(mask > 0, scores, 0.0)


def prequential(
    online: Online, state: PyTree, rounds: Round, record: Record = scores_alone
) -> tuple[PyTree, Any]:
    """The state after the rounds, and what was recorded of each before it was learned from.

    Args:
      state: of ``online.init``, or where an earlier stretch of the stream ended: two stretches one
        after the other are the whole.
      rounds: leaves (R, ...), in order of time.
      record: what is kept of a round; leaves (R, ...) come back.
    """

    if online.ready is not None:
        rounds = rounds._replace(asked=online.ready(rounds.asked))

    def step(state: PyTree, one: Round):
        scores = online.predict(state, one.asked)
        return online.learn(state, told_in(one)), record(scores, one.label, one.mask)

    return jax.lax.scan(step, state, rounds)


def frozen(online: Online) -> Online:
    """The learner without learning: a control that predicts from its first state for ever."""
    return online._replace(learn=lambda state, told: state)


def started(online: Online, state: PyTree) -> Online:
    """The learner that begins with a given state, such as one learned in a warm-up."""
    return online._replace(init=lambda key: state)
