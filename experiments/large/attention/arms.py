"""The arms of `attention`, and what of their adapted focus is measured."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from metajax import optim, tree
from metajax.evaluation import evaluate, judge, ordinal
from metajax.learners.history import reader
from metajax.models import attention
from metajax.types import Episode, MetaLearner, Params, PyTree

DIN, AUTOINT = "DIN", "AutoInt"
GLOBAL, ADAPTED = "attention, one temperature for all", "attention, temperature adapted"
SEARCHED = "attention, temperature searched"
SOLVED_GLOBAL = "solved attention, one temperature for all"
SOLVED = "solved attention, temperature searched"
CONTROLS = {
    ADAPTED: (
        "attention, another user's temperature",
        "attention, adapted on shuffled ratings",
    ),
    SOLVED: (
        "solved attention, another user's temperature",
        "solved attention, shuffled ratings",
    ),
}
"""Arm that adapts -> the control with another user's focus, and that on shuffled ratings."""
FOCUS = tree.under("focus")
GRID = 12
"""Temperatures that are searched."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the models see of an item.

    Attributes:
      width: of its vector.
      vectors: inputs -> (N, width).
      offset: inputs -> (N,) the score before anything is known of a person.
    """

    width: int
    vectors: Callable[[PyTree], jax.Array]
    offset: Callable[[PyTree], jax.Array]


def learners(
    seen: Seen, window: int, width: int, steps: int, rate: float, cosine: bool
) -> dict[str, MetaLearner]:
    """Arm -> learner: each reads the history; some also adapt their focus to it."""
    look = {"vectors": seen.vectors, "offset": seen.offset}
    make = lambda model, **more: reader(model, window, seen.width, **look, **more)
    focused = attention.focused(width, cosine)
    inner = {"adapts": FOCUS, "inner": optim.learned_rates(rate), "num_steps": steps}
    searched = {"adapts": FOCUS, "candidates": attention.temperatures(GRID)}
    solved = attention.solved(width)
    return {
        DIN: make(attention.din(width)),
        AUTOINT: make(attention.autoint(width)),
        GLOBAL: make(focused),
        ADAPTED: make(focused, **inner),
        SEARCHED: make(focused, **searched),
        SOLVED_GLOBAL: make(solved),
        SOLVED: make(solved, **searched, left_out=attention.solved_left_out),
    }


class Measured(NamedTuple):
    """The adapted focus of T tasks.

    Attributes:
      fast: what has adapted, leaves (T, ...).
      temperature: (T,).
      gate: (T,).
    """

    fast: PyTree
    temperature: jax.Array
    gate: jax.Array


def focus_of(
    learner: MetaLearner, params: Params, tasks: Any, fetch: evaluate.Fetch, alter: Any
) -> Measured:
    """What each task has adapted its focus to."""

    def measure(state: PyTree, episode: Episode) -> Measured:
        focus = state.fast["focus"]
        return Measured(state.fast, attention.temperature(focus), jax.nn.sigmoid(focus["gate"]))

    key = jax.random.key(3)
    return evaluate.after_adapting(learner, params, tasks, key, measure, fetch=fetch, alter=alter)


def with_focus_of_another(
    learner: MetaLearner, params: Params, tasks: Any, fetch: evaluate.Fetch, alter: Any
) -> jax.Array:
    """Scores (T, Q) where each person's history is read with the focus of the person before."""
    fast = focus_of(learner, params, tasks, fetch, alter).fast
    moved = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), fast)

    def both(pair: Any) -> Episode:
        task, other = pair
        return fetch(task)._replace(profile=other)

    def measure(state: PyTree, episode: Episode) -> jax.Array:
        return learner.predict(params, state._replace(fast=episode.profile), episode.query.inputs)

    key = jax.random.key(3)
    return evaluate.after_adapting(
        learner, params, (tasks, moved), key, measure, fetch=both, alter=alter
    )


def every_second(first: int) -> evaluate.Alteration:
    """An alteration that keeps every second support row, from the first or the second one on."""

    def alter(key: jax.Array, episode: Episode) -> Episode:
        del key
        mask = episode.support.mask * (jnp.arange(episode.support.mask.shape[0]) % 2 == first)
        return episode._replace(support=episode.support._replace(mask=mask))

    return alter


