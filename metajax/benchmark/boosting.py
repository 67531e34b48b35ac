"""A8: gradient boosted trees on features of a task and of an item, as a company would build it.

The features are statistics of the support, the item's estimated columns, the profile, how the task
rated similar items, and, in one of two variants, the predictions of closed-form arms. The trees are
fitted on tasks drawn from the training tasks, whose item columns were estimated without the task's
own ratings; the number of trees is chosen on meta-validation.

References: Friedman, "Greedy function approximation: a gradient boosting machine", Annals of
Statistics 2001; Ke et al., "LightGBM", NeurIPS 2017.
"""

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import precision
from metajax.benchmark.arm import Fitted
from metajax.benchmark.baselines import Trained
from metajax.benchmark.problem import Problem
from metajax.benchmark.stacking import Columns, Rows, drawn_rows, first_seed, rows_with, scores_of
from metajax.evaluation import evaluate
from metajax.types import Episode, Examples, UserError

A8, A8_ALONE = "A8 boosting", "A8 boosting alone"
A8_REDRAWN = "A8 boosting redrawn"
"""A8 fitted on another draw of training tasks; it stands in a mixture alone."""
Backend = Literal["sklearn", "lightgbm"]
MOST_CODES = 64  # of a multi-valued column that is shown value by value
FEW_ROWS = 100_000  # below it more threads than one cost more than they gain
MISSING = "boosting needs scikit-learn: pip install metajax[boosting]"


class Settings(NamedTuple):
    """The hyperparameters of the boosted trees.

    Attributes:
      rate: learning rate, the factor on each tree's output.
      leaves: the most leaves of a tree.
      min_rows: the fewest training rows in a leaf.
      l2: L2 penalty on the values of leaves.
      most_trees: how many trees are grown; the first of them are kept, as many as have the lowest
        error on meta-validation.
      num_draws: how many training tasks are drawn for the trees to be fitted on.
      hidden_share: the share of these tasks whose item columns become those of a cold item.
    """

    rate: float = 0.05
    leaves: int = 31
    min_rows: int = 60
    l2: float = 1.0
    most_trees: int = 400
    num_draws: int = 20_000
    hidden_share: float = 0.2


DEFAULT = Settings()


def seen_columns(problem: Problem, arms: Mapping[str, Trained] | None = None) -> Columns:
    """The features that the trees see of each query row: a function episode -> (Q, F).

    Args:
      problem: its user and item columns become features.
      arms: closed forms whose predictions become features, too; None for none.
    """
    users, items = problem.table.user_features, problem.table.item_features
    of_arms = scores_of([first_seed(arm) for arm in arms.values()]) if arms else None
    mean = problem.mean

    def columns(episode: Episode) -> jax.Array:
        query = episode.query.inputs
        num_query = query["bias"].shape[0]
        same = lambda x: jnp.broadcast_to(jnp.atleast_1d(x), (num_query, jnp.size(x)))
        parts = [same(_of_support(episode.support, mean))]
        parts += [jnp.stack([query[k] for k in ("bias", "content_bias", "count", "bayes_bias")], 1)]
        parts += [query["factor"], query["bayes"], _of_like_items(episode, mean, items.sizes)]
        for name, size in items.sizes.items():
            if size <= MOST_CODES:
                parts.append(_indicators(query[name], size))
        for name, size in users.sizes.items():
            if size <= MOST_CODES:
                parts.append(same(_indicators(episode.profile[name][None], size)[0]))
        if of_arms is not None:
            parts.append(of_arms(episode))
        return jnp.concatenate([p.astype(jnp.float32) for p in parts], axis=1)

    return columns


def _of_support(support: Examples, mean: float) -> jax.Array:
    """Statistics (9,) of the support: how many ratings, how high, and their residuals."""
    real = support.mask > 0
    count = jnp.sum(real)
    many = jnp.maximum(count, 1)
    residual = support.label - mean - support.inputs["bias"]
    centered = lambda x, m: jnp.sqrt(jnp.sum(jnp.where(real, (x - m) ** 2, 0.0)) / many)
    average = lambda x: jnp.sum(jnp.where(real, x, 0.0)) / many
    label, left = average(support.label), average(residual)
    none = jnp.where(count > 0, 0.0, jnp.nan)  # trees send what is missing its own way
    stats = [label, centered(support.label, label), left, centered(residual, left)]
    ends = [
        jnp.min(jnp.where(real, support.label, jnp.inf)),
        jnp.max(jnp.where(real, support.label, -jnp.inf)),
    ]
    ends = [jnp.where(count > 0, x, 0.0) for x in ends]
    liking = average(support.inputs["count"])
    damped = left * many / (many + 3.0)
    return jnp.stack(
        [count.astype(jnp.float32), damped, *(x + none for x in (*stats, *ends, liking))]
    )


