"""Arms made of other arms, and boosted trees: what they see, how they fit, what they read."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import losses
from metajax.benchmark import baselines, boosting, mixture, problem, stacking
from metajax.benchmark.arm import Fitted
from metajax.data import split
from metajax.data.worlds import latent
from metajax.evaluation import leaks
from metajax.results import records
from metajax.types import Episode, Examples, UserError

TREES = boosting.Settings(rate=0.2, leaves=8, most_trees=40, num_draws=1500, hidden_share=0.1)


@pytest.fixture(scope="module")
def ready():
    table = latent.rating_log(num_users=260, num_items=120)
    made = problem.problem_of(table, split.melu(table, valid_users=0.3), 32)
    return dataclasses.replace(made, error=losses.squared_error)


@pytest.fixture(scope="module")
def closed_forms(ready):
    return baselines.closed_form_arms(ready)


@pytest.fixture(scope="module")
def boosted(ready, closed_forms):
    seen = {name: closed_forms[name] for name in (baselines.A2, baselines.A7)}
    return boosting.boosting_arm(ready, seen, TREES, num_support=32)


def item_inputs(bias, factor, genre):
    bias = jnp.asarray(bias, jnp.float32)
    return {
        "bias": bias,
        "count": jnp.ones_like(bias),
        "factor": jnp.asarray(factor, jnp.float32),
        "genre": jnp.asarray(genre)[:, None],
    }


def small_task(mask=(1.0, 1.0, 0.0)) -> Episode:
    support = Examples(
        item_inputs([0.5, -0.5, 9.0], [[1.0, 0], [0, 1], [7, 7]], [1, 2, 1]),
        jnp.array([5.0, 1.0, 99.0]),
        jnp.array(mask),
    )
    query = Examples(
        item_inputs([0.0, 0.0], [[2.0, 1.0], [-1.0, 0.0]], [1, 3]), jnp.zeros(2), jnp.ones(2)
    )
    return Episode({}, support, query)


def test_statistics_of_the_support_by_pencil():
    task = small_task()
    # residuals of mean 3: 5 - 3 - 0.5 = 1.5 and 1 - 3 + 0.5 = -1.5
    found = boosting._of_support(task.support, 3.0)
    np.testing.assert_allclose(found, [2, 0, 3, 2, 0, 1.5, 1, 5, 1], atol=1e-6)
    one = boosting._of_support(small_task((1.0, 0.0, 0.0)).support, 3.0)
    np.testing.assert_allclose(one, [1, 1.5 / 4, 5, 0, 1.5, 0, 5, 5, 1], atol=1e-6)
    none = boosting._of_support(small_task((0.0, 0.0, 0.0)).support, 3.0)
    assert none[0] == 0 and none[1] == 0 and np.isnan(none[2:]).all()


@pytest.mark.parametrize("size", [4, 1000])
def test_ratings_of_like_items_by_pencil(size):
    found = boosting._of_like_items(small_task(), 3.0, {"genre": size})
    # row 0: factors 2 and 1 with residuals 1.5 and -1.5; its genre is that of the first
    np.testing.assert_allclose(found[0], [1.5 / 4, 3, 1.5 / 2, 1], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0, 0, 0])


def test_a_stack_finds_the_arm_that_is_right():
    rng = np.random.default_rng(0)
    label = rng.normal(3.5, 1, 4000)
    scores = np.stack([label + 0.01 * rng.normal(size=4000), rng.normal(3.5, 1, 4000)], 1)
    found = stacking.ensemble.stacking_weights(*map(jnp.asarray, (scores, label, np.ones(4000))))
    np.testing.assert_allclose(found, [1, 0], atol=0.02)


def test_the_stack_is_as_good_as_its_best_arm(ready, closed_forms):
    stack = stacking.stack_arm(ready, closed_forms, num_draws=1500, num_support=32)
    each = {
        name: float(
            problem.valid_error(*stacking.first_seed(arm), ready)  # not chosen by all of it
        )
        for name, arm in closed_forms.items()
    }
    assert stack.settings["valid"] < min(each.values()) + 0.01
    assert sum(stack.settings["weights"].values()) == pytest.approx(1, abs=0.1)


def test_rows_drawn_for_a_regression_are_queries_of_training_tasks(ready):
    item = lambda episode: episode.query.inputs["item"][:, None].astype(jnp.float32)
    rows = stacking.drawn_rows(ready, item, 64, num_support=32)
    assert rows.x.shape == (64 * 10, 1) and rows.label.shape == rows.mask.shape == (640,)
    assert set(np.unique(rows.label[rows.mask > 0])) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    again = stacking.drawn_rows(ready, item, 64, num_support=32)
    np.testing.assert_array_equal(rows.x, again.x)
    hidden = lambda episode: episode.query.inputs["count"][:, None]
    count = stacking.drawn_rows(ready, hidden, 200, num_support=32, hidden_share=0.5)
    assert 0.35 < np.mean(count.x[count.mask > 0] == 0) < 0.65


def test_boosted_trees_beat_the_bias(ready, closed_forms, boosted):
    _, tasks = ready.valid
    scores = boosted.predict(*ready.valid, jax.random.key(0))
    assert scores.shape == (1, *tasks.query.label.shape)
    error = float(ready.error(jnp.asarray(scores[0]), tasks.query.label, tasks.query.mask))
    assert error == pytest.approx(boosted.settings["valid"], rel=1e-5)
    bias = stacking.first_seed(closed_forms[baselines.A1])
    assert error < float(problem.valid_error(*bias, ready)) - 0.02
    assert 1 <= boosted.settings["trees"] <= TREES.most_trees


def test_boosted_trees_do_not_see_query_labels_or_padding(ready, boosted):
    source, tasks = ready.valid
    some = jax.tree.map(lambda x: x[:20], tasks)
    predict = lambda t: jnp.asarray(boosted.predict(source, t, jax.random.key(0))[0])
    leaks.query_labels(predict, some, jax.random.key(1))
    support = some.support
    padded = lambda x: jnp.concatenate([x, jnp.full_like(x[:, :3], 1)], axis=1)
    longer = support._replace(
        inputs=padded(support.inputs),
        label=padded(support.label),
        mask=jnp.pad(support.mask, ((0, 0), (0, 3))),
    )
    np.testing.assert_allclose(predict(some._replace(support=longer)), predict(some), atol=1e-5)


def test_a_mixture_finds_planted_weights_and_refuses_a_useless_arm():
    rng = np.random.default_rng(0)
    arms = 3.0 + rng.normal(size=(3, 1, 400, 10))
    label = 3.0 + 0.7 * (arms[0, 0] - 3) + 0.2 * (arms[1, 0] - 3) - 0.3 * (arms[2, 0] - 3)
    mask = (rng.random(label.shape) < 0.8).astype(np.float32)
    rows = Examples({}, jnp.asarray(np.where(mask, label, 1e6)), jnp.asarray(mask))
    weights = mixture.fitted_weights(arms, Episode({}, rows, rows), 3.0)
    assert weights[2] == 0, "no weight is negative"
    np.testing.assert_allclose(weights[:2], [0.7, 0.2], atol=0.03)


def test_a_mixture_weighs_items_without_ratings_apart(ready, closed_forms):
    def only(right: bool) -> Fitted:
        """An arm that says 5 of items with ratings and 1 of others, or the other way round."""

        def predict(source, tasks, key):
            rated = np.asarray(source.inputs["count"])[np.asarray(tasks.query.inputs)] > 0
            return np.where(rated == right, tasks.query.label, 3.0)[None]

        return Fitted(predict, {}, 0.0)

    made = mixture.mixture_arm(ready, {"rated": only(True), "unrated": only(False)}, num_draws=2)
    weights = made.settings["weights, items rated"]
    assert weights["rated"] == pytest.approx(1, abs=1e-4) and weights["unrated"] == 0
    assert made.settings["weights, items unrated"] == {"rated": 0.5, "unrated": 0.5}
    assert made.settings["valid"] == pytest.approx(0, abs=1e-6)
    source, tasks = ready.valid
    source = source._replace(
        inputs={**source.inputs, "count": jnp.zeros_like(source.inputs["count"])}
    )
    found = made.predict(source, tasks, jax.random.key(0))[0]
    label, mask = np.asarray(tasks.query.label), np.asarray(tasks.query.mask) > 0
    even = ready.mean + ((3.0 - ready.mean) + (label - ready.mean)) / 2
    np.testing.assert_allclose(found[mask], even[mask], rtol=1e-5)


def test_items_without_ratings_weigh_the_strong_arms_alike(closed_forms):
    names = (baselines.A2, baselines.A7, boosting.A8, "A6 mine")
    as_arm = lambda name: closed_forms[baselines.A2]._replace(
        role=records.METHOD if name[:2] == "A6" else records.BASELINE
    )
    arms = {name: as_arm(name) for name in names}
    np.testing.assert_allclose(mixture.even_weights(arms), [0, 1 / 3, 1 / 3, 1 / 3])
    del arms["A6 mine"]
    np.testing.assert_allclose(mixture.even_weights(arms), [0, 0.5, 0.5])
    del arms[baselines.A7], arms[boosting.A8]
    np.testing.assert_allclose(mixture.even_weights(arms), [1])


def test_a_mixture_keeps_seeds_apart_and_is_no_worse_than_its_arms(ready, closed_forms):
    arm = closed_forms[baselines.A7]
    two = arm._replace(params=jax.tree.map(lambda x: jnp.concatenate([x, x + 0.3]), arm.params))
    arms = {"A2": closed_forms[baselines.A2], "A7": two}
    made = mixture.mixture_arm(ready, arms, num_draws=3)
    scores = made.predict(*ready.valid, jax.random.key(0))
    assert scores.shape == (2, *ready.valid[1].query.label.shape)
    assert not np.allclose(scores[0], scores[1], atol=1e-3)
    error = float(problem.valid_error(*stacking.first_seed(arms["A2"]), ready))
    assert made.settings["valid"] < error
    again = mixture.redrawn(ready, 2)
    label, mask = np.asarray(again.query.label), np.asarray(again.query.mask)
    assert label.shape[0] == 2 * ready.valid[1].query.label.shape[0] and mask.all()
    some = jax.tree.map(lambda x: x[:20], ready.valid[1])
    predict = lambda t: jnp.asarray(made.predict(ready.valid[0], t, jax.random.key(0))[0])
    leaks.query_labels(predict, some, jax.random.key(1))


@pytest.mark.slow
def test_trees_alone_need_no_arms(ready):
    few = TREES._replace(most_trees=5, num_draws=200)
    arm = boosting.boosting_arm(ready, None, few, num_support=32)
    assert np.isfinite(arm.predict(*ready.valid, jax.random.key(0))).all()


def test_trees_of_both_libraries_and_the_better_of_them(ready, monkeypatch):
    if "lightgbm" not in boosting.installed():  # it needs OpenMP of the system
        pytest.skip("no LightGBM here")
    few = TREES._replace(most_trees=20, num_draws=500)
    made = boosting.booster(ready, None, 500, num_support=32)
    each = {backend: made(few, backend).settings["valid"] for backend in boosting.installed()}
    assert list(each) == ["lightgbm", "sklearn"]
    assert max(each.values()) < np.var(ready.table.label)
    best = boosting.better(made, few).settings
    assert best["valid"] == min(each.values()) and each[best["backend"]] == best["valid"]
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert boosting.installed() == ["sklearn"]
    with pytest.raises(UserError, match="LightGBM is not installed: pip install"):
        made(few, "lightgbm")


def test_another_seed_draws_other_tasks_for_the_trees(ready):
    few = TREES._replace(most_trees=5)
    made = [boosting.booster(ready, None, 200, num_support=32, seed=s) for s in (0, 0, 1)]
    first, same, other = (
        arm(few, "sklearn").predict(*ready.valid, jax.random.key(0)) for arm in made
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


def test_stages_of_lightgbm_are_the_predictions_of_so_many_trees():
    if "lightgbm" not in boosting.installed():  # it needs OpenMP of the system
        pytest.skip("no LightGBM here")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = x[:, 0] + rng.normal(0, 0.1, 300)
    few = TREES._replace(most_trees=7)
    trees = boosting.BACKENDS["lightgbm"](few, x, y)
    stages = list(trees.stages(x))
    assert len(stages) == 7
    for number, stage in enumerate(stages, 1):
        np.testing.assert_allclose(stage, trees.predict(x, number), atol=1e-9)
    assert np.mean((stages[-1] - y) ** 2) < 0.5 * np.mean((stages[0] - y) ** 2)
