"""A learner run on one task for the checks of `evaluation.check`: compiled programs and results."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Episode, Examples, MetaLearner, Params, PyTree

FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
GARBAGE = (9.0, -1e3)
"""What is written into masked rows."""


@functools.cache
def key() -> jax.Array:
    """The key that all is tried with; made when asked for, since a first array starts a device."""
    return jax.random.key(1)


def compiled(function: Callable) -> Callable:
    """The function compiled in little time: it is run on one task only."""
    return jax.jit(function, compiler_options=FAST_TO_COMPILE)


class Played(NamedTuple):
    """All that a learner does with one task.

    Attributes:
      before: the state of a cold start.
      after: the state after adapting on the support.
      cold: the scores of the query in the first state.
      warm: those in the second.
      loss: the outer loss.
      info: the metrics that the loss returns with it.
    """

    before: PyTree
    after: PyTree
    cold: jax.Array
    warm: jax.Array
    loss: jax.Array
    info: dict[str, jax.Array]


def play(learner: MetaLearner, params: Params, episode: Episode, key: jax.Array) -> Played:
    """Everything that a learner does with one task."""
    before = learner.start(params, episode.profile)
    after = learner.adapt(params, before, episode.support, key)
    cold = learner.predict(params, before, episode.query.inputs)
    warm = learner.predict(params, after, episode.query.inputs)
    return Played(before, after, cold, warm, *learner.loss(params, episode, key))


class Trial:
    """A learner with its compiled programs, its first parameters and a task to try them on.

    Args:
      learner: what is tried.
      episode: one task; some of its rows should be masked, or padding cannot be tried.
      tolerance: how far two ways of computing the same number may be apart, relative and absolute.
      compiled: what compiles a function.
    """

    def __init__(
        self,
        learner: MetaLearner,
        episode: Episode,
        tolerance: float = 2e-4,
        compiled: Callable[[Callable], Callable] = compiled,
    ):
        self.learner, self.episode, self.tolerance = learner, episode, tolerance
        self.init = compiled(learner.init)
        self.one = compiled(functools.partial(play, learner))
        of_task = jax.value_and_grad(learner.loss, has_aux=True)
        self.batch = compiled(jax.vmap(of_task, (None, 0, None)))

    @functools.cached_property
    def params(self) -> Params:
        """The first parameters; `bits` is their copy of this moment."""
        params = self.init(jax.random.key(0), self.episode)
        self.bits = jax.tree.map(np.array, params)
        return params

    def gradients(self, params: Params, episodes: Episode, key: jax.Array) -> Params:
        """The outer gradients of each of three tasks."""
        return jax.device_get(self.batch(params, episodes, key)[1])

    @property
    def trained(self) -> list[Params]:
        """The parameters that predictions are tried with."""
        return [self.params]

    @functools.cached_property
    def clean(self) -> Played:
        """What is done with the task as it is, by the first parameters."""
        return self.one(self.params, self.episode, key())

    @functools.cached_property
    def eager(self) -> Played:
        """What is done with the task when nothing is compiled, the support without its padding."""
        episode = self.episode
        real = np.flatnonzero(np.asarray(episode.support.mask) > 0)
        trimmed = jax.tree.map(lambda x: x[real], episode.support)
        return play(self.learner, self.params, episode._replace(support=trimmed), key())

    @functools.cached_property
    def slopes(self) -> PyTree:
        """The outer gradients of the task as it is, without support and without query."""
        episode = self.episode
        none = lambda e: e._replace(mask=np.zeros_like(e.mask))
        tasks = [
            episode,
            episode._replace(support=none(episode.support)),
            episode._replace(query=none(episode.query)),
        ]
        return self.gradients(self.params, stacked(*tasks), key())

    def equal(self, actual: PyTree, expected: PyTree) -> bool:
        """Whether two trees of the same structure hold the same numbers, up to the tolerance."""
        t = self.tolerance
        same = lambda a, b: np.allclose(np.asarray(a), np.asarray(b), t, t, equal_nan=True)
        return all(jax.tree.leaves(jax.tree.map(same, actual, expected)))


def masked(examples: Examples, count: int, garbage: float) -> Examples:
    """The examples with at most their first ``count`` rows real, and garbage in the others.

    Numbers of masked rows become the garbage, indices those of the first row.
    """
    examples = jax.tree.map(np.asarray, examples)  # on the host nothing is compiled
    real = (np.arange(len(examples.label)) < count) & (examples.mask > 0)

    def spoil(x: np.ndarray) -> np.ndarray:
        keep = real.reshape(-1, *(1,) * (x.ndim - 1))
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return np.where(keep, x, np.asarray(garbage, x.dtype) if is_float else x[:1])

    inputs = jax.tree.map(spoil, examples.inputs)
    return Examples(inputs, spoil(examples.label), real.astype(examples.mask.dtype))


def stacked(*episodes: Episode) -> Episode:
    """Episodes as a batch, put together on the host, where nothing is compiled."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x]), *episodes)
