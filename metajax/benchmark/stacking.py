"""Arms made of other arms: rows for any regressor, and A9, the linear stack of the closed forms.

A regressor on arms' predictions must not be fitted on predictions that know the answer. So its rows
are drawn from the training tasks, whose item columns were estimated without the ratings of the
task's fold of users, and an arm adapts on a support that does not contain the row.

References: Wolpert, "Stacked generalization", Neural Networks 1992.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import tree
from metajax.benchmark.baselines import Trained
from metajax.benchmark.problem import Problem, valid_error
from metajax.data import episodes
from metajax.data.features.represent import as_cold
from metajax.learners import ensemble
from metajax.types import Episode, MetaLearner, Params

A9 = "A9 stack"
Columns = Callable[[Episode], jax.Array]
"""One task with its columns -> the F features of each query row, (Q, F)."""
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)


class Rows(NamedTuple):
    """The design matrix of a regression, its targets and the mask of its rows.

    Attributes:
      x: (R, F) features.
      label: (R,) targets.
      mask: (R,) 1 for a real row, 0 for padding.
    """

    x: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def first_seed(arm: Trained) -> tuple[MetaLearner, Params]:
    """An arm's learner and the parameters of its first seed."""
    return arm.learner, jax.tree.map(lambda x: x[0], arm.params)


def scores_of(arms: Sequence[tuple[MetaLearner, Params]]) -> Columns:
    """The scores (Q, M) of learners that adapt on the support, side by side."""

    def columns(episode: Episode) -> jax.Array:
        each = []
        for learner, params in arms:
            state = learner.start(params, episode.profile)
            state = learner.adapt(params, state, episode.support, jax.random.key(0))
            each.append(learner.predict(params, state, episode.query.inputs))
        return jnp.stack(each, axis=1)

    return columns


def drawn_rows(
    problem: Problem,
    columns: Columns,
    num_draws: int,
    *,
    num_support: int = 64,
    hidden_share: float = 0.0,
    seed: int = 0,
) -> Rows:
    """The query rows of tasks drawn from the training tasks, with cross-fitted item columns.

    Args:
      problem: gives the training tasks.
      columns: features of a task's query rows.
      num_draws: how many tasks are drawn; each divides its ratings anew in support and query.
      num_support: the most support ratings of a task.
      hidden_share: the share of tasks whose item columns are replaced by those of a cold item.
      seed: of the draws.
    """

    def one(source: episodes.Source, key: jax.Array):
        key_draw, key_hide = jax.random.split(key)
        task = episodes.draw(key_draw, source, num_support, problem.split.num_query)
        hidden = jax.random.uniform(key_hide) < hidden_share
        cover = lambda e: e._replace(inputs=tree.where(hidden, as_cold(e.inputs), e.inputs))
        task = task._replace(support=cover(task.support), query=cover(task.query))
        return columns(task), task.query.label, task.query.mask

    keys = jax.random.split(jax.random.key(seed), num_draws)
    mapped = jax.jit(lambda s, k: jax.lax.map(lambda key: one(s, key), k, batch_size=128))
    return _flat(*mapped(problem.train, keys))


def rows_with(columns: Columns) -> Callable[[episodes.Source, Episode], Rows]:
    """A function (source, tasks (T, ...)) -> `Rows` of their T * Q query rows, task by task."""

    @functools.partial(jax.jit, static_argnums=2)
    def mapped(source: episodes.Source, tasks: Episode, size: int):
        def one(index: Episode):
            return columns(episodes.fetch(index, source)), index.query.label, index.query.mask

        return jax.lax.map(one, tasks, batch_size=size)

    return lambda source, tasks: _flat(*mapped(source, tasks, min(128, tasks.query.label.shape[0])))


def _flat(x_TxQxF: jax.Array, label_TxQ: jax.Array, mask_TxQ: jax.Array) -> Rows:
    x = np.asarray(x_TxQxF)
    return Rows(x.reshape(-1, x.shape[-1]), np.ravel(label_TxQ), np.ravel(mask_TxQ))


def stacker(
    problem: Problem, arms: Mapping[str, Trained], num_draws: int = 10_000, num_support: int = 64
) -> Callable[[float], Trained]:
    """A function penalty -> A9, the linear combination of the arms' scores by ridge regression.

    Weights are fitted on training tasks; the penalty pulls them to the plain average of the arms.

    Args:
      problem: gives training and validation tasks.
      arms: tuned closed forms; the parameters of their first seeds are stacked.
      num_draws: how many training tasks the weights are fitted on.
      num_support: the most support ratings of such a task.
    """
    began = time.perf_counter()
    pairs = [first_seed(arm) for arm in arms.values()]
    rows = drawn_rows(problem, scores_of(pairs), num_draws, num_support=num_support)
    seen = tuple(map(jnp.asarray, rows))
    fit = jax.jit(ensemble.stacking_weights)
    learner = ensemble.stacked([learner for learner, _ in pairs])
    at = lambda share: {"bases": [p for _, p in pairs], "weigher": {"share": share}}
    judge = jax.jit(lambda share: valid_error(learner, at(share), problem))

    def made(penalty: float) -> Trained:
        share = fit(*seen, penalty)
        settings = {
            "penalty": penalty,
            "weights": dict(zip(arms, np.asarray(share).round(4).tolist(), strict=True)),
            "valid": float(judge(share)),
        }
        params = jax.tree.map(lambda x: x[None], at(share))
        return Trained(learner, params, settings, {}, time.perf_counter() - began)

    return made


def stack_arm(
    problem: Problem, arms: Mapping[str, Trained], num_draws: int = 10_000, num_support: int = 64
) -> Trained:
    """A9 with the penalty of `PENALTIES` that is best on meta-validation; see `stacker`."""
    made = stacker(problem, arms, num_draws, num_support)
    tried = [made(penalty) for penalty in PENALTIES]
    best = min(tried, key=lambda arm: arm.settings["valid"])
    return best._replace(
        settings=best.settings | {"trials": len(PENALTIES)}, seconds=tried[-1].seconds
    )
