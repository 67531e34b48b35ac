"""Plays learners over streams: one compiled program each, for every rate, seed and stretch."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.online.events import unfolded
from metajax.online.prequential import Online, Round, prequential
from metajax.training import progress

Make = Callable[[jax.Array, Any], Online]
"""(rate, what it starts from) -> the learner; called within the compiled program."""


class Played(NamedTuple):
    """The end of a stretch: state, scores without padding, processor seconds without compiling."""

    state: Any
    scores: np.ndarray
    seconds: float


class Player:
    """A learner that is compiled once, and plays rounds in blocks.

    Args:
      block: rounds of a block; the last one is padded.
    """

    def __init__(self, name: str, make: Make, block: int):
        self.name, self.block, self._warm = name, block, False
        self._begin = jax.jit(lambda rate, given: make(rate, given).init(jax.random.key(0)))
        self._advance = jax.jit(
            lambda rate, given, state, rounds: prequential(make(rate, given), state, rounds)
        )

    def __call__(self, rate: float, given: Any, rounds: Round, state: Any = None) -> Played:
        """Plays rounds (R, ...) from a state, or from the beginning."""
        strength = jnp.asarray(rate, jnp.float32)
        state = self._begin(strength, given) if state is None else state
        total, kept, seconds = rounds.label.shape[0], [], 0.0
        with progress.bar(self.name[:16], total) as shown:
            for start in range(0, total, self.block):
                some = self._part(rounds, start)
                if not self._warm:
                    jax.block_until_ready(self._advance(strength, given, state, some))
                    self._warm = True
                began = time.process_time()
                state, scores = self._advance(strength, given, state, some)
                kept.append(np.asarray(scores))
                seconds += time.process_time() - began
                shown(start + self.block, {})
        return Played(state, unfolded(np.concatenate(kept)[:total], rounds.mask), seconds)

    def _part(self, rounds: Round, start: int) -> Round:
        """A block of rounds; what is behind the stream's end is padding."""
        left = min(self.block, rounds.label.shape[0] - start)

        def cut(x: jax.Array) -> jax.Array:
            x = jnp.asarray(x[start : start + left])
            return x if left == self.block else _padded(x, self.block)

        return jax.tree.map(cut, rounds)


def _padded(x: jax.Array, length: int) -> jax.Array:
    """Rows of 0 behind those of x; masks are 0 there too."""
    return jnp.concatenate([x, jnp.zeros((length - x.shape[0], *x.shape[1:]), x.dtype)])


def best_rate(rates: tuple[float, ...], loss: Callable[[float], float]) -> tuple[float, dict]:
    """The rate of the lowest loss, and the loss of each; what is no number counts as infinite."""
    found = {rate: loss(rate) for rate in rates}
    known = {rate: value if np.isfinite(value) else np.inf for rate, value in found.items()}
    return min(known, key=lambda rate: known[rate]), {str(r): float(v) for r, v in found.items()}
