"""Arms of a table rest on the same users, and the unit of the ratings decides nothing."""

import dataclasses

import numpy as np
import optax
import pytest

from metajax.benchmark import baselines, harness, problem, splits
from metajax.benchmark.scores import on_the_same_tasks
from metajax.data import table
from metajax.data.worlds import latent
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import factor_mlp
from metajax.results.records import Key
from metajax.settings import Data, Training
from metajax.types import UserError

NAN = np.nan


def key(arm: str, metric: str = "mae") -> Key:
    return Key("user_cold", arm, "all", metric)


def test_a_user_undefined_for_one_arm_is_left_out_for_all():
    scores = {
        key("A"): np.array([[1.0, 2.0, NAN, 4.0]]),
        key("B"): np.array([[1.0, NAN, NAN, 4.0], [1.0, 2.0, NAN, 4.0]]),
    }
    found, told = on_the_same_tasks(scores)
    for values in found.values():
        np.testing.assert_array_equal(np.isnan(values).all(axis=0), [False, True, True, False])
    (line,) = told
    assert "2 of 4 tasks are left out for every arm, 1 of them because predictions of B" in line


def test_sound_scores_stay_as_they_are():
    scores = {key("A"): np.array([[1.0, NAN]]), key("B"): np.array([[3.0, NAN]])}
    found, told = on_the_same_tasks(scores)
    assert not told and all(found[k] is scores[k] for k in scores)


@pytest.mark.parametrize(("metric", "worst"), [("mae", np.inf), ("ndcg@5", -np.inf)])
def test_an_arm_without_a_number_has_diverged_and_takes_no_user_away(metric, worst):
    scores = {key("A", metric): np.array([[1.0, 2.0]]), key("B", metric): np.array([[NAN, NAN]])}
    found, told = on_the_same_tasks(scores)
    np.testing.assert_array_equal(found[key("A", metric)], [[1.0, 2.0]])
    assert (found[key("B", metric)] == worst).all()
    assert "B DIVERGED" in told[0]


def test_stars_and_clicks_are_not_changed():
    log = latent.rating_log(num_users=20, num_items=10)
    stars = dataclasses.replace(log, scale=table.STARS)
    assert table.in_stars(stars) == (stars, 1.0)
    clicks = dataclasses.replace(log, label=(log.label > 3) * np.float32(1), scale=(0.0, 1.0))
    assert table.in_stars(clicks) == (clicks, 1.0)


@pytest.mark.parametrize(("factor", "shift"), [(20.0, 0.0), (5.0, -15.0), (0.25, 0.0)])
def test_other_units_become_stars(factor, shift):
    log = dataclasses.replace(latent.rating_log(num_users=20, num_items=10), scale=table.STARS)
    label = np.clip(log.label, 1, 5)
    scale = (factor + shift, 5 * factor + shift)
    other = dataclasses.replace(log, label=np.float32(factor * label + shift), scale=scale)
    found, unit = table.in_stars(other)
    assert unit == factor and found.scale == table.STARS
    np.testing.assert_allclose(found.label, label, atol=1e-5)


def _errors(monkeypatch, factor: float) -> dict[str, float]:
    """The user-cold error of the bias and of MAML on one log whose ratings are multiplied."""
    log = latent.rating_log(num_users=150, num_items=60)
    label = np.float32(factor * np.clip(np.round(log.label), 1, 5))
    log = dataclasses.replace(log, label=label, scale=(factor, 5 * factor))
    monkeypatch.setattr(splits.named, "load", lambda *given: log)
    ready = problem.load(Data(), num_support=16)
    training = Training(seeds=1, num_steps=60, num_tasks=8, num_support=16)
    maml = gradient(factor_mlp(ready.mean, (8,)), optax.sgd(0.05), 2)
    arms = {
        baselines.A1: baselines.closed_form_arms(ready)[baselines.A1],
        "MAML": baselines.trained_arm("MAML", maml, optax.adam(1e-2), ready, training),
    }
    _, opened = ready.open_test(problem.freeze(training, {}), "units")
    scores = harness.judge(arms, ready, opened)
    return {arm: float(scores[key(arm)].mean()) for arm in arms}


@pytest.mark.slow
def test_the_unit_of_the_ratings_changes_no_verdict(monkeypatch):
    stars, percent = _errors(monkeypatch, 1.0), _errors(monkeypatch, 20.0)
    for arm, error in stars.items():
        assert percent[arm] == pytest.approx(20 * error, rel=0.01)
    assert percent["MAML"] < 1.5 * percent[baselines.A1]


def test_a_choice_among_scores_that_are_not_finite_is_refused():
    assert baselines._lowest(np.array([NAN, 2.0, 1.0, -np.inf]), "A1") == 2
    with pytest.raises(UserError, match="no setting of A1 of the 2 tried has a finite error"):
        baselines._lowest(np.array([NAN, np.inf]), "A1")
