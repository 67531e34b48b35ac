"""Learning to learn: outer steps over batches of tasks, scanned on the device.

`init` and `step` are pure; `fit` is the loop around them, for several seeds at once. Episodes are
drawn inside the compiled program, so that nothing crosses between host and device in a step.
"""

import functools
import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from metajax.training import checkpoint as checkpoints
from metajax.training import devices
from metajax.training.outer_gradient import Prepare, batch_gradient
from metajax.types import Episode, MetaLearner, Params, PyTree, UserError

Sampler = Callable[[PyTree, jax.Array], Episode]
"""(data, key) -> a batch of episodes, leaves (T, ...)."""


class TrainState(NamedTuple):
    """What the next outer step needs."""

    params: Params
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array


class Fitted(NamedTuple):
    """The outcome of `fit`; every leaf has the seeds as its leading axis.

    Attributes:
      params: the parameters that were best on meta-validation, or the last ones without it.
      best_step: (S,) the outer step at which they stood.
      history: name -> (S, number of blocks); ``loss`` is the mean outer loss of each block,
        ``valid`` the validation score after it, if there is one.
      state: the state after the last step.
      seconds: time spent in the loop, that before a resume included.
    """

    params: Params
    best_step: np.ndarray
    history: dict[str, np.ndarray]
    state: TrainState
    seconds: float = 0.0


class Progress(NamedTuple):
    """Where `fit` stands between two blocks: what a checkpoint holds.

    Attributes:
      state: of the next step; leaves (S, ...).
      best: the parameters with the lowest validation score so far.
      best_score: (S,) those scores.
      best_step: (S,) the outer steps they were reached at.
      history: name -> (S, blocks done).
      seconds: spent so far.
    """

    state: TrainState
    best: Params
    best_score: np.ndarray
    best_step: np.ndarray
    history: dict[str, np.ndarray]
    seconds: float


def init(
    learner: MetaLearner, tx: optax.GradientTransformation, key: jax.Array, episode: Episode
) -> TrainState:
    """The state before the first step. ``episode`` is one task, for its shapes."""
    key_init, key_train = jax.random.split(key)
    params = learner.init(key_init, episode)
    return TrainState(params, tx.init(params), key_train, jnp.zeros((), jnp.int32))


