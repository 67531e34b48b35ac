"""More devices than one: tasks along one axis of a mesh, rows of large tables along the other.

The same program runs on one CPU, on several devices of a host and on several hosts under
`jax.distributed`: tasks are dealt to the devices explicitly, each computes the gradient of its own
in chunks, and one mean over the axis joins them. What crosses between devices in an outer step is
the gradient of the shared parameters, once. Tables stay where their rows lie; the compiler moves
the touched rows.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.training.outer_gradient import GradientFn, task_keys
from metajax.training.steps import Recipe
from metajax.types import Episode, Params, PyTree, UserError

TASKS, ROWS = "tasks", "rows"


def make_available(count: int) -> None:
    """Sees to it that JAX has so many devices; a processor is split into as many, if it must.

    Call it before anything is computed: JAX settles its devices then, once.

    Raises:
      UserError: there are fewer devices.
    """
    if count > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # settled already: what there is must do
            jax.config.update("jax_num_cpu_devices", count)
    _check(count)


def _check(count: int) -> None:
    there, kind = jax.device_count(), jax.default_backend()
    if count > there:
        raise UserError(
            f"--devices {count} asks for more devices than there are: {there} ({kind}); "
            f"ask for {there} or fewer"
        )


def mesh(num_rows: int = 1, count: int | None = None) -> Mesh:
    """The devices, of all processes, as a mesh with the axes ``tasks`` and ``rows``.

    Args:
      num_rows: devices that share the rows of a large table; the others repeat them.
      count: how many devices; None is all of them.

    Raises:
      UserError: the devices cannot be dealt so, or there are fewer.
    """
    _check(count or 1)
    devices = np.asarray(jax.devices()[:count])
    if len(devices) % num_rows:
        raise UserError(f"{len(devices)} devices do not divide into groups of {num_rows}")
    return Mesh(devices.reshape(-1, num_rows), (TASKS, ROWS))


def place(mesh: Mesh, tree: PyTree, axis: str | None = None) -> PyTree:
    """The tree on the devices of a mesh: whole on each, or its leading axis dealt along ``axis``.

    Every process must hold the same arrays; each keeps its own part.
    """
    where = NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(axis))

    def put(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    return jax.tree.map(put, tree)


def fetch(tree: PyTree) -> PyTree:
    """The tree as arrays of the host, whole in every process: what a checkpoint holds."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def dealt(mesh: Mesh, gradient_fn: GradientFn) -> GradientFn:
    """The same gradient of a batch of tasks that is dealt over the ``tasks`` axis of a mesh.

    Every task gets the key that it would get on one device; chunks are chunks of one device. The
    parameters are whole on every device, and the gradients are joined by one mean.

    Raises:
      UserError: when called, if the tasks cannot be dealt evenly.
    """

    def local(params: Params, episodes: Episode, keys: jax.Array):
        return jax.lax.pmean(gradient_fn(params, episodes, keys), TASKS)

    dealt, whole = PartitionSpec(TASKS), PartitionSpec()
    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, dealt, dealt),
        out_specs=whole,
        axis_names={TASKS, ROWS},
        check_vma=False,
    )

    def gradient(params: Params, episodes: Episode, key: jax.Array):
        _check_even(len(episodes.query.mask), mesh, "tasks")
        return run(params, episodes, task_keys(episodes, key))

    return gradient


def split_by_compiler(mesh: Mesh, gradient_fn: GradientFn, axis: int = 0) -> GradientFn:
    """The same gradient of a batch whose rows the compiler deals over the ``tasks`` axis.

    For losses of a whole batch that are no mean over tasks. What the devices must tell each other
    is up to the compiler.

    Args:
      axis: of the rows, in all leaves of a batch; of an `Episode`, of support and query.

    Raises:
      UserError: when called, if the rows cannot be dealt evenly.
    """
    where = NamedSharding(mesh, PartitionSpec(*[None] * axis, TASKS))

    def dealt(rows: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(rows):
            _check_even(leaf.shape[axis], mesh, "rows")
        return jax.lax.with_sharding_constraint(rows, where)

    def gradient(params: Params, batch: Any, key: jax.Array):
        if isinstance(batch, Episode):
            support, query = dealt((batch.support, batch.query))
            return gradient_fn(params, batch._replace(support=support, query=query), key)
        return gradient_fn(params, dealt(batch), key)

    return gradient


def split_second_axis(mesh: Mesh, gradient_fn: GradientFn) -> GradientFn:
    """`split_by_compiler` for one episode of stacked people, leaves (1, B, ...).

    Such are the batches of `learners.in_context.in_batches`.
    """
    return split_by_compiler(mesh, gradient_fn, 1)


def _check_even(number: int, mesh: Mesh, what: str) -> None:
    if number % mesh.shape[TASKS]:
        raise UserError(
            f"{number} {what} of a step do not divide over {mesh.shape[TASKS]} devices; ask for "
            "--devices that divide them"
        )


def on_devices(
    count: int,
    recipe: Recipe,
    deal: Callable[[Mesh, GradientFn], GradientFn] = dealt,
) -> Recipe:
    """The recipe on so many devices: what ``--devices`` asks for. One device changes nothing.

    Args:
      count: the number of devices.
      recipe: how one device trains.
      deal: `dealt`, `split_by_compiler` or `split_second_axis`.

    Raises:
      UserError: there are fewer devices.
    """
    if count == 1:
        return recipe
    over = mesh(count=count)
    whole = NamedSharding(over, PartitionSpec())

    def init(key: jax.Array, batch: Any) -> Params:
        return jax.lax.with_sharding_constraint(recipe.init(key, batch), whole)

    return recipe._replace(init=init, gradient_fn=deal(over, recipe.gradient_fn))
