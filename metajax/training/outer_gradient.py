"""The outer gradient of a batch of tasks, so that memory stays flat and work stays in cache.

Nothing here changes a number beyond rounding: tasks are taken in chunks and their gradients
accumulated, supports are cut to what the tasks of a chunk really hold, and what does not change
within a task is computed once for the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import tree
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError


class Prepare(NamedTuple):
    """Work on a whole batch before its tasks are taken apart: look-ups, frozen towers.

    Attributes:
      owns: the parameters that it alone uses; the tasks' own losses give them no gradient.
      apply: (params, episodes (T, ...)) -> the episodes that the learner sees, with the same masks.
    """

    owns: tree.Filter
    apply: Callable[[Params, Episode], Episode]


def batch_gradient(
    learner: MetaLearner,
    params: Params,
    episodes: Episode,
    key: jax.Array,
    chunk_size: int | None = None,
    lengths: Sequence[int] = (),
    prepare: Prepare | None = None,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """The gradient of the mean outer loss over a batch of tasks, and the mean of its info.

    Args:
      episodes: leaves (T, ...).
      key: one key, or the keys (T,) of the tasks.
      chunk_size: take this many tasks at a time and accumulate, so that memory does not grow with
        T and intermediate results stay in cache; it must divide T. None takes all at once.
      lengths: sizes of the support, from small to large. Tasks are sorted by the size of theirs,
        and each chunk is computed at the first of these sizes that holds all its rows, or else at
        the full one. Under ``vmap`` all of them are computed: map over seeds with ``lax.map``.
      prepare: what is computed, and differentiated, once for the batch.

    Raises:
      UserError: chunks do not divide the batch.
    """
    num_tasks = jax.tree.leaves(episodes)[0].shape[0]
    keys = jax.random.split(key, num_tasks) if key.ndim == 0 else key
    if lengths:
        order = jnp.argsort(support_sizes(episodes))
        episodes, keys = jax.tree.map(lambda x: x[order], (episodes, keys))
    if prepare is None:
        grads, _, info = _in_chunks(learner, params, (), episodes, keys, chunk_size, lengths)
        return grads, info
    own, rest = tree.partition(params, prepare.owns)
    seen = lambda own, rest: _floats(prepare.apply(tree.merge(own, rest), episodes))
    floats, pull, others = jax.vjp(seen, own, rest, has_aux=True)
    grads, to_floats, info = _in_chunks(learner, rest, floats, others, keys, chunk_size, lengths)
    to_own, to_rest = pull(to_floats)
    return tree.merge(to_own, jax.tree.map(jnp.add, grads, to_rest)), info


def support_sizes(episodes: Episode) -> jax.Array:
    """The rows (T,) that each support needs: up to the last one that is no padding."""
    mask_TxN = episodes.support.mask
    place_N = jnp.arange(1, mask_TxN.shape[1] + 1)
    return jnp.max(jnp.where(mask_TxN > 0, place_N[None, :], 0), axis=1)


def _floats(episodes: Episode) -> tuple[Episode, Episode]:
    """The floating-point leaves of episodes, and the others; see `tree.merge`."""
    smooth = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    keep = lambda wanted: jax.tree.map(lambda x: x if smooth(x) == wanted else None, episodes)
    return keep(True), keep(False)


def _in_chunks(
    learner: MetaLearner,
    params: Params,
    floats: PyTree,
    others: PyTree,
    keys: jax.Array,
    chunk_size: int | None,
    lengths: Sequence[int],
) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
    """The gradients of the mean loss to the parameters and to the tasks' ``floats``, and the info.

    Episodes are ``floats`` merged with ``others``, or ``others`` alone if there are no ``floats``.
    """
    num_tasks = len(keys)
    size = num_tasks if chunk_size is None else min(chunk_size, num_tasks)
    num_chunks = num_tasks // size
    if num_chunks * size != num_tasks:
        raise UserError(f"chunks of {size} tasks do not divide a batch of {num_tasks}")

    def one_chunk(floats: PyTree, others: PyTree, keys: jax.Array):
        full = others if floats == () else tree.merge(floats, others)
        sizes = [n for n in lengths if n < full.support.mask.shape[1]]
        branches = [_gradient_at(learner, n) for n in (*sizes, None)]
        if not sizes:
            return branches[0](params, floats, others, keys)
        needed = jnp.max(support_sizes(full))
        at = jnp.searchsorted(jnp.asarray(sizes), needed)
        return jax.lax.switch(at, branches, params, floats, others, keys)

    if num_chunks == 1:
        return one_chunk(floats, others, keys)
    chunks = jax.tree.map(
        lambda x: x.reshape(num_chunks, size, *x.shape[1:]), (floats, others, keys)
    )
    first = jax.tree.map(lambda x: x[0], chunks)
    to_params, _, info = jax.eval_shape(lambda chunk: one_chunk(*chunk), first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (to_params, info))

    def add(total: PyTree, chunk: PyTree):
        to_params, to_floats, info = one_chunk(*chunk)
        return jax.tree.map(jnp.add, total, (to_params, info)), to_floats

    total, to_floats = jax.lax.scan(add, zeros, chunks)
    to_params, info = jax.tree.map(lambda x: x / num_chunks, total)
    joined = lambda x: x.reshape(num_tasks, *x.shape[2:]) / num_chunks
    return to_params, jax.tree.map(joined, to_floats), info


def _gradient_at(learner: MetaLearner, size: int | None) -> Callable:
    """The gradients of the mean loss of some tasks whose support has at most ``size`` rows."""

    def mean_loss(params: Params, floats: PyTree, others: PyTree, keys: jax.Array):
        episodes = others if floats == () else tree.merge(floats, others)
        support = jax.tree.map(lambda x: x[:, :size], episodes.support)
        episodes = episodes._replace(support=support)
        losses, info = jax.vmap(learner.loss, (None, 0, 0))(params, episodes, keys)
        return jnp.mean(losses), jax.tree.map(jnp.mean, {"loss": losses, **info})

    def gradients(*args: PyTree):
        (to_params, to_floats), info = jax.grad(mean_loss, (0, 1), has_aux=True)(*args)
        return to_params, to_floats, info

    return gradients
