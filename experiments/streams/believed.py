"""Streams of ratings judged as distributions: one ordinal link for each arm and seed."""

import jax
import numpy as np

from metajax.evaluation import ordinal
from metajax.types import Episode, Examples

_fit = jax.jit(ordinal.fit)
_proper = jax.jit(ordinal.proper)


def link(
    scores: np.ndarray, label: np.ndarray, mask: np.ndarray, levels: np.ndarray
) -> ordinal.Link:
    """The link of greatest likelihood of scores, all (n,) or all (T, Q), to the ratings (L,).

    Scores that are no number say nothing of it.
    """
    known = np.isfinite(scores)
    given = (np.where(known, scores, 0.0), label, np.where(known, mask, 0.0), levels)
    return _fit(*(np.asarray(x, np.float32) for x in given))


def proper(
    link: ordinal.Link, scores: np.ndarray, label: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics `ordinal.PROPER` (T,) of what a link makes of the scores (T, Q) of tasks.

    A task of which a score is no number is infinitely wrong.
    """
    score, label, mask = (np.asarray(x, np.float32) for x in (scores, label, mask))
    rows = Examples(None, label, mask)
    found = _proper(link, score, Episode(None, rows, rows), jax.random.key(0))
    broken = ((mask > 0) & ~np.isfinite(score)).any(axis=1)
    return {name: np.where(broken, np.inf, value) for name, value in found.items()}
