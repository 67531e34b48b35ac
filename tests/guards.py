"""The library's own pipeline in stages, and the guards that watch it for leaks from the test tasks.

`tests/evaluation/test_planted_faults.py` plants faults in it, each of which a guard must find.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import settings
from metajax.benchmark import baselines, boosting, mixture, problem, ranking, ranking_arms, stacking
from metajax.benchmark.arm import Fitted
from metajax.data import episodes, split
from metajax.data.worlds import latent
from metajax.evaluation import leaks, ordinal
from metajax.learners import closed_form
from metajax.models import towers
from metajax.tuning import search

TRAINING = settings.Training(seeds=2, num_steps=2, num_tasks=4, num_support=16)
TREES = boosting.Settings(rate=0.5, leaves=4, min_rows=5, most_trees=6, num_draws=60)


@functools.cache
def table():
    return latent.rating_log(num_users=150, num_items=60)


def parts(of=None):
    return split.melu(of or table(), valid_users=0.2)


def once(estimate: Callable) -> Callable:
    """`represent`, computed once for the same content of log, rows and options."""
    known: dict[tuple, Any] = {}

    def kept(log, rows, **options):
        key = (log.checksum(), np.asarray(rows).tobytes(), *sorted(options.items()))
        if key not in known:
            known[key] = estimate(log, rows, **options)
        return known[key]

    return kept


# The pipeline in stages: what each makes of a table and its split.


def columns(log, made) -> dict[str, Any]:
    """All that is estimated before a learner is trained."""
    ready = problem.problem_of(log, made, 16)
    return {
        "items": ready.table.item_features.columns,
        "profiles": ready.table.user_features.columns,
        "scaler": (ready.mean, ready.scale),
        "held out": ready.train.inputs,
        "levels": ordinal.levels_of(log.label[made.train_rows], log.scale),
        "valid": ready.valid[0].inputs,
    }


def ranked(log, made) -> dict[str, Any]:
    """What arms that rank are fitted on, and their settings."""
    met = ranking.interactions_of(log, made.train_rows, 3.0)
    known = np.flatnonzero(np.asarray(met.sum(axis=0)).ravel())
    lists = ranking.lists_of(made.valid["user_cold"], made, log.num_items, 5, known, 3.0)
    chosen = ranking.tuned(
        ranking_arms.ease, {"penalty": search.Choice((3.0, 30.0))}, met, [lists], trials=4
    )
    return {"met": met.toarray(), "settings": chosen.settings, "scores": chosen.score(met[:5])}


def learner_of(ready) -> Any:
    width = ready.table.item_features.columns["factor"].shape[1] + 1
    return closed_form.ridge(
        towers.column("factor", constant=True), towers.stored_mean(ready.mean), width
    )


def tuning(log, made) -> dict[str, Any]:
    """A closed form, tuned."""
    ready = problem.problem_of(log, made, 16)
    arm = baselines.closed_form_arm(learner_of(ready), ready, {"penalty": [1.0, 8.0]})
    return {"settings": arm.settings, "params": arm.params}


def training(log, made) -> dict[str, Any]:
    """A meta-learner, trained: its checkpoint and its learning curves."""
    ready = problem.problem_of(log, made, 16)
    arm = baselines.trained_arm("A6", learner_of(ready), optax.adam(0.05), ready, TRAINING)
    return {"settings": arm.settings, "params": arm.params, "history": arm.history}


def boosted(log, made) -> dict[str, Any]:
    """Trees, as many as are best on meta-validation."""
    ready = problem.problem_of(log, made, 16)
    arm = boosting.boosting_arm(ready, None, TREES, num_support=16)
    return {k: arm.settings[k] for k in ("trees", "valid")}


def mixed(log, made) -> dict[str, Any]:
    """The weights of a mixture of a closed form and the items' means."""
    ready = problem.problem_of(log, made, 16)
    fold_in = baselines.closed_form_arm(learner_of(ready), ready, {"penalty": [8.0]})
    mean = Fitted(
        lambda source, tasks, key: 3 + np.asarray(source.inputs["bias"])[tasks.query.inputs][None],
        {},
        0.0,
    )
    weights = mixture.mixture_arm(ready, {"fold-in": fold_in, "mean": mean}, num_draws=2).settings
    return {"weights": weights}


def linked(log, made) -> dict[str, Any]:
    """The ordinal link of the item mean."""
    ready = problem.problem_of(log, made, 16)
    return {"link": fitted_link(ready)}


def fitted_link(ready) -> ordinal.Link:
    source, tasks = ready.valid
    scores = source.inputs["bias"][tasks.query.inputs]
    levels = jnp.arange(1.0, 6.0)
    return jax.jit(ordinal.fit)(scores, tasks.query.label, tasks.query.mask, levels)


# Guards.


def blind(stage: Callable) -> Callable[[], None]:
    return lambda: leaks.blind_to_test(
        lambda log, made: globals()[stage.__name__](log, made), table(), parts()
    )


def noise() -> Any:
    """The log with ratings drawn at random."""
    log = table()
    rng = np.random.default_rng(5)
    return dataclasses.replace(log, label=rng.integers(1, 6, len(log)).astype(np.float32))


def training_rows_are_honest() -> None:
    """What a learner is trained on does not remember the labels it is trained to foretell."""
    log = noise()
    ready = problem.problem_of(log, parts(log), 16)
    columns = ready.table.item_features.columns
    bayes = closed_form.ridge(
        towers.column("bayes"),
        towers.stored_mean(ready.mean, "bayes_bias"),
        columns["bayes"].shape[1],
    )
    arms = [(x, x.init(jax.random.key(0), ready.example)) for x in (learner_of(ready), bayes)]

    def seen(episode) -> jax.Array:
        inputs = episode.query.inputs
        return jnp.concatenate(
            [
                inputs["bias"][:, None],
                inputs["bayes_bias"][:, None],
                stacking.scores_of(arms)(episode),
            ],
            axis=1,
        )

    rows = stacking.drawn_rows(ready, seen, 400, num_support=16)
    real = rows.mask > 0
    for column in rows.x.T:
        leaks.noise_is_noise(column[real], rows.label[real])


def split_is_clean() -> None:
    log = table()
    leaks.split_is_clean(split.melu(log, valid_users=0.2), log)


def laid_out() -> None:
    made = parts()
    for tasks in (*made.valid.values(), *made.test.values()):
        leaks.laid_out_is_clean(episodes.fixed(tasks, made.num_query))


def predictions_are_blind() -> None:
    ready = problem.problem_of(table(), parts(), 16)
    learner = learner_of(ready)
    params = learner.init(jax.random.key(0), ready.example)
    source, tasks = ready.valid

    def predict(some) -> jax.Array:
        asked = dataclasses.replace(ready, valid=(source, some), error=lambda score, *_: score)
        return problem.valid_error(learner, params, asked)

    leaks.query_labels(predict, tasks, jax.random.key(0))


GUARDS: dict[str, Callable[[], None]] = {
    "columns are blind to test rows": blind(columns),
    "ranking arms are blind to test rows": blind(ranked),
    "tuning is blind to test rows": blind(tuning),
    "training is blind to test rows": blind(training),
    "boosting is blind to test rows": blind(boosted),
    "the mixture is blind to test rows": blind(mixed),
    "the link is blind to test rows": blind(linked),
    "training rows are honest": training_rows_are_honest,
    "the split is clean": split_is_clean,
    "episodes are clean": laid_out,
    "predictions are blind to query labels": predictions_are_blind,
}
