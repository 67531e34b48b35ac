"""Properties that every learner on a stream must have: run them on a learner of your own.

Each is a plain function of a `Trial`, and raises an AssertionError. A trial has the loop in it too,
so that a wrong one can be handed to them: one that learns before it is scored fails
`time_is_respected`.

    check.everything(online, rounds)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.online.prequential import Online, Round, prequential, told_in
from metajax.types import PyTree


class Trial(NamedTuple):
    """A learner, and an even number of rounds to check its properties on.

    Attributes:
      online: the learner; rounds: leaves (R, B, ...), R even.
      play: (state, rounds) -> (state, scores), the compiled loop.
      predict, learn: the learner's functions, compiled.
    """

    online: Online
    rounds: Round
    play: Callable[[PyTree, Round], tuple[PyTree, Any]]
    predict: Callable[[PyTree, PyTree], jax.Array]
    learn: Callable[[PyTree, PyTree], PyTree]

    def whole(self, rounds: Round | None = None) -> tuple[PyTree, np.ndarray]:
        """State and scores after all rounds."""
        begin = self.online.init(jax.random.key(0))
        state, scores = self.play(begin, self.rounds if rounds is None else rounds)
        return state, np.asarray(scores)

    @property
    def half(self) -> int:
        """The number of rounds of each half."""
        return self.rounds.label.shape[0] // 2


def trial(
    online: Online,
    rounds: Round,
    loop: Callable[[Online, PyTree, Round], tuple[PyTree, Any]] = prequential,
) -> Trial:
    """A `Trial` of a learner; its programs are compiled once for all properties.

    Args:
      rounds: leaves (R, B, ...); the last one is left out if R is odd.
      loop: (online, state, rounds) -> (state, scores), what is checked beside the learner.
    """
    even = rounds.label.shape[0] // 2 * 2
    rounds = jax.tree.map(lambda x: np.asarray(x)[:even], rounds)  # on the host: compiles nothing
    play = jax.jit(lambda state, some: loop(online, state, some))
    return Trial(online, rounds, play, jax.jit(online.predict), jax.jit(online.learn))


def _equal(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def _close(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(np.asarray(x), np.asarray(y), 1e-4, 1e-5) for x, y in pairs)


def _spoiled(tree: PyTree) -> PyTree:
    """Other numbers in place of these; masks and indices as they are."""

    def spoil(path: tuple, x: np.ndarray) -> np.ndarray:
        kept = "mask" in jax.tree_util.keystr(path) or not np.issubdtype(x.dtype, np.floating)
        return x if kept else x + x.dtype.type(1)

    return jax.tree_util.tree_map_with_path(spoil, tree)


def _masks(tree: PyTree, change: Callable[[np.ndarray], np.ndarray]) -> PyTree:
    """The tree with its masks changed."""
    is_mask = lambda path: "mask" in jax.tree_util.keystr(path)
    changed = lambda path, x: change(x) if is_mask(path) else x
    return jax.tree_util.tree_map_with_path(changed, tree)


def padding_is_invisible(t: Trial) -> None:
    """Rounds that are all padding, whatever stands in them, leave the state as it is to the bit."""
    state, _ = t.whole()
    some = jax.tree.map(lambda x: x[: t.half], t.rounds)
    after, _ = t.play(state, _masks(_spoiled(some), np.zeros_like))
    assert _equal(state, after), "a round of padding changed the state"


def _in_last_rows(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """x with what the other has in the last row of every other round."""
    x = x.copy()
    x[::2, -1] = other[::2, -1]
    return x


def padded_rows_are_invisible(t: Trial) -> None:
    """What stands in the padded last row of every other round moves no score and no state."""
    rows = _masks(t.rounds, lambda x: _in_last_rows(x, np.zeros_like(x)))
    spoiled = jax.tree.map(_in_last_rows, rows, _spoiled(rows))
    (state, scores), (after, other) = t.whole(rows), t.whole(spoiled)
    real = np.asarray(rows.mask) > 0
    assert np.array_equal(scores[real], other[real]), "a padded row changed a score"
    assert _equal(state, after), "a padded row changed the state"


def scan_is_loop(t: Trial) -> None:
    """The program over all rounds is a loop that predicts, then learns."""
    whole, scores = t.whole()
    state, found = t.online.init(jax.random.key(0)), []
    for r in range(2 * t.half):
        one = jax.tree.map(lambda x, r=r: x[r], t.rounds)
        told = np.asarray(t.predict(state, one.asked))
        found.append(np.where(one.mask > 0, told, 0.0))
        state = t.learn(state, told_in(one))
    assert _close(np.stack(found), scores), "the scan's scores are not the loop's"
    assert _close(state, whole), "the scan's state is not the loop's"


def resumed_is_uninterrupted(t: Trial) -> None:
    """A state that goes to disk in the middle of the stream and comes back gives the same bits."""
    whole, scores = t.whole()
    begin = t.online.init(jax.random.key(0))
    state, first = t.play(begin, jax.tree.map(lambda x: x[: t.half], t.rounds))
    state = jax.tree.map(lambda x: np.array(x), state)
    state, second = t.play(state, jax.tree.map(lambda x: x[t.half :], t.rounds))
    assert _equal(whole, state), "an interrupted stream ended with another state"
    assert _equal(scores, np.concatenate([first, second])), "an interruption changed a score"


def time_is_respected(t: Trial) -> None:
    """No label of a round, and nothing told after it, can move the scores up to that round."""
    _, scores = t.whole()
    later = lambda x, y: np.concatenate([x[: t.half], y[t.half :]])
    before = (t.rounds.label, t.rounds.told)
    label, told = jax.tree.map(later, before, _spoiled(before))
    _, other = t.whole(t.rounds._replace(label=label, told=told))
    same = np.array_equal(scores[: t.half + 1], other[: t.half + 1])
    assert same, "what was told in a round, or after it, moved its scores"


def learning_shows(t: Trial) -> None:
    """What is told moves a later score: else the properties above hold for nothing."""
    _, scores = t.whole()
    label, told = _spoiled((t.rounds.label, t.rounds.told))
    _, other = t.whole(t.rounds._replace(label=label, told=told))
    assert not np.array_equal(scores, other), "nothing that was told moved a score"


PROPERTIES = (
    padding_is_invisible,
    padded_rows_are_invisible,
    scan_is_loop,
    resumed_is_uninterrupted,
    time_is_respected,
    learning_shows,
)


def everything(online: Online, rounds: Round) -> None:
    """Tries all properties on some dozen rounds.

    Raises:
      AssertionError: one does not hold.
    """
    tried = trial(online, rounds)
    for holds in PROPERTIES:
        holds(tried)
