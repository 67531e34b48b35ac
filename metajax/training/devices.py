"""More devices than one: tasks along one axis of a mesh, rows of large tables along the other.

The same program runs on one CPU, on several devices of a host and on several hosts under
`jax.distributed`: tasks are dealt to the devices explicitly, each computes the gradient of its own
in chunks, and one mean over the axis joins them. What crosses between devices in an outer step is
the gradient of the shared parameters, once. Tables stay where their rows lie; the compiler moves
the touched rows.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.training import outer_gradient
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

TASKS, ROWS = "tasks", "rows"
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_RESULT = re.compile(rf"= (\(?[^=]*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")


def mesh(num_rows: int = 1) -> Mesh:
    """All devices, of all processes, as a mesh with the axes ``tasks`` and ``rows``.

    Args:
      num_rows: devices that share the rows of a large table; the others repeat them.

    Raises:
      UserError: the devices cannot be dealt so.
    """
    devices = np.asarray(jax.devices())
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


def batch_gradient(
    mesh: Mesh,
    learner: MetaLearner,
    params: Params,
    episodes: Episode,
    key: jax.Array,
    *how: Any,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """`outer.batch_gradient` of a batch that is dealt over the ``tasks`` axis of a mesh.

    Every task gets the key that it would get on one device. Chunks are chunks of one device.

    Args:
      params: on every device.
      episodes: leaves (T, ...); the axis must divide T.
      how: the further arguments of `outer.batch_gradient`.

    Raises:
      UserError: the tasks cannot be dealt evenly.
    """
    num_tasks, num_devices = len(episodes.query.mask), mesh.shape[TASKS]
    if num_tasks % num_devices:
        raise UserError(f"{num_tasks} tasks do not divide over {num_devices} devices")
    keys = jax.random.split(key, num_tasks)

    def local(params: Params, episodes: Episode, keys: jax.Array):
        found = outer_gradient.batch_gradient(learner, params, episodes, keys, *how)
        return jax.lax.pmean(found, TASKS)

    dealt, whole = PartitionSpec(TASKS), PartitionSpec()
    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, dealt, dealt),
        out_specs=whole,
        axis_names={TASKS, ROWS},
        check_vma=False,
    )
    return run(params, episodes, keys)


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of what each kind of collective of a compiled program results in, on one device.

    >>> text = "%a = f32[8,4]{1,0} all-reduce(f32[8,4]{1,0} %p), replica_groups={{0,1}}"
    >>> collective_bytes(text)
    {'all-reduce': 128}

    What crosses the wire follows from it: a ring of N devices sends and receives 2 (N - 1) / N of
    it for an all-reduce, (N - 1) / N for an all-gather. One inside a loop counts once.

    Args:
      program: `jax.stages.Compiled.as_text`.
    """
    found: dict[str, int] = {}
    for line in re.sub(r"/\*.*?\*/", "", program).splitlines():
        match = _RESULT.search(line)
        if match is None:
            continue
        arrays = _ARRAY.findall(match[1])
        if "-start(" in line and match[2] != "all-reduce":  # the operands stand before the results
            arrays = arrays[len(arrays) // 2 :]
        size = sum(
            _bits(kind) // 8 * math.prod(map(int, filter(None, shape.split(","))))
            for kind, shape in arrays
        )
        found[match[2]] = found.get(match[2], 0) + size
    return found


def _bits(kind: str) -> int:
    return 8 if kind == "pred" else int(kind.lstrip("bsuf"))
