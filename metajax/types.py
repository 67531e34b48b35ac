"""The contract: what a task, a model and a meta-learner are.

A recommender meets a new user or item as a *task*: cold at first, warmer with every interaction. A
meta-learner is five pure functions on ONE task. Batching over tasks is ``jax.vmap``, learning over
time is ``jax.lax.scan``, learning to learn is ``jax.grad`` of ``loss``.

What all tasks share are the *params*; what a task has of its own is its *state*. A state is what a
service stores of a user, what a device keeps of its owner and what ``vmap`` copies per task, so
nothing that is shared stands in it.
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
      label: (N,) ratings, clicks in {0, 1}, or class numbers.
      mask: (N,) 1 for a real row, 0 for padding.
    """

    inputs: PyTree
    label: jax.Array
    mask: jax.Array


class Episode(NamedTuple):
    """One task: its profile, the examples to adapt on and the examples to be evaluated on.

    Attributes:
      profile: what is known before any interaction; ``()`` if nothing.
      support: the examples to adapt on; their number is the shot.
      query: the examples to be evaluated on.
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


class Adapted(NamedTuple):
    """Where a state holds the model parameters that gradient steps move.

    Transforms that read or scale these parameters, whatever the state looks like, go through it.

    Attributes:
      get: state -> the adapted parameters.
      put: (state, adapted parameters) -> the state with these in their place.
    """

    get: Callable[[PyTree], PyTree]
    put: Callable[[PyTree, PyTree], PyTree]


class MetaLearner(NamedTuple):
    """Five pure functions on one task, and what adapting costs.

    Attributes:
      init: (key, episode) -> params, the meta-parameters theta that all tasks share.
      start: (params, profile) -> state, the cold start: all that a task has of its own.
      adapt: (params, state, examples, key) -> state, the warm-up; may be called again and again.
      predict: (params, state, inputs) -> scores (N,).
      loss: (params, episode, key) -> (scalar, info); its ``jax.grad`` is the outer gradient.
        ``info`` is a dict of scalars to be logged.
      num_gradients: how many gradients of the task's loss one call of ``adapt`` takes; 0 if it
        takes none, as with a closed-form solution or a network that reads the examples.
      adapted: where the state holds the parameters that start as meta-parameters and are moved by
        those gradients; None if there are no such parameters, or they are not in one place.
    """

    init: Callable[[jax.Array, Episode], Params]
    start: Callable[[Params, PyTree], PyTree]
    adapt: Callable[[Params, PyTree, Examples, jax.Array], PyTree]
    predict: Callable[[Params, PyTree, PyTree], jax.Array]
    loss: Callable[[Params, Episode, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
    num_gradients: int = 0
    adapted: Adapted | None = None


class UserError(Exception):
    """A message for the person at the keyboard: what is wrong and what to do, in one line."""
