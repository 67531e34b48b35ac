"""The contract: what a task, a model and a meta-learner are.

A recommender meets a new user or item as a *task*: cold at first, warmer with every interaction. A
meta-learner is five pure functions on ONE task. Batching over tasks is ``jax.vmap``, learning over
time is ``jax.lax.scan``, learning to learn is ``jax.grad`` of ``loss``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

PyTree = Any
Params = PyTree


class Examples(NamedTuple):
    """Interactions of one task, padded to N rows.

    Attributes:
      inputs: leaves of shape (N, ...), what is known about each interaction before its label.
      label: (N,) ratings, or clicks in {0, 1}.
      mask: (N,) 1 for a real row, 0 for padding.
    """

    inputs: PyTree
    label: jax.Array
    mask: jax.Array


class Episode(NamedTuple):
    """One task as it is met: its profile, what it adapts on and what it is judged on.

    Attributes:
      profile: what is known before any interaction; ``()`` if nothing.
      support: the examples to adapt on; their number is the shot.
      query: the examples to be judged on.
    """

    profile: PyTree
    support: Examples
    query: Examples


class Model(NamedTuple):
    """A function of parameters, as a pair of pure functions over a plain nested dict.

    ``profile`` is an argument of its own, beside ``inputs``, so that what belongs to the task is
    computed once per task and not once per row.

    Attributes:
      init: (key, profile, inputs) -> params.
      apply: (params, profile, inputs) -> scores (N,), or features (N, D) for an embedding.
    """

    init: Callable[[jax.Array, PyTree, PyTree], Params]
    apply: Callable[[Params, PyTree, PyTree], jax.Array]


class MetaLearner(NamedTuple):
    """Five pure functions on one task.

    Attributes:
      init: (key, episode) -> params, the meta-parameters theta.
      start: (params, profile) -> state, the cold start.
      adapt: (state, examples, key) -> state, the warm-up; may be called again and again.
      predict: (state, inputs) -> scores (N,).
      loss: (params, episode, key) -> (scalar, info); its ``jax.grad`` is the outer update. ``info``
        is a dict of scalars a person wants to see.
    """

    init: Callable[[jax.Array, Episode], Params]
    start: Callable[[Params, PyTree], PyTree]
    adapt: Callable[[PyTree, Examples, jax.Array], PyTree]
    predict: Callable[[PyTree, PyTree], jax.Array]
    loss: Callable[[Params, Episode, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class UserError(Exception):
    """A message for the person at the keyboard: what is wrong and what to do, in one line."""
