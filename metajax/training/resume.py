"""What a training leaves in its checkpoints, and how the same call goes on from one."""

import hashlib
import pathlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.training import checkpoint as checkpoints
from metajax.training.steps import TrainState
from metajax.types import Params, PyTree, UserError


class Progress(NamedTuple):
    """The progress of `fit` between two calls of the device, as checkpoints hold it.

    Attributes:
      state: of the next step; leaves (S, ...).
      best: the parameters with the lowest validation score so far.
      best_score: (S,) those scores.
      best_step: (S,) the outer steps of these parameters.
      broken: (S, 2) the outer step at which a seed diverged and what was not finite; 0 if it did
        not.
      done: outer steps done.
      history: name -> (S, blocks done).
      seconds: spent so far.
      within: name -> (S, steps done of a block that has not ended), what each step told.
    """

    state: TrainState
    best: Params
    best_score: np.ndarray
    best_step: np.ndarray
    broken: np.ndarray
    done: int
    history: dict[str, np.ndarray]
    seconds: float
    within: dict[str, np.ndarray]


def mean(values: np.ndarray) -> float:
    """The mean over seeds that did not diverge; not a number, if all did."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def saver(store: checkpoints.Store, every: float) -> Callable[[Progress, bool], None]:
    """What stores where the run stands, if it is the last time or ``every`` seconds have passed.

    The mean validation score, or else the loss, ranks it.
    """
    saved = time.perf_counter()

    def save(at: Progress, last: bool) -> None:
        nonlocal saved
        if not last and time.perf_counter() - saved < every:
            return
        ranks = at.history.get("valid", at.history.get("loss"))
        score = float("inf") if ranks is None else mean(ranks[:, -1])
        plain = lambda told: {name: (str(v.dtype), v.tolist()) for name, v in told.items()}
        notes = {"seconds": at.seconds, "history": plain(at.history), "within": plain(at.within)}
        store.save(at.done, _arrays(at), notes, score if np.isfinite(score) else float("inf"))
        saved = time.perf_counter()

    return save


def going_on(
    stack: ExitStack,
    folder: pathlib.Path | None,
    run: tuple[Any, Any, PyTree],
    at: Progress,
    sizes: tuple[int, int, int],
    every: float,
) -> tuple[Progress, Callable[[Progress, bool], None]]:
    """Where a run goes on from, and what saves it; without a folder, where it stands and nothing.

    Args:
      stack: closes the checkpoints in the end.
      run: the programs of a block and of its judge, and the data.
      sizes: outer steps of a piece, of a block and of the run.
      every: see `saver`.
    """
    if folder is None:
        return at, lambda at, last: None
    (run_block, judge, data), (piece, block, num_steps) = run, sizes
    told = identity(run_block, judge, at, data, block, piece)
    store = stack.enter_context(checkpoints.opened(folder, told))
    return resumed(store, at, num_steps, block, folder), saver(store, every)


def _arrays(at: Progress) -> dict[str, PyTree]:
    names = ("state", "best", "best_score", "best_step", "broken")
    return {name: getattr(at, name) for name in names}


def resumed(
    store: checkpoints.Store, at: Progress, num_steps: int, block: int, folder: pathlib.Path
) -> Progress:
    """Where the run stood at its last good checkpoint; where it stands, if there is none.

    A run that ended within a block left a checkpoint that a longer run does not pass by: it goes
    on from the one before.
    """
    passes = lambda step, notes: bool(notes.get("within") or step % block == 0 or step >= num_steps)
    saved = store.latest(_arrays(at), passes)
    if saved is None:
        return at
    if saved.step > num_steps:
        raise UserError(
            f"{folder} holds {saved.step} outer steps, more than the {num_steps} asked for; "
            "ask for more, remove it, or choose another --out"
        )
    arrays = lambda told: {name: np.asarray(v, kind) for name, (kind, v) in told.items()}
    history, within = (arrays(saved.notes.get(name, {})) for name in ("history", "within"))
    seconds = saved.notes["seconds"]
    return Progress(**saved.tree, done=saved.step, history=history, seconds=seconds, within=within)


def identity(run_block: Any, judge: Any, at: Progress, data: PyTree, block: int, piece: int) -> str:
    """A digest of all that decides how a run goes: its programs, first state and data.

    The programs are compared as the compiler sees them, so that no setting can be forgotten, and
    another version of JAX, which may round otherwise, is another run.
    """
    parts = [jax.__version__, run_block.lower(at.state, data, piece).as_text()]
    if piece < block:
        parts.append(f"blocks of {block} steps")
    if judge is not None:
        parts.append(judge.lower(at.best).as_text())
    parts += [checkpoints.tree_digest(at.state), checkpoints.tree_digest(data)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