def step(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    sample: Sampler,
    data: PyTree,
    state: TrainState,
    chunk_size: int | None = None,
    lengths: Sequence[int] = (),
    prepare: Prepare | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One outer step: draw a batch of tasks, take the outer gradient, update the parameters.

    For ``chunk_size``, ``lengths`` and ``prepare`` see `outer.batch_gradient`. With a ``mesh`` of
    `shard.mesh` the tasks are dealt over its devices.
    """
    key, key_sample, key_loss = jax.random.split(state.key, 3)
    episodes = sample(data, key_sample)
    gradient = batch_gradient
    if mesh is not None:
        gradient = functools.partial(devices.batch_gradient, mesh)
    grads, info = gradient(learner, state.params, episodes, key_loss, chunk_size, lengths, prepare)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, key, state.step + 1), info


def fit(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    sample: Sampler,
    data: PyTree,
    keys: jax.Array,
    num_steps: int,
    *,
    block: int = 100,
    validate: Callable[[Params], jax.Array] | None = None,
    chunk_size: int | None = None,
    lengths: Sequence[int] = (),
    prepare: Prepare | None = None,
    report: Callable[[int, dict[str, float]], Any] | None = None,
    checkpoint: pathlib.Path | None = None,
    save_every: float = 10.0,
) -> Fitted:
    """Meta-trains for ``num_steps`` outer steps, for all seeds in one program.

    The program runs ``block`` steps at a time; between blocks the host looks at the losses and, if
    ``validate`` is given, keeps the parameters with the lowest validation score per seed.

    With ``checkpoint`` the run can be killed at any moment: the same call goes on from the last
    checkpoint there, and ends with what it would have ended with, bit for bit on the same device.
    A call with more steps goes on from a run that is done.

    Args:
      chunk_size, lengths, prepare: how the outer gradient is computed; see `outer.batch_gradient`.
      data: what ``sample`` draws from; it is an argument of the program, not a constant in it.
      keys: (S,) one key per seed.
      validate: params of one seed -> scalar, lower is better; it may look at meta-validation only.
      report: called after each block with the number of steps done and the mean metrics.
      checkpoint: folder of this run's checkpoints.
      save_every: seconds between checkpoints, at least; there is always one after the last step.

    Raises:
      UserError: a loss is not finite; the message says at which step. Or the checkpoints are
        another run's, damaged, or cannot be written.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def run_block(state: TrainState, data: PyTree):
        body = lambda s, _: step(learner, tx, sample, data, s, chunk_size, lengths, prepare)
        advance = lambda s: jax.lax.scan(body, s, length=block)
        return jax.lax.map(advance, state) if lengths else jax.vmap(advance)(state)

    judge = None if validate is None else jax.jit(jax.vmap(validate))
    start = lambda key: init(learner, tx, key, _first(sample(data, key)))
    at = _fresh(jax.jit(jax.vmap(start))(keys))
    num_blocks = max(1, -(-num_steps // block))
    with ExitStack() as stack:
        save, saved = lambda at: None, time.perf_counter()
        if checkpoint is not None:
            identity = _identity(run_block, judge, at.state, data)
            store = stack.enter_context(checkpoints.opened(checkpoint, identity))
            save = functools.partial(_save, store, block)
            at = _resumed(store, at, num_blocks * block, checkpoint)
        for i in range(_blocks_done(at), num_blocks):
            at = _advance(run_block, judge, at, data, block)
            if time.perf_counter() - saved >= save_every or i + 1 == num_blocks:
                save(at)
                saved = time.perf_counter()
            if report is not None:
                report((i + 1) * block, {k: float(v[:, -1].mean()) for k, v in at.history.items()})
    return Fitted(at.best, at.best_step, at.history, at.state, at.seconds)


def _fresh(state: TrainState) -> Progress:
    """Where a run stands before its first block."""
    num_seeds = len(state.step)
    best = jax.tree.map(jnp.copy, state.params)
    return Progress(state, best, np.full(num_seeds, np.inf), np.zeros(num_seeds, int), {}, 0.0)


def _blocks_done(at: Progress) -> int:
    return at.history["loss"].shape[1] if at.history else 0


def _advance(run_block: Callable, judge: Callable | None, at: Progress, data: PyTree, block: int):
    """Where the run stands one block later."""
    began = time.perf_counter()
    done = _blocks_done(at) * block
    state, info = run_block(at.state, data)
    loss = np.asarray(info["loss"])
    if not np.isfinite(loss).all():
        first = done + int(np.argmin(np.isfinite(loss).all(axis=0))) + 1
        raise UserError(
            f"the loss is not finite at outer step {first}; lower the inner or outer rate"
        )
    now = {"loss": loss.mean(axis=1)}
    best, best_score, best_step = state.params, at.best_score, np.full(len(loss), done + block)
    if judge is not None:
        now["valid"] = score = np.asarray(judge(state.params))
        better = score < at.best_score
        choose = functools.partial(_choose, jnp.asarray(better))
        best = jax.tree.map(choose, state.params, at.best)
        best_score = np.where(better, score, at.best_score)
        best_step = np.where(better, done + block, at.best_step)
    before = at.history or {name: np.zeros((len(loss), 0), v.dtype) for name, v in now.items()}
    history = {name: np.column_stack([before[name], value]) for name, value in now.items()}
    seconds = at.seconds + time.perf_counter() - began
    return Progress(state, best, best_score, best_step, history, seconds)


def _save(store: checkpoints.Store, block: int, at: Progress) -> None:
    """Stores where the run stands; the mean validation score, or else the loss, ranks it."""
    last = at.history.get("valid", at.history["loss"])[:, -1]
    history = {name: (str(v.dtype), v.tolist()) for name, v in at.history.items()}
    notes = {"seconds": at.seconds, "history": history}
    store.save(_blocks_done(at) * block, _arrays(at), notes, float(last.mean()))


def _arrays(at: Progress) -> dict[str, PyTree]:
    return {name: getattr(at, name) for name in ("state", "best", "best_score", "best_step")}


def _resumed(store: checkpoints.Store, at: Progress, num_steps: int, folder: pathlib.Path):
    """Where the run stood at its last good checkpoint; where it stands, if there is none."""
    saved = store.latest(_arrays(at))
    if saved is None:
        return at
    if saved.step > num_steps:
        raise UserError(
            f"{folder} holds {saved.step} outer steps, more than the {num_steps} asked for; "
            "ask for more, remove it, or choose another --out"
        )
    history = {name: np.asarray(v, kind) for name, (kind, v) in saved.notes["history"].items()}
    return Progress(**saved.tree, history=history, seconds=saved.notes["seconds"])


def _identity(run_block: Callable, judge: Callable | None, state: TrainState, data: PyTree) -> str:
    """A digest of all that decides how a run goes: its programs, first state and data.

    The programs are compared as the compiler sees them, so that no setting can be forgotten, and
    another version of JAX, which may round otherwise, is another run.
    """
    parts = [jax.__version__, run_block.lower(state, data).as_text()]
    if judge is not None:
        parts.append(judge.lower(state.params).as_text())
    parts += [checkpoints.tree_digest(state), checkpoints.tree_digest(data)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _first(episodes: Episode) -> Episode:
    return jax.tree.map(lambda x: x[0], episodes)


def _choose(better: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Per seed, the new or the old value of a leaf (S, ...); always a fresh buffer."""
    return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def world_sampler(world: Any, num_tasks: int) -> Sampler:
    """A sampler of batches from a synthetic world; it needs no data."""
    return lambda data, key: jax.vmap(world.sample)(jax.random.split(key, num_tasks))
