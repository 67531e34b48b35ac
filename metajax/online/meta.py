"""A meta-learner on a stream of tasks: its own `start`, `adapt`, `predict`, and an updater."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.online.prequential import Online
from metajax.online.updaters import Updater
from metajax.types import Episode, Examples, MetaLearner, Params, PyTree


class AskedTasks(NamedTuple):
    """Tasks before their answers, leaves (B, ...): profile, support, and the query's inputs."""

    profile: PyTree
    support: Examples
    inputs: PyTree


class ToldTasks(NamedTuple):
    """Tasks that have ended by now.

    Attributes:
      tasks: leaves (B, ...).
      mask: (B,) 1 for a real task, 0 for padding.
    """

    tasks: Episode
    mask: jax.Array


class State(NamedTuple):
    """The state of a meta-learner on a stream.

    Attributes:
      params: the meta-parameters.
      memory: the updater's state.
      count: rounds that it has learned from, which also numbers the random keys.
    """

    params: Params
    memory: Any
    count: jax.Array


def meta(
    learner: MetaLearner, updater: Updater, params: Params, task: Episode, seed: int = 0
) -> Online:
    """A learner on a stream of tasks: it adapts to each; the updater changes the meta-parameters.

    Args:
      learner: adapts to a task's support and predicts its query.
      updater: learns from the tasks that have ended.
      params: the initial meta-parameters.
      task: one task of the stream, for its shapes.
      seed: of all random numbers.
    """

    def init(key: jax.Array) -> State:
        del key
        return State(params, updater.init(params, task), jnp.zeros((), jnp.int32))

    def predict(state: State, asked: AskedTasks) -> jax.Array:
        key = jax.random.key(seed)

        def one(asked: AskedTasks) -> jax.Array:
            own = learner.start(state.params, asked.profile)
            own = learner.adapt(state.params, own, asked.support, key)
            return learner.predict(state.params, own, asked.inputs)

        return jax.vmap(one)(asked)

    def learn(state: State, told: ToldTasks) -> State:
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        memory, params = updater.update(state.memory, state.params, told.tasks, told.mask, key)
        real = jnp.any(told.mask > 0).astype(jnp.int32)
        return State(params, memory, state.count + real)

    return Online(init, predict, learn)


def asked_of(tasks: Episode) -> AskedTasks:
    """The part of tasks that is known before their query labels are."""
    return AskedTasks(tasks.profile, tasks.support, tasks.query.inputs)
