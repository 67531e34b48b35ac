"""Training on several devices: tasks sharded over one axis of a mesh, table rows over the other.

The same program runs on one CPU, on several devices of a host and on several hosts under
`jax.distributed`. The tasks of a batch are sharded explicitly, each device computes the gradient of
its own tasks in chunks, and one mean over the axis (an all-reduce) joins them: per outer step the
gradient of the shared parameters crosses between devices once. Table rows stay on their device; the
compiler moves the touched rows.
"""

import contextlib
import importlib.metadata
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax import places
from metajax.training.outer_gradient import GradientFn, task_keys
from metajax.training.steps import Recipe
from metajax.types import Episode, Params, PyTree, UserError

TASKS, ROWS = "tasks", "rows"
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
"""Operations of a program one after the other, each on all cores. Side by side, batches of linear
systems wait forever for each other's threads on few cores (jaxlib 0.10.2; not 0.11.2). The option
makes that rare, but some operations still run side by side."""


def in_order() -> None:
    """Asks XLA to run operations `IN_ORDER`, unless the user's XLA_FLAGS say something of it.

    Commands do so. Call it before anything is computed: XLA reads its flags at the first device.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if IN_ORDER.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{IN_ORDER} {flags}".strip()


def may_wait(version: str = "", cores: int | None = None) -> bool:
    """Whether a program may wait forever, see `IN_ORDER`: on few cores, with an old jaxlib."""
    version = version or importlib.metadata.version("jaxlib")
    mine = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))
    few = 1 < (cores or len(mine(0))) < 8 and jax.default_backend() == "cpu"
    return few and tuple(int(part) for part in version.split(".")[:2]) < (0, 11)


def warn_of_waiting(version: str = "", cores: int | None = None) -> None:
    """Warns where a program `may_wait` forever and does not run `in_order`."""
    told = IN_ORDER in os.environ.get("XLA_FLAGS", "") or "NPROC" in os.environ
    if may_wait(version, cores) and not told:
        version = version or importlib.metadata.version("jaxlib")
        warnings.warn(
            f"with jaxlib {version} on few cores a program that solves linear systems may wait "
            "forever: call metajax.training.devices.in_order() before anything is computed, or "
            "install jax 0.11",
            stacklevel=4,  # whoever calls `loop.fit`
        )


def make_available(count: int) -> None:
    """Makes ``count`` devices available to JAX, on a CPU by splitting it into that many.

    Call it before anything is computed, since JAX fixes its devices at the first computation.
    Where several processes run the same command, see `places.processes`, this one joins the others,
    and ``count`` is that of all of them together.

    Raises:
      UserError: there are fewer devices, or they do not divide over the processes.
    """
    _check_processes()
    if places.processes() > 1:
        _join(count, places.processes())
    elif count > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # settled already: what there is must do
            jax.config.update("jax_num_cpu_devices", count)
    if count > 1:  # one there is; to count them would settle what a process may yet join
        _check(count)


def _check_processes() -> None:
    """Refuses an environment that does not say how many processes meet, and which one this is."""
    if places.COORDINATOR not in os.environ:
        return
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        if not os.environ.get(name, "").isdecimal():
            raise UserError(f"{places.COORDINATOR} is set, so {name} must be set to a number")
    if not places.process() < max(places.processes(), 1):
        raise UserError("JAX_PROCESS_ID counts from 0 and must be below JAX_NUM_PROCESSES")


def _join(count: int, num_processes: int) -> None:
    """Joins the other processes, with as many devices of a CPU as each has to bring."""
    if count % num_processes:
        raise UserError(
            f"{num_processes} processes (JAX_NUM_PROCESSES) cannot share --devices {count}; ask "
            f"for a multiple of {num_processes}"
        )
    jax.config.update("jax_num_cpu_devices", count // num_processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(num_processes=num_processes, process_id=places.process())


def _check(count: int) -> None:
    there, kind = jax.device_count(), jax.default_backend()
    if count > there:
        raise UserError(
            f"--devices {count} asks for more devices than there are: {there} ({kind}); "
            f"ask for {there} or fewer"
        )


def mesh(num_rows: int = 1, count: int | None = None) -> Mesh:
    """The devices of all processes as a mesh with the axes ``tasks`` and ``rows``.

    Args:
      num_rows: length of the axis ``rows``: over so many devices a large table is sharded.
      count: how many devices; None is all of them.

    Raises:
      UserError: ``num_rows`` does not divide the number of devices, or there are fewer devices.
    """
    _check(count or 1)
    devices = np.asarray(jax.devices()[:count])
    if len(devices) % num_rows:
        raise UserError(f"{len(devices)} devices do not divide into groups of {num_rows}")
    return Mesh(devices.reshape(-1, num_rows), (TASKS, ROWS))


def place(mesh: Mesh, tree: PyTree, axis: str | None = None) -> PyTree:
    """The tree on the devices of a mesh: replicated, or its leading axis sharded over ``axis``.

    Every process must pass the same arrays; each keeps its own shard.
    """
    spec = PartitionSpec() if axis is None else PartitionSpec(axis)
    return lay(tree, NamedSharding(mesh, spec))


def lay(tree: PyTree, where: jax.sharding.Sharding | None) -> PyTree:
    """The tree where a sharding says, over the devices of several processes as well.

    Every process must pass the same arrays.
    """
    if where is None or where.is_fully_addressable:
        return jax.device_put(tree, where)

    def put(leaf: jax.Array) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == where:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    return jax.tree.map(put, tree)


def fetch(tree: PyTree) -> PyTree:
    """The tree as host arrays, complete in every process, as checkpoints hold it."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def dealt(mesh: Mesh, gradient_fn: GradientFn) -> GradientFn:
    """The same gradient of a batch of tasks that is sharded over the ``tasks`` axis of a mesh.

    Every task gets the key that it would get on one device; a chunk size is per device. The
    parameters are replicated, and the gradients are joined by one mean.

    Raises:
      UserError: when called, if the number of devices does not divide that of the tasks.
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
        check_even(mesh.shape[TASKS], len(episodes.query.mask))
        return run(params, episodes, task_keys(episodes, key))

    return gradient


def split_by_compiler(mesh: Mesh, gradient_fn: GradientFn, axis: int = 0) -> GradientFn:
    """The same gradient of a batch whose rows the compiler shards over the ``tasks`` axis.

    For losses of a whole batch that are not a mean over tasks. The compiler chooses the
    communication.

    Args:
      axis: of the rows, in all leaves of a batch; of an `Episode`, in support and query.

    Raises:
      UserError: when called, if the number of devices does not divide that of the rows.
    """
    dealt = split_rows(mesh, axis)

    def gradient(params: Params, batch: Any, key: jax.Array):
        if isinstance(batch, Episode):
            support, query = dealt((batch.support, batch.query))
            return gradient_fn(params, batch._replace(support=support, query=query), key)
        return gradient_fn(params, dealt(batch), key)

    return gradient


def split_rows(mesh: Mesh, axis: int = 0) -> Callable[[PyTree], PyTree]:
    """A function of rows, within a program: the same rows, sharded over the ``tasks`` axis.

    Args:
      axis: of the rows, in all leaves.

    Raises:
      UserError: when called, if the number of devices does not divide that of the rows.
    """
    where = NamedSharding(mesh, PartitionSpec(*[None] * axis, TASKS))

    def dealt(rows: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(rows):
            check_even(mesh.shape[TASKS], leaf.shape[axis], "rows")
        return jax.lax.with_sharding_constraint(rows, where)

    return dealt


def split_over(count: int) -> Callable[[PyTree], PyTree]:
    """`split_rows` over ``count`` devices, as ``--devices`` asks; with 1 rows stay as they are.

    For a training that is no call of `loop.fit`, such as one whose policy acts while it learns.
    """
    return split_rows(mesh(count=count)) if count > 1 else lambda rows: rows


def split_second_axis(mesh: Mesh, gradient_fn: GradientFn) -> GradientFn:
    """`split_by_compiler` over the second axis: for one episode of B stacked people, (1, B, ...).

    Batches of `learners.in_context.in_batches` have this shape.
    """
    return split_by_compiler(mesh, gradient_fn, 1)


def check_even(count: int, number: int, what: str = "tasks") -> None:
    """Refuses a batch that devices cannot share; every training does it before its first step.

    Call it first where a training of another batch goes before.

    Args:
      count: the number of devices.
      number: how many tasks or rows a batch has; what: the word for them.

    Raises:
      UserError: ``count`` does not divide ``number``.
    """
    if number % count:
        raise UserError(
            f"{number} {what} of a step do not divide over {count} devices; ask for "
            "--devices that divide them"
        )


def on_devices(
    count: int,
    recipe: Recipe,
    deal: Callable[[Mesh, GradientFn], GradientFn] = dealt,
) -> Recipe:
    """The recipe on ``count`` devices, as the option ``--devices`` asks; with 1 it is unchanged.

    Args:
      count: the number of devices.
      recipe: for one device.
      deal: how a batch is sharded: `dealt`, `split_by_compiler` or `split_second_axis`.

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
