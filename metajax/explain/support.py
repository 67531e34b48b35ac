"""What each interaction of a support did to an adapted score, for any learner of the contract.

`adapted` is a learner's adapted scores as a function of how much each interaction counts and of
what was said of it. Everything here asks that function, so that the same lines explain a learner
that takes gradient steps, one that solves a linear system and one that only reads its support:

- `leave_one_out`: the score less the score without the interaction, by adapting again. The truth,
  at the cost of one more ``adapt`` for each interaction, all in one program.
- `influence`: the derivative by the weight of the interaction, one backward pass for each score;
  through the inner steps, or by the implicit function theorem where ``adapt`` is a minimum.
- `halfway_influence`: the same where the interaction counts half, truer in small supports.
- `closed_form_leave_one_out`: the truth for ridge regression, without adapting again.
- `surprise`: what the interaction did because its label was not the expected one.
- `counterfactual`: the fewest interactions without which another item would be on top.

Everything is for one task; ``vmap`` it over tasks. N are the rows of the support, Q the items whose
scores are explained, which are the rows of the episode's query; their labels are not read.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Episode, MetaLearner, Params, UserError

Score = Callable[[jax.Array, jax.Array], jax.Array]
"""(weights (N,), labels (N,)) of the support -> adapted scores (Q,)."""


def adapted(learner: MetaLearner, params: Params, episode: Episode, key: jax.Array) -> Score:
    """The adapted scores (Q,) of a task's query items, as a function of its support.

    Args:
      params: of one seed.
      key: for ``adapt``; the same for all supports, so that only the support makes a difference.
    """

    def score(weight: jax.Array, label: jax.Array) -> jax.Array:
        support = episode.support._replace(mask=weight, label=label)
        state = learner.start(params, episode.profile)
        state = learner.adapt(params, state, support, key)
        return learner.predict(params, state, episode.query.inputs)

    return score


def leave_one_out(score: Score, episode: Episode) -> jax.Array:
    """How much each interaction raised each score (N, Q), by adapting without it; 0 for padding."""
    _, label, mask = episode.support
    without_NxN = mask[None, :] * (1.0 - jnp.eye(len(mask)))
    scores_NxQ = jax.vmap(score, (0, None))(without_NxN, label)
    return _real(score(mask, label)[None, :] - scores_NxQ, mask)


def influence(score: Score, episode: Episode) -> jax.Array:
    """The derivative (N, Q) of each score by the weight of each interaction; 0 for padding.

    To first order it is what `leave_one_out` is. It is 0 throughout for a learner that asks of a
    mask only whether it is 0; `leave_one_out` and `surprise` serve any learner.

    References: Koh and Liang, "Understanding black-box predictions via influence functions", ICML
    2017; for a minimum, through the implicit derivative of `learners.gradient.implicit`.
    """
    _, label, mask = episode.support
    return _real(jax.jacrev(score)(mask, label).T, mask)


def halfway_influence(score: Score, episode: Episode) -> jax.Array:
    """`influence` (N, Q) of each interaction where that one counts half; 0 for padding.

    The derivative at the middle of the way from counting to not counting (the midpoint rule): it
    errs by the third derivative, not the second, so that it ranks well where one interaction is
    much of a small support. It takes a derivative of ``adapt`` for each interaction, which is
    dearer than `leave_one_out` itself: it shows what `influence` misses.
    """
    _, label, mask = episode.support

    def one(row_N: jax.Array) -> jax.Array:
        slope_QxN = jax.jacrev(score)(mask * (1.0 - 0.5 * row_N), label)
        return jnp.matmul(slope_QxN, row_N, precision="highest")

    return _real(jax.vmap(one)(jnp.eye(len(mask), dtype=mask.dtype)), mask)


def closed_form_leave_one_out(
    learner: MetaLearner, params: Params, episode: Episode, key: jax.Array
) -> jax.Array:
    """`leave_one_out` (N, Q) of a learner whose ``adapt`` is a ridge regression, exactly.

    With h the leverage of an interaction, the derivative of its own fitted score by its label, a
    score moves by ``influence / (1 - h)``. For a minimum of another loss this is an approximation,
    and better than `influence` where interactions are few.

    References: Cook and Weisberg, "Residuals and influence in regression", 1982; Rad and Maleki, "A
    scalable estimate of the out-of-sample prediction error", JRSS B 2020.
    """
    _, label, mask = episode.support
    fitted = adapted(learner, params, episode._replace(query=episode.support), key)
    leverage_N = jnp.diagonal(jax.jacrev(fitted, 1)(mask, label))
    first = influence(adapted(learner, params, episode, key), episode)
    return first / (1.0 - jnp.where(mask > 0, leverage_N, 0.0))[:, None]


def surprise(score: Score, episode: Episode, expected: jax.Array, num_points: int = 8) -> jax.Array:
    """How much each score moved (N, Q) because a label was not as expected; 0 for padding.

    Integrated gradients along the labels, from the expected to those given. Their sum is the score
    less that of a person who had said just what was expected; where a score is affine in the
    labels, as of ridge regression, that is a cold person and one point is exact.

    Args:
      expected: (N,) the labels expected of the support, such as a cold person's scores.
      num_points: of the path, in the middles of its parts.

    References: Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """
    _, label, mask = episode.support
    away_N = jnp.where(mask > 0, label - expected, 0.0)
    at = lambda t: jax.jacrev(score, 1)(mask, expected + t * away_N)
    path = (jnp.arange(num_points) + 0.5) / num_points
    slope_QxN = jnp.mean(jax.lax.map(at, path), axis=0)
    return _real((slope_QxN * away_N[None, :]).T, mask)


def expected_labels(learner: MetaLearner, params: Params, episode: Episode) -> jax.Array:
    """The scores (N,) of the support's items for a person of whom only the profile is known."""
    state = learner.start(params, episode.profile)
    return learner.predict(params, state, episode.support.inputs)


