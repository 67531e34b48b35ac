"""Updaters: how meta-parameters learn from tasks that end one after the other.

An updater is two pure functions, `init` and `update`. What it minimizes is the outer loss of the
learner it is given: with `metajax.learners.gradient.maml.gradient` that is the loss after
adaptation, with `metajax.learners.pooled.fine_tuned` the joint loss, without meta-learning. So
`leader` is FTML with the former, and "train on everything" with the latter.

References: Finn, Rajeswaran, Kakade, Levine, "Online meta-learning" (FTML), ICML 2019.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import tree
from metajax.online import buffers
from metajax.online.buffers import Buffer, Kept
from metajax.types import Episode, MetaLearner, Params, PyTree


class Updater(NamedTuple):
    """How meta-parameters change with the tasks of a round.

    Attributes:
      init: (params, one task) -> state.
      update: (state, params, tasks (B, ...), mask (B,), key) -> (state, params). A round that is
        all padding changes nothing; see `if_any`.
    """

    init: Callable[[Params, Episode], PyTree]
    update: Callable[[PyTree, Params, Episode, jax.Array, jax.Array], tuple[PyTree, Params]]


def mean_loss(
    learner: MetaLearner, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array
) -> jax.Array:
    """The mean outer loss over the real tasks of a round; 0 if there are none."""
    keys = jax.random.split(key, len(mask))
    losses, _ = jax.vmap(learner.loss, (None, 0, 0))(params, tasks, keys)
    return jnp.sum(jnp.where(mask > 0, losses, 0.0)) / jnp.maximum(jnp.sum(mask > 0), 1)


def slope(learner: MetaLearner) -> Callable[..., Params]:
    """The gradient of `mean_loss` to the parameters."""
    return jax.grad(lambda *args: mean_loss(learner, *args))


def frozen() -> Updater:
    """The updater that changes nothing."""
    return Updater(lambda params, task: (), lambda state, params, *told: (state, params))


def newest(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    num_steps: int = 1,
) -> Updater:
    """Outer steps on the tasks of the round, which are then forgotten.

    Args:
      learner: whose outer loss is minimized.
      tx: the outer optimizer; chain `metajax.online.anchor.decay_to` behind it for a pull towards
        a baseline.
      num_steps: outer steps in each round.
    """
    gradient = slope(learner)

    def update(state: Any, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        def step(carry: Any, key: jax.Array):
            params, state = carry
            updates, state = tx.update(gradient(params, tasks, mask, key), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, num_steps)
        new, _ = jax.lax.scan(step, (params, state), keys)
        params, state = if_any(mask, new, (params, state))
        return state, params

    return Updater(lambda params, task: tx.init(params), update)


class Remembers(NamedTuple):
    """The state of an updater with a buffer: the outer optimizer's, and the buffer's contents."""

    moments: Any
    kept: Kept


def leader(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    buffer: Buffer,
    num_steps: int = 1,
    num_tasks: int = 8,
) -> Updater:
    """Follows the leader: steps on tasks drawn from the buffer, to which the new ones are added.

    FTML with a meta-learner; "train on everything" with a learner of the joint loss. Its memory is
    the buffer's: with `buffers.reservoir` of at least the length of the stream it is all tasks.

    Args:
      learner: whose outer loss is minimized.
      tx: the outer optimizer.
      buffer: of past tasks.
      num_steps: outer steps after each round.
      num_tasks: tasks drawn for each step.
    """
    steps = descend(learner, tx, num_steps, num_tasks)

    def init(params: Params, task: Episode) -> Remembers:
        return Remembers(tx.init(params), buffer.init(task))

    def update(state: Remembers, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        kept = buffer.add(state.kept, tasks, mask)
        before = (params, state.moments)
        params, moments = if_any(mask, steps(*before, kept, key), before)
        return Remembers(moments, kept), params

    return Updater(init, update)


def descend(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    num_steps: int,
    num_tasks: int,
    deal: Callable[[PyTree], PyTree] = lambda tasks: tasks,
) -> Callable[[Params, Any, Kept, jax.Array], tuple[Params, Any]]:
    """(params, moments, kept, key) -> (params, moments) after outer steps on what is kept.

    Each step draws its tasks evenly. With all tasks of a warm-up kept, it is offline training.

    Args:
      deal: what is done to the drawn tasks, such as `training.devices.split_over`.
    """
    gradient = slope(learner)

    def take(params: Params, moments: Any, kept: Kept, key: jax.Array) -> tuple[Params, Any]:
        def step(carry: Any, key: jax.Array):
            params, moments = carry
            key_draw, key_loss = jax.random.split(key)
            tasks, mask = deal(buffers.draw(kept, key_draw, num_tasks))
            grads = gradient(params, tasks, mask, key_loss)
            updates, moments = tx.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, moments), jax.random.split(key, num_steps))[0]

    return take


class Restarts(NamedTuple):
    """The state of a periodic retrain.

    Attributes:
      beginning: the initial parameters of every training.
      kept: the tasks to train on.
      since: () tasks since the last training.
    """

    beginning: Params
    kept: Kept
    since: jax.Array


def retrained(
    learner: MetaLearner,
    tx: optax.GradientTransformation,
    window: Buffer,
    every: int,
    num_steps: int,
    num_tasks: int = 8,
) -> Updater:
    """Trains anew, from the first parameters, each time ``every`` more tasks have ended.

    Args:
      window: what it trains on, such as `buffers.newest`.
      every: tasks from one training to the next; between them the parameters stay.
      num_steps: of a training; num_tasks: drawn for each step.
    """
    steps = descend(learner, tx, num_steps, num_tasks)

    def init(params: Params, task: Episode) -> Restarts:
        return Restarts(params, window.init(task), jnp.zeros((), jnp.int32))

    def update(state: Restarts, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        kept = window.add(state.kept, tasks, mask)
        since = state.since + jnp.sum(mask > 0).astype(jnp.int32)
        due = since >= every
        again = lambda: steps(state.beginning, tx.init(state.beginning), kept, key)[0]
        params = jax.lax.cond(due, again, lambda: params)
        return Restarts(state.beginning, kept, jnp.where(due, 0, since)), params

    return Updater(init, update)


def if_any(mask: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """``new`` if any task of the round is real, else ``old``, bit for bit."""
    return tree.where(jnp.any(mask > 0), new, old)


def with_replay(updater: Updater, buffer: Buffer, num_tasks: int) -> Updater:
    """The updater with replay: it also learns from some earlier tasks in each round.

    Args:
      buffer: what is kept; a task enters it after its round.
      num_tasks: how many are drawn from it for each round.
    """

    def init(params: Params, task: Episode) -> Remembers:
        return Remembers(updater.init(params, task), buffer.init(task))

    def update(state: Remembers, params: Params, tasks: Episode, mask: jax.Array, key: jax.Array):
        key_draw, key = jax.random.split(key)
        old, known = buffers.draw(state.kept, key_draw, num_tasks)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), tasks, old)
        some = jnp.concatenate([mask, known])
        new = updater.update(state.moments, params, both, some, key)
        memory, params = if_any(mask, new, (state.moments, params))
        return Remembers(memory, buffer.add(state.kept, tasks, mask)), params

    return Updater(init, update)