@precision.highest
def _of_like_items(episode: Episode, mean: float, sizes: Mapping[str, int]) -> jax.Array:
    """How the task rated items similar to each query row's item: (Q, 2 + 2 C) for C categories.

    Similar by factors, and by each categorical column: the damped mean residual of the support,
    weighted by similarity, and the sum of the weights.
    """
    support, query = episode.support, episode.query.inputs
    residual = jnp.where(support.mask > 0, support.label - mean - support.inputs["bias"], 0.0)
    close_QxS = jax.nn.relu(query["factor"] @ support.inputs["factor"].T)
    alike = [close_QxS]
    for name, size in sizes.items():
        ours, theirs = query[name], support.inputs[name]
        if size <= MOST_CODES:
            number = _indicators(ours, size) @ _indicators(theirs, size).T
        else:
            same = ours[:, None, :, None] == theirs[None, :, None, :]
            number = jnp.sum(same & (ours > 0)[:, None, :, None], axis=(2, 3))
        alike.append(jnp.minimum(number.astype(jnp.float32), 1.0))
    found = []
    for like_QxS in alike:
        weight = like_QxS * support.mask[None, :]
        total = jnp.sum(weight, axis=1)
        found += [weight @ residual / (total + 1.0), total]
    return jnp.stack(found, axis=1)


def _indicators(codes_NxW: jax.Array, size: int) -> jax.Array:
    """Which categories (N, size - 1) each row has, as 0 and 1."""
    has = jnp.any(codes_NxW[:, :, None] == jnp.arange(1, size)[None, None, :], axis=1)
    return has.astype(jnp.float32)


class Trees(NamedTuple):
    """Fitted trees, of either library.

    Attributes:
      predict: (rows (R, F), number of trees) -> predictions (R,).
      stages: rows (R, F) -> an iterator of the predictions (R,) after 1, 2, ... trees.
    """

    predict: Callable[[np.ndarray, int], np.ndarray]
    stages: Callable[[np.ndarray], Any]


def _sklearn(settings: Settings, x: np.ndarray, y: np.ndarray) -> Trees:
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as missing:
        raise UserError(MISSING) from missing
    model = HistGradientBoostingRegressor(
        learning_rate=settings.rate,
        max_iter=settings.most_trees,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=settings.min_rows,
        l2_regularization=settings.l2,
        early_stopping=False,
        random_state=0,
    )
    with _threads(len(x)):
        model.fit(x, y)  # weights of 1 would give the same trees, in 15 times the time

    def stages(rows: np.ndarray) -> Iterator[np.ndarray]:
        with _threads(len(rows)):
            yield from model.staged_predict(rows)

    def predict(rows: np.ndarray, trees: int) -> np.ndarray:
        for _, found in zip(range(trees), stages(rows), strict=False):
            last = found
        return last

    return Trees(predict, stages)


