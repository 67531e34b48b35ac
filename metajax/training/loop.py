"""The training loop: outer steps on the device, block by block, for several seeds at once.

`fit` is the only loop that updates parameters by gradients across tasks. Between two blocks of
steps the host checks that the numbers are finite, keeps the parameters if they are the best on
validation, and saves a checkpoint if it is time. Batches are drawn inside the compiled program, so
that nothing crosses between host and device within a block.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from metajax.training import progress, resume, standstill
from metajax.training.devices import lay, warn_of_waiting
from metajax.training.outer_gradient import outer_gradient
from metajax.training.resume import Progress
from metajax.training.steps import (
    SCORE,
    Diverged,
    Recipe,
    Sampler,
    TrainState,
    init,
    recipe,
    sampler,
    step,
    steps,
    world_sampler,
)
from metajax.types import Params, PyTree, UserError

__all__ = [
    "Diverged",
    "Fitted",
    "Programs",
    "Recipe",
    "Sampler",
    "TrainState",
    "fit",
    "init",
    "outer_gradient",
    "programs",
    "recipe",
    "sampler",
    "step",
    "steps",
    "world_sampler",
]

Validate = Callable[[Params], jax.Array]
"""params of one seed -> scalar, lower is better; it may look at meta-validation only."""


class Fitted(NamedTuple):
    """The result of `fit`; every leaf has the S seeds as its leading axis.

    Attributes:
      params: the best parameters on meta-validation, or the last ones without validation; they are
        finite.
      best_step: (S,) the outer step of these parameters.
      history: name -> (S, number of blocks); ``loss`` is the mean outer loss of each block,
        ``valid`` the validation score after it, if there is one.
      state: the state after the last step.
      seconds: time in the loop, including that before a resume.
      diverged: the seeds that diverged, if `fit` was called with ``go_on``.
    """

    params: Params
    best_step: np.ndarray
    history: dict[str, np.ndarray]
    state: TrainState
    seconds: float = 0.0
    diverged: tuple[Diverged, ...] = ()


class Programs(NamedTuple):
    """The programs of a training; each is compiled for the shapes that it is first called with.

    Attributes:
      begin: (data, keys (S,)) -> the state before the first step, leaves (S, ...).
      block: (state, data, length) -> the state after ``length`` steps, and what each step told.
      judge: parameters, leaves (S, ...) -> (S,) validation scores; None without validation.
    """

    begin: Callable[[PyTree, jax.Array], TrainState]
    block: Callable[[TrainState, PyTree, int], tuple[TrainState, dict[str, jax.Array]]]
    judge: Callable[[Params], jax.Array] | None


def programs(recipe: Recipe, sample: Sampler, validate: Validate | None = None) -> Programs:
    """The programs of `fit`, to be used for several trainings."""
    begin = lambda data, keys: jax.vmap(lambda key: init(recipe, key, sample(data, key)))(keys)
    judge = validate and jax.jit(_over_seeds(validate))
    return Programs(jax.jit(begin), _block_of(recipe, sample), judge)


def fit(
    recipe: Recipe,
    sample: Sampler,
    data: PyTree,
    keys: jax.Array,
    num_steps: int,
    *,
    title: str = "",
    block: int = 100,
    piece: int | None = None,
    validate: Validate | None = None,
    report: Callable[[int, dict[str, float]], Any] | None = None,
    checkpoint: pathlib.Path | None = None,
    save_every: float = 10.0,
    go_on: bool = False,
    seconds: float = float("inf"),
    patience: int = 0,
    compiled: Programs | None = None,
) -> Fitted:
    """The parameters after ``num_steps`` outer steps, for all seeds in one program.

    With ``checkpoint`` the same call resumes a killed run, bit for bit.

    Args:
      recipe: initialization, gradient and update; `recipe` makes one from a learner.
      sample, data: what draws the batch of a step, and from what; that goes to the devices.
      keys: (S,) one key per seed.
      num_steps, block: outer steps in all, and between two checks by the host.
      piece: outer steps between two possible checkpoints; by default a block.
      title: of a progress bar; without one there is none.
      validate: params of one seed -> scalar, lower is better.
      report: called after each block with the steps done and the mean metrics.
      checkpoint: folder for checkpoints, written every ``save_every`` seconds and at the end.
      go_on: keep the best parameters of a seed that is no longer finite (`Fitted.diverged`).
      seconds: the training ends with the block after so much time in the loop.
      patience: outer steps without a lower validation score of any seed that end it; 0 for never.
      compiled: `programs` of this recipe, sample and validation; by default they are made here.

    Raises:
      UserError: something is not finite; checkpoints are of another run, damaged, not writable.
    """
    if num_steps < 1:
        raise UserError(f"{num_steps} outer steps train nothing; ask for 1 or more")
    assert validate or not patience, "a plateau is one of the validation score"
    sizes = min(piece or block, block, num_steps), min(block, num_steps), num_steps
    begin, run_block, judge = compiled or programs(recipe, sample, validate)
    at = _fresh(begin(data, keys))
    laid = functools.partial(lay, where=_where(at.state.params))
    at, data = at._replace(state=laid(at.state)), laid(data)
    with ExitStack() as stack, standstill.watched():
        run = (run_block, judge, data), at, sizes
        at, save = resume.going_on(stack, checkpoint, *run, save_every)
        at = at._replace(state=laid(at.state))
        tell = _teller(stack, title, at.done, num_steps, report)
        more = lambda at: not _ended(at, num_steps, seconds, patience)
        while more(at):
            at = _advance(run_block, judge, at, data, sizes, go_on)
            save(at, not more(at))
            tell(at)
    return Fitted(at.best, at.best_step, at.history, at.state, at.seconds, _diverged(at.broken))


def _ended(at: Progress, num_steps: int, seconds: float, patience: int) -> bool:
    """Whether a run has had all its steps or its time, or all its sound seeds are at a plateau."""
    if at.within:
        return False
    if at.done >= num_steps or at.seconds >= seconds:
        return True
    sound = at.broken[:, 0] == 0
    return patience > 0 and bool((at.done - at.best_step[sound] >= patience).all())


def _teller(
    stack: ExitStack,
    title: str,
    done: int,
    num_steps: int,
    report: Callable[[int, dict[str, float]], Any] | None,
) -> Callable[[Progress], None]:
    """What shows a training: a bar, if it has a title, and after each block the report."""
    show = stack.enter_context(progress.bar(title, num_steps, done)) if title else None

    def tell(at: Progress) -> None:
        for one in (show, None if at.within else report):
            if one is not None:
                one(at.done, {k: resume.mean(v[:, -1]) for k, v in at.history.items()})

    return tell


def _block_of(recipe: Recipe, sample: Sampler) -> Callable:
    """(state, data, length) -> the state after ``length`` steps, and what each step told."""
    warn_of_waiting()

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=2)
    def run_block(state: TrainState, data: PyTree, length: int):
        advance = steps(recipe, sample, length)
        state, info = _over_seeds(lambda one: advance(one, data))(state)
        return state, {name: info[name] for name in ("loss", "trouble")}

    return run_block


def _over_seeds(function: Callable) -> Callable:
    """The function of one seed for all seeds, side by side; for one seed, the program of one."""

    def run(state: PyTree):
        if jax.tree.leaves(state)[0].shape[0] > 1:
            return jax.vmap(function)(state)
        found = function(jax.tree.map(lambda x: x[0], state))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], found)

    return run


def _fresh(state: TrainState) -> Progress:
    """Where a run stands before its first block."""
    num_seeds, best = len(state.step), jax.tree.map(jnp.copy, _on_one_device(state.params))
    if not all(np.isfinite(x).all() for x in map(np.asarray, jax.tree.leaves(best))):
        raise UserError("the first parameters are not finite; look at the learner's init")
    never = np.zeros(num_seeds, int)
    broken = np.zeros((num_seeds, 2), int)
    return Progress(state, best, np.full(num_seeds, np.inf), never, broken, 0, {}, 0.0, {})


def _where(params: Params) -> Any:
    """Where state and data belong: on one device, or whole on each that the parameters lie on."""
    leaves = jax.tree.leaves(params)
    where = leaves[0].sharding if leaves else None
    return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where


def _on_one_device(params: Params) -> Params:
    """Parameters that are whole on each of many devices, as they lie on the first of them."""
    return jax.tree.map(
        lambda x: x.addressable_data(0) if len(x.sharding.device_set) > 1 else x, params
    )


def _advance(
    run_block: Callable,
    judge: Callable | None,
    at: Progress,
    data: PyTree,
    sizes: tuple[int, int, int],
    go_on: bool,
) -> Progress:
    """Where the run stands a piece later; ``sizes`` are those of a piece, a block and the run.

    Raises:
      UserError: a seed diverged, and ``go_on`` is false.
    """
    began, (piece, block, num_steps) = time.perf_counter(), sizes
    end = min(at.done - at.done % block + block, num_steps)
    length = min(piece, end - at.done)
    state, info = run_block(at.state, data, length)
    told = {k: np.asarray(v) for k, v in info.items()}
    if at.within:
        told = {k: np.concatenate([at.within[k], v], axis=1) for k, v in told.items()}
    spent, done = at.seconds + time.perf_counter() - began, at.done + length
    if done < end:
        return at._replace(state=state, done=done, seconds=spent, within=told)
    params = _on_one_device(state.params)
    now = {"loss": told["loss"].mean(axis=1)}
    if judge is not None:
        now["valid"] = np.asarray(judge(params))
    broken = _broken(at, told["trouble"], done, now.get("valid"))
    if broken.any() and not go_on:
        raise UserError(str(min(_diverged(broken), key=lambda d: d.step)))
    sound = broken[:, 0] == 0
    better = sound if judge is None else sound & (now["valid"] < at.best_score)
    best = params
    if judge is not None or go_on:
        best = _choose(better, params, at.best)
    if not sound.all():
        state = state._replace(params=_choose(sound, state.params, best))
    history = {
        name: np.column_stack([at.history[name], value]) if at.history else value[:, None]
        for name, value in now.items()
    }
    score = now.get("valid", at.best_score)
    return Progress(
        state,
        best,
        np.where(better, score, at.best_score),
        np.where(better, done, at.best_step),
        broken,
        done,
        history,
        at.seconds + time.perf_counter() - began,
        {},
    )


def _choose(better: np.ndarray, new: Params, old: Params) -> Params:
    """Per seed, the new or the old parameters (S, ...); always in buffers of their own."""

    def of_leaf(new: jax.Array, old: jax.Array) -> jax.Array:
        chosen = jnp.asarray(better).reshape(-1, *(1,) * (new.ndim - 1))
        return jnp.where(chosen, new, jax.device_put(old, new.sharding))

    return jax.tree.map(of_leaf, new, old)


def _broken(at: Progress, trouble: np.ndarray, done: int, valid: np.ndarray | None) -> np.ndarray:
    """Where each seed stands diverged (S, 2) after a block with ``trouble`` (S, steps)."""
    broken, start = at.broken.copy(), done - trouble.shape[1]
    for seed in np.flatnonzero(broken[:, 0] == 0):
        bad = np.flatnonzero(trouble[seed])
        if bad.size:
            broken[seed] = start + bad[0] + 1, trouble[seed, bad[0]]
        elif valid is not None and not np.isfinite(valid[seed]):
            broken[seed] = done, SCORE
    return broken


def _diverged(broken: np.ndarray) -> tuple[Diverged, ...]:
    return tuple(
        Diverged(seed, int(step), int(what)) for seed, (step, what) in enumerate(broken) if step
    )
