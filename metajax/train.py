"""Learning to learn: outer steps over batches of tasks, scanned on the device.

`init` and `step` are pure; `fit` is the loop around them, for several seeds at once. Episodes are
drawn inside the compiled program, so that nothing crosses between host and device in a step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    """

    params: Params
    best_step: np.ndarray
    history: dict[str, np.ndarray]
    state: TrainState


def init(
    learner: MetaLearner, tx: optax.GradientTransformation, key: jax.Array, episode: Episode
) -> TrainState:
    """The state before the first step. ``episode`` is one task, for its shapes."""
    key_init, key_train = jax.random.split(key)
    params = learner.init(key_init, episode)
    return TrainState(params, tx.init(params), key_train, jnp.zeros((), jnp.int32))


def batch_gradient(
    learner: MetaLearner,
    params: Params,
    episodes: Episode,
    key: jax.Array,
    chunk_size: int | None = None,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """The gradient of the mean outer loss over a batch of tasks, and the mean of its info.

    Args:
      episodes: leaves (T, ...).
      chunk_size: take this many tasks at a time and accumulate, so that memory does not grow with
        T and intermediate results stay in cache; it must divide T. None takes all at once.
    """
    num_tasks = jax.tree.leaves(episodes)[0].shape[0]
    keys = jax.random.split(key, num_tasks)

    def mean_loss(params, episodes, keys):
        losses, info = jax.vmap(learner.loss, (None, 0, 0))(params, episodes, keys)
        return jnp.mean(losses), jax.tree.map(jnp.mean, {"loss": losses, **info})

    gradient = jax.grad(mean_loss, has_aux=True)
    if chunk_size is None or chunk_size >= num_tasks:
        return gradient(params, episodes, keys)
    num_chunks = num_tasks // chunk_size
    if num_chunks * chunk_size != num_tasks:
        raise UserError(f"chunks of {chunk_size} tasks do not divide a batch of {num_tasks}")
    chunks = jax.tree.map(
        lambda x: x.reshape(num_chunks, chunk_size, *x.shape[1:]), (episodes, keys)
    )
    one_chunk = lambda chunk: gradient(params, *chunk)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        jax.eval_shape(one_chunk, jax.tree.map(lambda x: x[0], chunks)),
    )
    add = lambda total, chunk: (jax.tree.map(jnp.add, total, one_chunk(chunk)), None)
    total, _ = jax.lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda x: x / num_chunks, total)


def step(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    sample: Sampler,
    data: PyTree,
    state: TrainState,
    chunk_size: int | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One outer step: draw a batch of tasks, take the outer gradient, update the parameters."""
    key, key_sample, key_loss = jax.random.split(state.key, 3)
    episodes = sample(data, key_sample)
    grads, info = batch_gradient(learner, state.params, episodes, key_loss, chunk_size)
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
    report: Callable[[int, dict[str, float]], Any] | None = None,
) -> Fitted:
    """Meta-trains for ``num_steps`` outer steps, for all seeds in one program.

    The program runs ``block`` steps at a time; between blocks the host looks at the losses and, if
    ``validate`` is given, keeps the parameters with the lowest validation score per seed.

    Args:
      data: what ``sample`` draws from; it is an argument of the program, not a constant in it.
      keys: (S,) one key per seed.
      validate: params of one seed -> scalar, lower is better; it may look at meta-validation only.
      report: called after each block with the number of steps done and the mean metrics.

    Raises:
      UserError: a loss is not finite; the message says at which step.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def run_block(state: TrainState, data: PyTree):
        body = lambda s, _: step(learner, tx, sample, data, s, chunk_size)
        advance = lambda s: jax.lax.scan(body, s, length=block)
        return jax.vmap(advance)(state)

    start = lambda key: init(learner, tx, key, _first(sample(data, key)))
    state = jax.jit(jax.vmap(start))(keys)
    judge = None if validate is None else jax.jit(jax.vmap(validate))
    best = state.params if judge is None else jax.tree.map(jnp.copy, state.params)
    best_score = np.full(len(keys), np.inf)
    best_step = np.zeros(len(keys), int)
    history: dict[str, list[np.ndarray]] = {"loss": []}
    num_blocks = max(1, -(-num_steps // block))
    for i in range(num_blocks):
        state, info = run_block(state, data)
        loss = np.asarray(info["loss"])
        if not np.isfinite(loss).all():
            first = i * block + int(np.argmin(np.isfinite(loss).all(axis=0))) + 1
            raise UserError(
                f"the loss is not finite at outer step {first}; lower the inner or outer rate"
            )
        history["loss"].append(loss.mean(axis=1))
        metrics = {"loss": float(loss.mean())}
        if judge is None:
            best, best_step = state.params, np.full(len(keys), (i + 1) * block)
        else:
            score = np.asarray(judge(state.params))
            better = score < best_score
            best = jax.tree.map(functools.partial(_choose, jnp.asarray(better)), state.params, best)
            best_score = np.where(better, score, best_score)
            best_step = np.where(better, (i + 1) * block, best_step)
            history.setdefault("valid", []).append(score)
            metrics["valid"] = float(score.mean())
        if report is not None:
            report((i + 1) * block, metrics)
    stacked = {name: np.stack(values, axis=1) for name, values in history.items()}
    return Fitted(best, best_step, stacked, state)


def _first(episodes: Episode) -> Episode:
    return jax.tree.map(lambda x: x[0], episodes)


def _choose(better: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Per seed, the new or the old value of a leaf (S, ...); always a fresh buffer."""
    return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def world_sampler(world: Any, num_tasks: int) -> Sampler:
    """A sampler of batches from a synthetic world; it needs no data."""
    return lambda data, key: jax.vmap(world.sample)(jax.random.split(key, num_tasks))


