"""Checkpoints of a run: written in the background, atomically, and verified leaf by leaf when read.

Orbax writes them. This file adds a digest of every leaf (without it a flipped bit would load
silently), the identity of the run (checkpoints of another run are refused), and the fallback to the
last undamaged one. Orbax is imported when a store is opened, since the import takes a second.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import places, tree
from metajax.types import PyTree, UserError

KEEP_LAST = 2
ROOM = 2**20  # bytes to leave free beside twice the size of a checkpoint
NOTES, DIGESTS = "notes", "digests"
Passes = Callable[[int, dict[str, Any]], bool]


class Saved(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
      step: the outer step it was saved at.
      tree: the saved tree, with the structure and leaf types of the ``like`` given to ``latest``.
      notes: the JSON saved with it.
    """

    step: int
    tree: PyTree
    notes: dict[str, Any]


class Store(NamedTuple):
    """The checkpoints of one run.

    Attributes:
      latest: (like, passes) -> the newest good checkpoint in the structure of ``like`` whose step
        and notes ``passes(step, notes)``, or None.
      save: (step, tree, notes, score) -> None; returns before the files are written. ``notes`` is
        JSON; the checkpoint with the lowest ``score`` is kept besides the last two.
    """

    latest: Callable[..., Saved | None]
    save: Callable[[int, PyTree, dict[str, Any], float], None]


@contextlib.contextmanager
def opened(folder: pathlib.Path, identity: str) -> Iterator[Store]:
    """A context manager of the checkpoint store in a folder; on exit it waits for pending writes.

    Args:
      folder: created if missing. One process at a time may write to it.
      identity: a text that two runs share only if one may resume from the other's checkpoints.

    Raises:
      UserError: a checkpoint belongs to another run, all are damaged, or one cannot be written.
    """
    from orbax.checkpoint import v1 as ocp

    _quiet()
    folder = places.shared(folder.resolve())
    pending: list[Any] = []
    checkpointers: list[Any] = []

    def settle() -> None:
        with _told(folder):
            while pending:
                pending.pop().result()

    def save(step: int, state: PyTree, notes: dict[str, Any], score: float) -> None:
        settle()
        arrays = _flat(state) | {NOTES: _encoded({"identity": identity, "notes": notes})}
        arrays[DIGESTS] = _encoded({name: digest(value) for name, value in arrays.items()})
        with _told(folder):
            _check_room(folder, arrays)
            if not checkpointers:
                checkpointers.append(_checkpointer(folder))
            response = checkpointers[0].save_async(
                step, arrays, force=True, overwrite=True, metrics={"score": float(score)}
            )
        pending.append(response)

    def latest(like: PyTree, passes: Passes = lambda step, notes: True) -> Saved | None:
        return _latest(folder, identity, like, passes, lambda path: ocp.load(path))

    try:
        yield Store(latest, save)
        settle()
    finally:
        for checkpointer in checkpointers:
            with contextlib.suppress(Exception):  # what could not be written was told above
                checkpointer.close()


@functools.cache
def _quiet() -> None:
    """Keeps Orbax from printing tracebacks for what is told here in one line.

    It logs them, and where several leaves of a file are damaged, it takes up the first error alone:
    the others reach an event loop that is closed by then, or nobody.
    """
    of_orbax = f"{os.sep}orbax{os.sep}"
    logging.getLogger("absl").addFilter(lambda record: of_orbax not in record.pathname)
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    earlier = sys.unraisablehook

    def told(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            earlier(unraisable)

    sys.unraisablehook = told


def _check_room(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Refuses to begin a checkpoint that the disk has no room for."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = ROOM + 2 * sum(value.nbytes for value in arrays.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"the disk has {free / 1e6:.1f} MB left and {needed / 1e6:.1f} are needed")


def _checkpointer(folder: pathlib.Path):
    from orbax.checkpoint import v1 as ocp

    policies = ocp.training.preservation_policies
    best = policies.BestN(get_metric_fn=lambda metrics: metrics["score"], reverse=True, n=1)
    return ocp.training.Checkpointer(
        folder,
        cleanup_tmp_directories=True,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEEP_LAST), best]),
    )


@contextlib.contextmanager
def _told(folder: pathlib.Path) -> Iterator[None]:
    """Tells a failure to write in one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot write a checkpoint to {folder} ({reason}); make room or choose another --out, "
            "then run the same command: it goes on from the last whole checkpoint"
        ) from error


def _latest(
    folder: pathlib.Path,
    identity: str,
    like: PyTree,
    passes: Passes,
    load: Callable[[pathlib.Path], Any],
) -> Saved | None:
    """The newest good checkpoint; a damaged one is named, set aside, and the one before tried."""
    if not folder.is_dir():
        return None
    steps = sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)
    good = False
    for step in steps:
        path = folder / str(step)
        try:
            arrays = _verified(load(path))
            told = json.loads(arrays.pop(NOTES).tobytes())
        except Exception as error:  # Orbax and what it calls raise many kinds for a damaged file
            aside = _set_aside(path)
            reason = " ".join(str(error).split())[:120]
            print(
                f"warning: checkpoint {path} is damaged ({reason}); it is set aside as "
                f"{aside.name} and the one before is used",
                file=sys.stderr,
            )
            continue
        if told["identity"] != identity or set(arrays) != set(_flat(like)):
            raise UserError(
                f"checkpoint {path} belongs to another run (other settings, data, code or "
                f"versions); start anew with --fresh, or remove {folder}, or choose another --out"
            )
        good = True
        if passes(step, told["notes"]):
            return Saved(step, _unflat(like, arrays), told["notes"])
    if steps and not good:
        raise UserError(f"every checkpoint in {folder} is damaged; remove the folder to start anew")
    return None


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    return aside


def _verified(contents: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays, each of which has the digest that was stored with it."""
    arrays = {name: np.asarray(value) for name, value in contents.items()}
    digests = json.loads(arrays.pop(DIGESTS).tobytes())
    if set(arrays) != set(digests):
        raise ValueError("leaves and digests differ in number")
    for name, value in arrays.items():
        if digest(value) != digests[name]:
            raise ValueError(f"leaf {name} has not the digest it was saved with")
    return arrays


def digest(array: np.ndarray) -> str:
    """The blake2b digest of an array's dtype, shape and bytes, as 32 hexadecimal digits."""
    code = hashlib.blake2b(f"{array.dtype.name}{array.shape}".encode(), digest_size=16)
    code.update(np.ascontiguousarray(array).tobytes())
    return code.hexdigest()


def tree_digest(state: PyTree) -> str:
    """One digest of all leaves of a tree and of their paths."""
    parts = [f"{name} {digest(value)}" for name, value in sorted(_flat(state).items())]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _encoded(notes: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(notes).encode(), np.uint8).copy()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _flat(state: PyTree) -> dict[str, np.ndarray]:
    """Path -> a copy on the host of each leaf; the copy outlives the donation of its source."""
    plain = lambda x: np.array(jax.random.key_data(x) if _is_key(x) else x)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {tree.path_name(path): plain(leaf) for path, leaf in leaves}


def _unflat(like: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """The arrays in the structure of ``like``: keys typed, device arrays where it has them."""

    def typed(path: tuple, leaf: Any) -> Any:
        value = arrays[tree.path_name(path)]
        if _is_key(leaf):
            return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(leaf))
        return jnp.array(value) if isinstance(leaf, jax.Array) else value

    return jax.tree_util.tree_map_with_path(typed, like)
