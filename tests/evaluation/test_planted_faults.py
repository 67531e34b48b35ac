"""Faults planted in the library's own pipeline: the guard of each must find it.

A guard is a test of the pipeline as it is shipped; it passes below. Then one function of the
library is replaced by one that leaks, and the same guard must raise `Leak`. A fault that no guard
finds is a hole in the suite.
"""

import dataclasses
import functools
from collections.abc import Callable

import guards
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guards import GUARDS, parts, table

from metajax.benchmark import baselines, boosting, mixture, problem, ranking, stacking
from metajax.data import episodes, split
from metajax.data.features import represent
from metajax.evaluation import evaluate, leaks


@pytest.fixture(scope="module", autouse=True)
def columns_are_estimated_once():
    """Equal rows of equal logs give equal columns: most of the time would go into them.

    What is kept is found by its content, so that a fault that changes rows or columns is seen.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(represent, "represent", guards.once(represent.represent))
        yield


@pytest.mark.parametrize("guard", GUARDS)
def test_the_pipeline_passes(guard):
    GUARDS[guard]()


# Faults. Each takes pytest's monkeypatch and plants one.


def changed_columns(change: Callable) -> Callable:
    """`represent` followed by ``change(represented, table, rows) -> represented``."""

    def plant(patch) -> None:
        honest = represent.represent
        patch.setattr(
            represent, "represent", lambda log, rows: change(honest(log, rows), log, rows, honest)
        )

    return plant


def with_items(known, **columns):
    """The representation with some item columns replaced, held-out ones included."""
    features, held_out = known.table.item_features, dict(known.held_out)
    for name, values in columns.items():
        values = values.astype(np.float32)
        features = features.with_column(name, values)
        held_out[name] = np.stack([values] * len(next(iter(held_out.values()))))
    log = dataclasses.replace(known.table, item_features=features)
    return known._replace(table=log, held_out=held_out)


def all_rows(known, log, rows, honest):
    return honest(log, np.arange(len(log)))


def factors_of_all_rows(known, log, rows, honest):
    names = ("factor", "bayes", "bayes_bias", "content_factor", "content_bayes")
    every = honest(log, np.arange(len(log))).table.item_features.columns
    return with_items(known, **{k: every[k] for k in names})


def popularity_to_come(known, log, rows, honest):
    return with_items(known, count=np.log1p(np.bincount(log.item, minlength=log.num_items)))


def scaler_of_all_rows(known, log, rows, honest):
    return known._replace(scale=float(log.label.std()))


def mean_of_all_rows(known, log, rows, honest):
    return known._replace(mean=float(log.label.mean()))


def columns_from_test_users(known, log, rows, honest):
    owners = parts(log).test["user_cold"].owner if len(log) == len(table()) else []
    return honest(log, np.union1d(rows, np.flatnonzero(np.isin(log.user, owners))))


def profile_from_the_future(known, log, rows, honest):
    total = np.bincount(log.user, log.label, minlength=log.num_users)
    count = np.bincount(log.user, minlength=log.num_users)
    mean = (total / np.maximum(count, 1)).astype(np.float32)
    features = known.table.user_features.with_column("mean", mean)
    return known._replace(table=dataclasses.replace(known.table, user_features=features))


def no_held_out_folds(known, log, rows, honest):
    columns = known.table.item_features.columns
    return known._replace(
        held_out={k: np.stack([columns[k]] * len(v)) for k, v in known.held_out.items()}
    )


def folds_of_factors_alone(known, log, rows, honest):
    columns = known.table.item_features.columns
    whole = lambda k: np.stack([columns[k]] * len(known.held_out[k]))
    return known._replace(held_out={**known.held_out, **{k: whole(k) for k in ("bayes", "factor")}})


def folds_that_the_sampler_ignores(patch) -> None:
    patch.setattr(
        episodes,
        "source_of_folds",
        lambda tasks, log, fold, held_out: episodes.source_of_users(tasks, log),
    )


def stack_without_folds(patch) -> None:
    honest = stacking.drawn_rows

    def leaky(ready, seen, num_draws, **options):
        plain = episodes.source_of_users(ready.split.train, ready.table)
        return honest(dataclasses.replace(ready, train=plain), seen, num_draws, **options)

    patch.setattr(stacking, "drawn_rows", leaky)


def judged_on_test(ready):
    """The problem with a test scenario in the place of meta-validation."""
    if not ready.split.test:
        return ready
    tasks = episodes.fixed(ready.split.test["user_cold"], ready.split.num_query)
    return dataclasses.replace(ready, valid=(ready.valid[0], jax.tree.map(jnp.asarray, tasks)))


def tuned_on_test(patch) -> None:
    honest = problem.valid_error
    leaky = lambda learner, params, ready: honest(learner, params, judged_on_test(ready))
    patch.setattr(baselines, "valid_error", leaky)


def stopped_on_test(patch) -> None:
    honest = baselines.trained_arm
    patch.setattr(
        baselines,
        "trained_arm",
        lambda name, learner, tx, ready, *rest: honest(
            name, learner, tx, judged_on_test(ready), *rest
        ),
    )


def seed_by_test(patch) -> None:
    honest = baselines.trained_arm

    def leaky(name, learner, tx, ready, *rest):
        arm, asked = honest(name, learner, tx, ready, *rest), judged_on_test(ready)
        error = jax.jit(jax.vmap(lambda p: problem.valid_error(learner, p, asked)))(arm.params)
        best = int(jnp.argmin(error)) if ready.split.test else 0
        chosen = jax.tree.map(lambda x: x[best][None], arm.params)
        return arm._replace(params=chosen, settings={**arm.settings, "seed": float(error[best])})

    patch.setattr(baselines, "trained_arm", leaky)


def trees_by_test(patch) -> None:
    honest = boosting._valid_by_trees
    patch.setattr(
        boosting,
        "_valid_by_trees",
        lambda ready, seen: honest(judged_on_test(ready), seen),
    )


def mixture_by_test(patch) -> None:
    honest = mixture.redrawn

    def leaky(ready, *rest):
        cold = {"user_cold": ready.split.test.get("user_cold", ready.split.valid["user_cold"])}
        asked = dataclasses.replace(ready, split=dataclasses.replace(ready.split, valid=cold))
        return honest(asked, *rest)

    patch.setattr(mixture, "redrawn", leaky)


def cuts_by_test(patch) -> None:
    honest = guards.fitted_link
    patch.setattr(guards, "fitted_link", lambda ready: honest(judged_on_test(ready)))


def changed_split(change: Callable) -> Callable:
    """`split.melu` followed by ``change(split, table) -> split``."""

    def plant(patch) -> None:
        honest = split.melu
        patch.setattr(split, "melu", lambda log, **options: change(honest(log, **options), log))

    return plant


def warm_queries_trained_on(patch) -> None:
    patch.setattr(split, "melu", functools.partial(split.melu, hold_out=False))


def trained_on(owner: str, scenario: str) -> Callable:
    """One row of a cold user or item among the training rows."""

    def change(made, log):
        tasks = made.test[scenario]
        cold = tasks.owner[0] if owner == "user" else tasks.other[0]
        row = np.flatnonzero(getattr(log, owner) == cold)[:1]
        return dataclasses.replace(made, train_rows=np.append(made.train_rows, row))

    return changed_split(change)


def validated_on_test_tasks(made, log):
    return dataclasses.replace(made, valid={"user_cold": made.test["user_cold"]})


def an_item_twice(made, log):
    """The log has a row twice, once in the support and once in the query."""
    tasks = made.test["warm"]
    other = tasks.other.copy()
    other[tasks.start[0]] = other[tasks.start[0] + tasks.length[0] - 1]
    return dataclasses.replace(made, test={**made.test, "warm": tasks._replace(other=other)})


def a_pair_twice(made, log):
    """A row of a test query occurs once more among the training rows."""
    tasks = made.test["warm"]
    last = tasks.start[0] + tasks.length[0] - 1
    row = np.flatnonzero((log.user == tasks.owner[0]) & (log.item == tasks.other[last]))
    return dataclasses.replace(made, train_rows=np.append(made.train_rows, row))


def queries_in_the_support(patch) -> None:
    honest = episodes.fixed

    def leaky(tasks, num_query, num_support=None):
        made = honest(tasks, num_query, num_support)
        both = lambda s, q: np.concatenate([s, q], axis=1)
        return made._replace(support=jax.tree.map(both, made.support, made.query))

    patch.setattr(episodes, "fixed", leaky)


def changed_predictions(change: Callable) -> Callable:
    """Predictions on validation followed by ``change(scores, query) -> scores``."""

    def plant(patch) -> None:
        honest = evaluate.predictions

        def leaky(*given, **options):
            tasks = next(x for x in given if hasattr(x, "query"))
            return change(honest(*given, **options), tasks.query)

        patch.setattr(evaluate, "predictions", leaky)
        default = problem.Problem.__dataclass_fields__.get("predict")
        if default is not None:  # the problem holds its own reference
            patch.setattr(problem, "problem_of", _with_predict(problem.problem_of, leaky))

    return plant


def _with_predict(make: Callable, predict: Callable) -> Callable:
    return lambda *given, **options: dataclasses.replace(make(*given, **options), predict=predict)


def met_in_all_rows(patch) -> None:
    honest = ranking.interactions_of
    patch.setattr(
        ranking,
        "interactions_of",
        lambda log, rows, *rest: honest(log, np.arange(len(log)), *rest),
    )


def negatives_from_test_positives(patch) -> None:
    """Pairs that will not be met are known as such: all others count half."""
    honest = ranking.interactions_of

    def leaky(log, rows, *rest):
        future = honest(log, np.arange(len(log)), *rest)
        return honest(log, rows, *rest) + 0.5 * future

    patch.setattr(ranking, "interactions_of", leaky)


def penalty_by_test(patch) -> None:
    honest = ranking.lists_of

    def leaky(tasks, made, *rest):
        return honest(made.test.get("user_cold", tasks), made, *rest)

    patch.setattr(ranking, "lists_of", leaky)


FAULTS: dict[str, tuple[Callable, str]] = {
    "all rows in every column": (changed_columns(all_rows), "columns are blind to test rows"),
    "factors of all rows": (
        changed_columns(factors_of_all_rows),
        "columns are blind to test rows",
    ),
    "popularity to come": (changed_columns(popularity_to_come), "columns are blind to test rows"),
    "scaler of all rows": (changed_columns(scaler_of_all_rows), "columns are blind to test rows"),
    "mean of all rows": (changed_columns(mean_of_all_rows), "columns are blind to test rows"),
    "item columns from test users": (
        changed_columns(columns_from_test_users),
        "columns are blind to test rows",
    ),
    "profile from the future": (
        changed_columns(profile_from_the_future),
        "columns are blind to test rows",
    ),
    "no held-out folds": (changed_columns(no_held_out_folds), "training rows are honest"),
    "held-out folds of the bias alone": (
        changed_columns(folds_of_factors_alone),
        "training rows are honest",
    ),
    "folds that the sampler ignores": (folds_that_the_sampler_ignores, "training rows are honest"),
    "stack without folds": (stack_without_folds, "training rows are honest"),
    "tuning on test tasks": (tuned_on_test, "tuning is blind to test rows"),
    "early stopping on test tasks": (stopped_on_test, "training is blind to test rows"),
    "seed by test": (seed_by_test, "training is blind to test rows"),
    "trees by test": (trees_by_test, "boosting is blind to test rows"),
    "mixture by test": (mixture_by_test, "the mixture is blind to test rows"),
    "cut points by test": (cuts_by_test, "the link is blind to test rows"),
    "warm query rows trained on": (warm_queries_trained_on, "the split is clean"),
    "a cold user trained on": (trained_on("user", "user_cold"), "the split is clean"),
    "a cold item trained on": (trained_on("item", "item_cold"), "the split is clean"),
    "validation on test tasks": (changed_split(validated_on_test_tasks), "the split is clean"),
    "an item in support and query": (changed_split(an_item_twice), "the split is clean"),
    "a pair in training and query": (changed_split(a_pair_twice), "the split is clean"),
    "query rows in the support": (queries_in_the_support, "episodes are clean"),
    "query labels in a score": (
        changed_predictions(lambda score, query: score + 1e-3 * query.label),
        "predictions are blind to query labels",
    ),
    "scores centered on the query": (
        changed_predictions(lambda score, query: score + query.label.mean(axis=1, keepdims=True)),
        "predictions are blind to query labels",
    ),
    "interactions of all rows": (met_in_all_rows, "ranking arms are blind to test rows"),
    "negatives from test positives": (
        negatives_from_test_positives,
        "ranking arms are blind to test rows",
    ),
    "penalty by test": (penalty_by_test, "ranking arms are blind to test rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_found(fault, monkeypatch):
    plant, guard = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(leaks.Leak):
        GUARDS[guard]()


# The guards themselves.


def test_what_is_kept_is_found_by_its_content():
    log, rows, asked = table(), np.arange(9), []
    kept = guards.once(lambda log, rows: asked.append(len(rows)))
    moved = dataclasses.replace(log, label=np.roll(log.label, 1))
    for one, some in ((log, rows), (table(), rows.copy()), (log, rows[1:]), (moved, rows)):
        kept(one, some)
    assert asked == [9, 8, 9]


def test_what_moves_is_named():
    pipeline = lambda log, made: {"mean": log.label.mean(), "rows": len(made.train_rows)}
    with pytest.raises(leaks.Leak, match=r"test rows are removed, \['mean'\] of 2 differ"):
        leaks.blind_to_test(pipeline, table(), parts())


def test_rows_held_back_are_all_but_training_and_validation():
    log, made = table(), parts()
    held = leaks.held_back(made, log)
    assert not np.isin(held, made.train_rows).any()
    valid = made.valid["user_cold"]
    pairs = set(
        zip(np.repeat(valid.owner, valid.length).tolist(), valid.other.tolist(), strict=True)
    )
    assert len(held) == len(log) - len(made.train_rows) - len(pairs)
    assert not pairs & set(zip(log.user[held].tolist(), log.item[held].tolist(), strict=True))