def rank_correlation(a: jax.Array, b: jax.Array) -> float:
    """Spearman's correlation of two columns (T,); 0 where one of them is constant."""
    first, second = np.asarray(a), np.asarray(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(first, second).statistic)


def scored(
    arms: dict[str, tuple[MetaLearner, Params]], tasks: Any, fetch: evaluate.Fetch
) -> Iterator[tuple[str, jax.Array]]:
    """Each arm and each control of those that adapt, and its scores (S, T, Q) of whole histories.

    A control is scored by its own rule: with another's focus, or adapted on shuffled ratings.
    """
    others, shuffled = zip(*CONTROLS.values(), strict=True)

    def of(name: str, learner: MetaLearner, params: Params) -> jax.Array:
        alter = evaluate.shuffled_labels if name in shuffled else evaluate.unaltered

        def of_seed(params: Params) -> jax.Array:
            if name in others:
                return with_focus_of_another(learner, params, tasks, fetch, alter)
            told = {"fetch": fetch, "alter": alter}
            return evaluate.predictions(learner, params, tasks, jax.random.key(3), **told)

        return jax.jit(lambda p: jax.lax.map(of_seed, p))(params)

    for name, (learner, params) in arms.items():
        for each in (name, *CONTROLS.get(name, ())):
            yield each, of(each, learner, params)


def links_of(
    arms: dict[str, tuple[MetaLearner, Params]],
    tasks: Episode,
    fetch: evaluate.Fetch,
    levels: np.ndarray,
) -> dict[str, ordinal.Link]:
    """Arm or control -> the ordinal links of its seeds, fitted on tasks of meta-validation."""
    query, ratings = tasks.query, jnp.asarray(levels)
    of_seed = lambda score: ordinal.fit(score, query.label, query.mask, ratings)
    fit = jax.jit(jax.vmap(of_seed))
    return {name: fit(scores) for name, scores in scored(arms, tasks, fetch)}


def believed(
    arms: dict[str, tuple[MetaLearner, Params]],
    links: Mapping[str, ordinal.Link],
    tasks: Episode,
    fetch: evaluate.Fetch,
) -> dict[tuple[str, str], np.ndarray]:
    """(arm, metric of `ordinal.PROPER`) -> (S, T) of test tasks with whole histories."""
    found = {}
    for name, scores in scored(arms, tasks, fetch):
        proper = judge.believed(links[name], scores, tasks, jax.random.key(4))
        found |= {(name, metric): np.asarray(values) for metric, values in proper.items()}
    return found


def judged(
    arms: dict[str, tuple[MetaLearner, Params]],
    tasks: Any,
    fetch: evaluate.Fetch,
    shots: tuple[int, ...],
) -> dict[tuple[str, str, str], np.ndarray]:
    """(arm, condition, metric) -> (S, T) of every arm and the controls of those that adapt."""
    found: dict[tuple[str, str, str], np.ndarray] = {}

    others, shuffled = zip(*CONTROLS.values(), strict=True)

    def one(name: str, learner: MetaLearner, params: Params) -> None:
        def altered(shot: jax.Array) -> evaluate.Alteration:
            first = evaluate.first_shots(shot)
            if name not in shuffled:
                return first
            return lambda key, episode: evaluate.shuffled_labels(key, first(key, episode))

        @jax.jit
        def of_seed(params: Params, tasks: Any, shot: jax.Array) -> dict[str, jax.Array]:
            if name in others:
                scores = with_focus_of_another(learner, params, tasks, fetch, altered(shot))
            else:
                told = {"fetch": fetch, "alter": altered(shot)}
                scores = evaluate.predictions(learner, params, tasks, jax.random.key(3), **told)
            return evaluate.rating_metrics(scores, jax.vmap(fetch)(tasks), jax.random.key(4))

        seeds = range(len(jax.tree.leaves(params)[0]))
        for shot in shots:
            rows = [of_seed(jax.tree.map(lambda x, s=s: x[s], params), tasks, shot) for s in seeds]
            for metric in rows[0]:
                found[name, f"k={shot}", metric] = np.stack(
                    [np.asarray(row[metric]) for row in rows]
                )

    for name, (learner, params) in arms.items():
        for each in (name, *CONTROLS.get(name, ())):
            one(each, learner, params)
    return found