def _real(values_NxQ: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[:, None] > 0, values_NxQ, 0.0)


class Counterfactual(NamedTuple):
    """The interactions without which another item would be on top.

    Attributes:
      rows: of the support, ascending.
      before, after: the item on top with them and without them, as rows of the query.
      smallest: whether all smaller sets were tried, so that there is none.
    """

    rows: tuple[int, ...]
    before: int
    after: int
    smallest: bool


def counterfactual(
    score: Score, episode: Episode, *, exhaustive: int = 2, most_sets: int = 4096
) -> Counterfactual | None:
    """The smallest set of interactions that was found to change the top item; None without one.

    All sets of up to ``exhaustive`` interactions are tried, those of a size together. Then, for
    each of the three nearest rivals, the interactions that speak most for the item on top against
    it leave one after the other until another item is on top, and those that need not have left
    come back. Whatever is returned was checked by adapting without it. Not to be jitted: it
    compiles its own programs.

    Args:
      exhaustive: sizes of which every set is tried, unless there are more than ``most_sets``.

    Raises:
      UserError: fewer than two items to compare.
    """
    label, mask = jnp.asarray(episode.support.label), jnp.asarray(episode.support.mask)
    if len(jax.tree.leaves(episode.query)[0]) < 2:
        raise UserError("a counterfactual compares two items or more; give them as the query")
    apart = jax.jit(lambda masks: jax.lax.map(lambda m: score(m, label), masks, batch_size=64))

    def scores(sets: list[tuple[int, ...]]) -> np.ndarray:
        """The scores (B, Q) without each of the sets."""
        masks = np.repeat(np.asarray(mask)[None], 64 * (len(sets) // 64 + 1), axis=0)
        for i, rows in enumerate(sets):
            masks[i, list(rows)] = 0.0
        return np.asarray(apart(jnp.asarray(masks)))[: len(sets)]

    rows = [int(r) for r in np.flatnonzero(np.asarray(mask) > 0)]
    whole, size = scores([()])[0], 0
    before = int(np.argmax(whole))
    while size < min(exhaustive, len(rows)):
        sets = list(itertools.islice(itertools.combinations(rows, size + 1), most_sets + 1))
        if len(sets) > most_sets:
            break
        after = scores(sets).argmax(axis=1)
        if (after != before).any():
            first = int(np.argmax(after != before))
            return Counterfactual(sets[first], before, int(after[first]), True)
        size += 1
    rivals = [int(q) for q in np.argsort(-whole, kind="stable") if q != before][:3]
    each = scores([(r,) for r in rows])
    sets = [_pruned(scores, rows, before, each[:, before] - each[:, rival]) for rival in rivals]
    found = min((one for one in sets if one), key=len, default=())
    if not found:
        return None
    after = int(scores([found])[0].argmax())
    return Counterfactual(found, before, after, len(found) == size + 1)


def _pruned(
    scores: Callable[[list[tuple[int, ...]]], np.ndarray],
    rows: list[int],
    before: int,
    margin: np.ndarray,
) -> tuple[int, ...]:
    """A set without which another item is on top, less what it does not need; () if none was found.

    Args:
      margin: of the top item over a rival without each row; the smallest leaves first.
    """
    order = [rows[i] for i in np.argsort(margin, kind="stable")]
    firsts = [tuple(order[:n]) for n in range(1, len(rows))]
    changed = np.flatnonzero(scores(firsts).argmax(axis=1) != before) if firsts else np.zeros(0)
    if not changed.size:
        return ()
    gone = list(firsts[int(changed[0])])
    for row in reversed(gone.copy()):
        rest = tuple(r for r in gone if r != row)
        if rest and int(scores([rest])[0].argmax()) != before:
            gone = list(rest)
    return tuple(sorted(gone))
