"""Outer gradients of a batch of tasks, and ways to compute them with less memory or time.

`outer_gradient` is all that most trainings need. The other functions are its parts, to be combined
where memory or time is short; none of them changes a number beyond rounding:

- `in_chunks` processes a few tasks of a batch at a time, so that memory does not grow with it,
- `cut_to_length` computes short supports without their padding, best inside `sorted_by_length`,
- `prepared` computes what does not change within a task (look-ups, frozen towers) once a batch.

    tasks = in_chunks(cut_to_length(of_tasks(learner), (16, 64)), 8)
    gradient_fn = sorted_by_length(of_batch(tasks))

`arranged` puts them together as `metajax.platforms` says for this platform.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.platforms import Way
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

Info = dict[str, jax.Array]
GradientFn = Callable[[Params, Any, jax.Array], tuple[PyTree, Info]]
"""(params, a batch, key) -> the gradient of the outer loss and an info of scalars with ``loss``.

A batch of tasks is an `Episode` whose leaves are (T, ...). One key is split into a key per task;
keys (T,) are used as they are.
"""
TaskGradient = Callable[[Params, PyTree, PyTree, jax.Array], tuple[PyTree, PyTree, Info]]
"""(params, floats, others, keys (T,)) -> gradients of the mean loss of the tasks, and mean info.

The tasks' episodes are ``floats`` merged with ``others`` (see `tree.merge`), or ``others`` alone
where ``floats`` is ``()``. The gradients are those to ``params`` and to ``floats``.
"""


class Prepare(NamedTuple):
    """A computation on a whole batch before ``vmap`` over its tasks: look-ups, frozen towers.

    Attributes:
      owns: filter of the parameters that only ``apply`` uses; task losses give them no gradient.
      apply: (params, episodes (T, ...)) -> the episodes that the learner sees, with the same masks.
    """

    owns: tree.Filter
    apply: Callable[[Params, Episode], Episode]


def outer_gradient(learner: MetaLearner, chunk_size: int | None = None) -> GradientFn:
    """The gradient of a learner's mean outer loss over a batch of tasks.

    Args:
      learner: its ``loss`` is differentiated.
      chunk_size: take this many tasks at a time; see `in_chunks`. None takes all at once.
    """
    gradient = of_tasks(learner)
    return of_batch(gradient if chunk_size is None else in_chunks(gradient, chunk_size))


def arranged(learner: MetaLearner, way: Way, prepare: Prepare | None = None) -> GradientFn:
    """The same gradient, computed in a platform's way with tasks of some kind.

        gradient_fn = arranged(learner, platforms.way("ratings"))

    Args:
      way: its ``chunk_size`` and ``lengths`` are used.
      prepare: see `prepared`.
    """
    tasks = of_tasks(learner)
    tasks = cut_to_length(tasks, way.lengths) if way.lengths else tasks
    tasks = tasks if way.chunk_size is None else in_chunks(tasks, way.chunk_size)
    found = of_batch(tasks) if prepare is None else prepared(tasks, prepare)
    return sorted_by_length(found) if way.lengths else found


def loss_gradient(loss: Callable[[Params, Any, jax.Array], tuple[jax.Array, Info]]) -> GradientFn:
    """The gradient of any loss of a batch: (params, batch, key) -> (scalar, info)."""

    def gradient(params: Params, batch: Any, key: jax.Array) -> tuple[PyTree, Info]:
        (value, info), grads = jax.value_and_grad(loss, has_aux=True)(params, batch, key)
        return grads, {"loss": value, **info}

    return gradient


def of_tasks(learner: MetaLearner) -> TaskGradient:
    """The gradient of a learner's mean outer loss over tasks, all at once by ``vmap``."""

    def mean_loss(params: Params, floats: PyTree, others: PyTree, keys: jax.Array):
        episodes = _merged(floats, others)
        losses, info = jax.vmap(learner.loss, (None, 0, 0))(params, episodes, keys)
        return jnp.mean(losses), jax.tree.map(jnp.mean, {"loss": losses, **info})

    def gradient(*args: PyTree) -> tuple[PyTree, PyTree, Info]:
        (to_params, to_floats), info = jax.grad(mean_loss, (0, 1), has_aux=True)(*args)
        return to_params, to_floats, info

    return gradient


def in_chunks(gradient: TaskGradient, size: int) -> TaskGradient:
    """The same gradient, accumulated over chunks of ``size`` tasks.

    Memory does not grow with the batch, and intermediate results stay in the processor's cache.

    Raises:
      UserError: when called, if chunks do not divide the batch.
    """

    def chunked(params: Params, floats: PyTree, others: PyTree, keys: jax.Array):
        num_tasks = len(keys)
        if size >= num_tasks:
            return gradient(params, floats, others, keys)
        num_chunks = num_tasks // size
        if num_chunks * size != num_tasks:
            raise UserError(f"chunks of {size} tasks do not divide a batch of {num_tasks}")
        fold = lambda x: x.reshape(num_chunks, size, *x.shape[1:])
        chunks = jax.tree.map(fold, (floats, others, keys))
        first = jax.tree.map(lambda x: x[0], chunks)
        to_params, _, info = jax.eval_shape(lambda chunk: gradient(params, *chunk), first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (to_params, info))

        def add(total: PyTree, chunk: PyTree):
            to_params, to_floats, info = gradient(params, *chunk)
            return jax.tree.map(jnp.add, total, (to_params, info)), to_floats

        total, to_floats = jax.lax.scan(add, zeros, chunks)
        to_params, info = jax.tree.map(lambda x: x / num_chunks, total)
        joined = lambda x: x.reshape(num_tasks, *x.shape[2:]) / num_chunks
        return to_params, jax.tree.map(joined, to_floats), info

    return chunked