def _threads(num_rows: int) -> contextlib.AbstractContextManager:
    """One thread of OpenMP for few rows: more wait for each other at every split, spinning."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1 if num_rows < FEW_ROWS else None, "openmp")


def _lightgbm(settings: Settings, x: np.ndarray, y: np.ndarray) -> Trees:
    try:
        import lightgbm
    except (ImportError, OSError) as missing:  # OSError: the system has no OpenMP
        raise UserError("LightGBM is not installed: pip install metajax[boosting]") from missing
    threads = 1 if len(x) < FEW_ROWS else 0
    options = {
        "objective": "regression",
        "learning_rate": settings.rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.min_rows,
        "lambda_l2": settings.l2,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "seed": 0,
        "verbose": -1,
    }
    data = lightgbm.Dataset(x, y)
    model = lightgbm.train(options, data, num_boost_round=settings.most_trees)
    some = lambda rows, **which: np.asarray(model.predict(rows, num_threads=threads, **which))

    def stages(rows: np.ndarray) -> Iterator[np.ndarray]:
        each = (some(rows, start_iteration=n, num_iteration=1) for n in range(model.num_trees()))
        yield from itertools.accumulate(each)

    return Trees(lambda rows, trees: some(rows, num_iteration=trees), stages)


BACKENDS: dict[Backend, Callable[..., Trees]] = {"lightgbm": _lightgbm, "sklearn": _sklearn}
"""Name of the library, which is also that of its module -> what fits trees by it."""


def installed() -> list[Backend]:
    """The libraries of boosted trees that are there, the faster one first.

    Raises:
      UserError: none is.
    """
    found: list[Backend] = []
    for backend in BACKENDS:
        try:
            importlib.import_module(backend)
        except (ImportError, OSError):
            continue
        found.append(backend)
    if not found:
        raise UserError(MISSING)
    return found


def better(made: Callable[[Settings, Backend], Fitted], settings: Settings) -> Fitted:
    """The trees of each library at the same settings: those that are better on meta-validation."""
    each = [made(settings, backend) for backend in installed()]
    spent = sum(fitted.seconds for fitted in each)
    return min(each, key=lambda fitted: fitted.settings["valid"])._replace(seconds=spent)


def boosting_arm(
    problem: Problem,
    arms: Mapping[str, Trained] | None = None,
    settings: Settings = DEFAULT,
    backend: Backend = "sklearn",
    num_support: int = 64,
) -> Fitted:
    """A8: trees boosted in squared loss, as many as have the lowest error on meta-validation.

    Args:
      problem: gives training tasks, validation tasks and features.
      arms: closed forms whose predictions are features, too; None for the trees alone.
      settings: hyperparameters of the trees.
      backend: scikit-learn's trees (the extra ``boosting``), or LightGBM's.
      num_support: support ratings of a training task, at most.

    Raises:
      UserError: the library is not installed.
    """
    drawn = settings.num_draws, settings.hidden_share
    return booster(problem, arms, *drawn, num_support)(settings, backend)


def booster(
    problem: Problem,
    arms: Mapping[str, Trained] | None = None,
    num_draws: int = DEFAULT.num_draws,
    hidden_share: float = DEFAULT.hidden_share,
    num_support: int = 64,
    seed: int = 0,
) -> Callable[[Settings, Backend], Fitted]:
    """(settings, backend) -> A8; the rows that trees are fitted and chosen on are made once.

    Arguments are those of `boosting_arm`; ``num_draws`` and ``hidden_share`` stand in place of
    those of the settings, and ``seed`` draws the training tasks.
    """
    began = time.perf_counter()
    columns = seen_columns(problem, arms)
    options: dict[str, Any] = {"num_support": num_support, "hidden_share": hidden_share}
    rows = drawn_rows(problem, columns, num_draws, seed=seed, **options)
    real = rows.mask > 0
    shown = rows_with(columns)
    valid = _valid_by_trees(problem, shown)
    drawing = time.perf_counter() - began

    def made(settings: Settings, backend: Backend) -> Fitted:
        since = time.perf_counter()
        settings = settings._replace(num_draws=num_draws, hidden_share=hidden_share)
        trees = BACKENDS[backend](settings, rows.x[real], rows.label[real])
        error = valid(trees)
        best = int(np.argmin(error)) + 1
        told = settings._asdict() | {"backend": backend, "trees": best, "valid": float(error.min())}

        def predict(source, tasks: Episode, key: jax.Array) -> np.ndarray:
            del key
            found = trees.predict(shown(source, tasks).x, best)
            return found.reshape(1, *tasks.query.label.shape).astype(np.float32)

        return Fitted(predict, told, drawing + time.perf_counter() - since)

    return made


def _valid_by_trees(
    problem: Problem, rows: Callable[[Any, Episode], Rows]
) -> Callable[[Trees], np.ndarray]:
    """Trees -> the error on meta-validation after each number of them, mean over shots."""
    source, tasks = problem.valid
    label, mask = tasks.query.label, tasks.query.mask
    judge = jax.jit(lambda scores: problem.error(scores.reshape(label.shape), label, mask))
    keys = jax.random.split(jax.random.key(0), label.shape[0])
    after = lambda shots: jax.vmap(evaluate.first_shots(shots))(keys, tasks)
    shown = [rows(source, given).x for given in [after(k) for k in problem.shots] or [tasks]]

    def errors(trees: Trees) -> np.ndarray:
        of = lambda x: [float(judge(jnp.asarray(s, jnp.float32))) for s in trees.stages(x)]
        return np.mean([of(x) for x in shown], axis=0)

    return errors
