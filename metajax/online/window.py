"""Periodic retraining: a model is trained anew, at intervals, on a window of the last events."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.online.factorization import Asked
from metajax.online.prequential import Answered, Online


class State(NamedTuple):
    """The state of the model in use, the events of the window, and the number of events so far."""

    serving: Any
    window: Answered
    count: jax.Array


def retrained(online: Online, size: int, every: int, passes: int = 3, batch: int = 64) -> Online:
    """A learner that predicts with the model last trained, and trains it anew on the last events.

    Args:
      online: an event learner; it learns the window in rounds of ``batch``, from the oldest.
      size: events of the window.
      every: events from one training to the next.
      passes: over the window in each training.
      batch: events of a round in training.
    """

    def init(key: jax.Array) -> State:
        number, zeros = jnp.zeros(size, jnp.int32), jnp.zeros(size)
        window = Answered(Asked(number, number), zeros, zeros)
        return State(online.init(key), window, jnp.zeros((), jnp.int32))

    def predict(state: State, asked: Any) -> jax.Array:
        return online.predict(state.serving, asked)

    def trained(window: Answered, count: jax.Array) -> Any:
        order = (jnp.arange(size) + count) % size  # from the oldest on
        rest = -size % batch

        def in_rounds(x: jax.Array) -> jax.Array:
            x = jnp.pad(x[order], (0, rest))
            return x.reshape(-1, batch)

        rounds = jax.tree.map(in_rounds, window)
        step = lambda state, told: (online.learn(state, told), None)
        once = lambda state, _: (jax.lax.scan(step, state, rounds)[0], None)
        return jax.lax.scan(once, online.init(jax.random.key(0)), length=passes)[0]

    def learn(state: State, told: Answered) -> State:
        rank = jnp.cumsum(told.mask > 0) - 1
        total = jnp.sum(told.mask > 0).astype(jnp.int32)
        kept = (told.mask > 0) & (rank >= total - size)
        place = jnp.where(kept, (state.count + rank) % size, size)
        put = lambda table, new: table.at[place].set(new.astype(table.dtype), mode="drop")
        window = jax.tree.map(put, state.window, told)
        count = state.count + total
        due = count // every > state.count // every
        serving = jax.lax.cond(due, lambda: trained(window, count), lambda: state.serving)
        return State(serving, window, count)

    return Online(init, predict, learn)