def cut_to_length(gradient: TaskGradient, lengths: Sequence[int]) -> TaskGradient:
    """The same gradient, computed on supports that are cut to the longest one of the tasks.

    Args:
      lengths: sizes of the support, ascending. The first that holds all real rows of all the tasks
        is taken, else the full size; each is a branch of the compiled program.
    """

    def chosen(params: Params, floats: PyTree, others: PyTree, keys: jax.Array):
        episodes = _merged(floats, others)
        width = episodes.support.mask.shape[1]

        def at(size: int) -> TaskGradient:
            def cut(params: Params, floats: PyTree, others: PyTree, keys: jax.Array):
                parts = _with_support(floats, size), _with_support(others, size)
                to_params, to_floats, info = gradient(params, *parts, keys)
                return to_params, _with_support(to_floats, width), info

            return cut

        sizes = [n for n in lengths if n < width]
        if not sizes:
            return gradient(params, floats, others, keys)
        index = jnp.searchsorted(jnp.asarray(sizes), jnp.max(support_sizes(episodes)))
        return jax.lax.switch(index, [*map(at, sizes), gradient], params, floats, others, keys)

    return chosen


def of_batch(gradient: TaskGradient) -> GradientFn:
    """The gradient of a batch whose tasks need no preparation."""

    def of_episodes(params: Params, episodes: Episode, key: jax.Array) -> tuple[PyTree, Info]:
        grads, _, info = gradient(params, (), episodes, task_keys(episodes, key))
        return grads, info

    return of_episodes


def prepared(gradient: TaskGradient, prepare: Prepare) -> GradientFn:
    """The gradient of a batch with ``prepare`` applied, and differentiated, once for the batch."""

    def of_episodes(params: Params, episodes: Episode, key: jax.Array) -> tuple[PyTree, Info]:
        own, rest = tree.partition(params, prepare.owns)
        seen = lambda own, rest: _in_two(prepare.apply(tree.merge(own, rest), episodes))
        floats, pull, others = jax.vjp(seen, own, rest, has_aux=True)
        grads, to_floats, info = gradient(rest, floats, others, task_keys(episodes, key))
        to_own, to_rest = pull(to_floats)
        return tree.merge(to_own, jax.tree.map(jnp.add, grads, to_rest)), info

    return of_episodes


def sorted_by_length(gradient_fn: GradientFn) -> GradientFn:
    """The same gradient, with the tasks sorted by the size of their support.

    Chunks then hold tasks of similar length, of which `cut_to_length` takes advantage. Several
    seeds are computed one after the other: under ``vmap`` each would compute every branch.
    """

    @jax.custom_batching.sequential_vmap
    def in_order(params: Params, episodes: Episode, keys: jax.Array) -> tuple[PyTree, Info]:
        order = jnp.argsort(support_sizes(episodes))
        return gradient_fn(params, *jax.tree.map(lambda x: x[order], (episodes, keys)))

    return lambda params, episodes, key: in_order(params, episodes, task_keys(episodes, key))


def task_keys(episodes: Episode, key: jax.Array) -> jax.Array:
    """The keys (T,) of a batch's tasks: split from one key (), or the given keys (T,)."""
    return jax.random.split(key, len(episodes.query.mask)) if key.ndim == 0 else key


def support_sizes(episodes: Episode) -> jax.Array:
    """The number of rows (T,) of each support up to the last one that is not padding."""
    mask_TxN = episodes.support.mask
    place_N = jnp.arange(1, mask_TxN.shape[1] + 1)
    return jnp.max(jnp.where(mask_TxN > 0, place_N[None, :], 0), axis=1)


def _in_two(episodes: Episode) -> tuple[Episode, Episode]:
    """The floating-point leaves of episodes, and the others; see `tree.merge`."""
    smooth = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    keep = lambda wanted: jax.tree.map(lambda x: x if smooth(x) == wanted else None, episodes)
    return keep(True), keep(False)


def _merged(floats: PyTree, others: PyTree) -> Episode:
    return others if floats == () else tree.merge(floats, others)


def _with_support(episodes: PyTree, width: int) -> PyTree:
    """The episodes, or a part of them, with supports cut or padded with zeros to ``width`` rows."""
    if episodes == ():
        return ()

    def resized(x: jax.Array) -> jax.Array:
        missing = width - x.shape[1]
        if missing <= 0:
            return x[:, :width]
        return jnp.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)])

    return episodes._replace(support=jax.tree.map(resized, episodes.support))
