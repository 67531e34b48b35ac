"""The experiment on chosen ratings: its parts, what it refuses, its stored record."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.domains import chosen_arms as arms
from experiments.domains import chosen_report as report
from experiments.domains import missing_not_at_random as experiment
from metajax.data.sources import coat
from metajax.data.worlds.chosen import liked_first
from metajax.evaluation import ordinal
from metajax.results import records, tables
from metajax.settings import Output
from metajax.types import UserError

LOG = liked_first(users=12, items=10)


def saved(tmp_path, **changes):
    """A file of the world's arrays, some of them changed or, if None, left out."""
    found = {"train": LOG.chosen, "test": LOG.random, "user_features": LOG.user_features}
    found |= {"item_features": LOG.item_features} | changes
    path = tmp_path / "own.npz"
    np.savez(path, **{k: v for k, v in found.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"test": None}, "no ratings of items drawn at random"),
        ({"test": np.zeros((12, 10))}, "no ratings of items drawn at random"),
        ({"train": np.zeros((12, 10))}, "has no rating in train"),
        ({"train": 4 * (LOG.chosen > 0)}, "every rating in train is 4, so that nothing"),
        ({"test": np.ones((12, 9))}, "train is 12 x 10"),
    ],
)
def test_a_file_that_cannot_be_judged_gets_one_line(tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        coat.read(saved(tmp_path, **changes))


def test_a_log_without_a_random_test_and_missing_propensities_get_one_line(tmp_path):
    with pytest.raises(UserError, match="ml-100k has no ratings of items drawn at random"):
        experiment.loaded(experiment.Config(dataset="ml-100k"))
    with pytest.raises(UserError, match="came without propensities"):
        experiment.loaded(experiment.Config(dataset=str(saved(tmp_path)), propensity="stored"))


def test_propensities_of_0_get_one_line_before_anything_is_trained(tmp_path):
    path = saved(tmp_path, propensity=np.zeros(LOG.chosen.shape))
    config = experiment.Config(dataset=str(path), propensity="stored")
    with pytest.raises(UserError, match=r"propensity of \d+ rated pair\(s\) is 0") as caught:
        experiment.measured(config)
    assert "\n" not in str(caught.value)


def test_nothing_that_is_tested_was_trained_on_or_set_aside():
    config = experiment.Config(aside=0.3)
    hidden, aside = experiment.held_out(config, LOG)
    assert ((LOG.chosen > 0) >= hidden).all() and not (aside & (LOG.chosen > 0)).any()
    assert ((LOG.chosen > 0) & ~hidden).any(axis=1).all()


def test_a_bias_table_without_damping_is_the_weighed_mean_of_each_item():
    label = np.array([[4.0, 2.0], [2.0, 0.0]])
    weight = np.array([[3.0, 1.0], [1.0, 1.0]])
    found = arms.bias_table(label, weight, (0.0, 0.0), of_users=False)
    np.testing.assert_allclose(found, [[3.5, 2.0], [3.5, 2.0]])


def test_the_doubly_robust_loss_is_the_true_mean_where_the_imputation_is_right():
    """Imputed scores that are the labels: the correction is 0, and random items tell the error."""
    learner = arms.doubly_robust(LOG, 2)
    draw = jax.jit(arms.sampler(4, num_any=500))
    ones = np.ones(LOG.chosen.shape)
    rows = arms.rows_of(LOG.chosen, ones, ones)
    data = {"rows": rows, "user": LOG.user_features, "item": LOG.item_features}
    data = jax.tree.map(np.asarray, data) | {"penalty": np.zeros(2)}
    data = jax.tree.map(jax.numpy.asarray, data)
    episode = jax.tree.map(lambda x: np.asarray(x)[0], draw(data, jax.random.key(0)))
    params = jax.eval_shape(learner.init, jax.random.key(1), episode)
    flat = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
    flat["imputed"]["level"] = flat["imputed"]["level"] + np.float32(3.0)
    level = lambda e, v: e._replace(label=0 * e.label + v)
    same = episode._replace(support=level(episode.support, 3.0), query=level(episode.query, 3.0))
    found = jax.jit(learner.loss)(flat, same, jax.random.key(2))[0]
    np.testing.assert_allclose(found, 9.0, rtol=1e-6)


def test_weights_reach_the_support_and_the_loss_apart():
    learner = arms.debiased(arms.head(LOG, 2))
    hidden = np.where(LOG.chosen > 0, 1.0, 1.0)
    tasks = arms.tasks(LOG, arms.rows_of(LOG.chosen, hidden, hidden), arms.rows_of(
        LOG.random, hidden, hidden))  # fmt: skip
    profile = tasks.profile | {"penalty": np.zeros((12, 2), np.float32)}
    episode = jax.tree.map(lambda x: np.asarray(x)[0], tasks._replace(profile=profile))
    params = jax.jit(learner.init)(jax.random.key(0), episode)
    of = jax.jit(learner.loss)
    loss = lambda e: float(of(params, e, jax.random.key(1))[0])

    def with_weight(part: str, column: str):
        one = getattr(episode, part)
        ramp = np.linspace(0.1, 3.0, len(one.label)).astype(np.float32)
        return episode._replace(**{part: one._replace(inputs=one.inputs | {column: ramp})})

    plain = loss(episode)
    assert loss(with_weight("support", "seen")) != pytest.approx(plain)
    assert loss(with_weight("query", "asked")) != pytest.approx(plain)
    assert loss(with_weight("support", "asked")) == pytest.approx(plain)
    assert loss(with_weight("query", "seen")) == pytest.approx(plain)


@pytest.mark.usefixtures("few_draws")
def test_links_are_fitted_on_what_is_set_aside_and_judge_what_is_tested_alone(capsys):
    log = liked_first(users=40, items=20)
    ones = np.ones(log.chosen.shape)
    _, aside = experiment.held_out(experiment.Config(aside=0.3), log)
    table = lambda off: arms.bias_table(log.chosen, ones, off, True)[None]
    ready = {name: (experiment.scorer(table((d, d))), ones) for name, d in
             ((report.ITEM, 1.0), (report.PLAIN, 3.0), (report.OURS, 9.0))}  # fmt: skip
    links = experiment.links_of(log, ready, aside)
    scores = {}
    for name, (one, seen) in ready.items():
        scores |= experiment.judged(log, name, one, seen, aside, links[name])
    main = [k for k in scores if k.metric == "mse" and k.condition == records.ALL]
    assert {k.scenario for k in main} == {report.RANDOM, report.PUBLISHED}
    for key in main:
        for metric in ordinal.PROPER:
            found = scores.get(key._replace(metric=metric))
            assert (found is not None) == (key.scenario == report.RANDOM)
            assert found is None or np.isfinite(found[np.isfinite(scores[key])]).all()

    changed = dataclasses.replace(log, random=np.where(aside, log.random, 6 - log.random))
    changed = dataclasses.replace(changed, random=np.where(log.random > 0, changed.random, 0))
    again = experiment.links_of(changed, ready, aside)
    for a, b in zip(*map(jax.tree.leaves, (links, again)), strict=True):
        np.testing.assert_array_equal(a, b)

    facts = experiment.belief.facts(experiment.levels_of(log), log.chosen[log.chosen > 0], 1.0)
    record = records.made("x", experiment.Config(), records.arms_of(ready), scores, extra=facts)
    rows = {arm: (report.RANDOM, arm, records.ALL) for arm in record.names()}
    tables.show_distributions(record, "x", rows, [report.OF_ASIDE])
    said = " ".join(capsys.readouterr().out.split())
    assert -1 < said.find("MAE cal.") < said.find("log-loss") < said.find("CRPS")
    assert "over 5 ratings" in said and "random ratings that are set aside" in said


def test_people_are_grouped_by_what_is_known_of_them():
    found = report.groups_of(LOG)["group"]
    assert set(found["names"]) <= {"0", "1", "2", "3"} and len(found["of"]) == 12


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    name = f"{experiment.NAME}-coat"
    if not records.path_of(name).is_file():
        pytest.skip("no record of coat is stored")
    experiment.main(experiment.Config(output=Output(from_records=True, out=tmp_path)))
    said = capsys.readouterr().out
    assert report.OURS in said and "0.860 / 1.093" in said
    assert (tmp_path / "mse.png").is_file() and (tmp_path / "groups.png").is_file()


def test_with_known_propensities_the_weighed_item_means_are_unbiased_and_the_plain_are_not():
    """People rate a thing they give 5 stars ten times as often as one they give 1."""
    rng = np.random.default_rng(0)
    true = rng.integers(1, 6, (20_000, 4)).astype(float)
    p = np.interp(true, [1, 5], [0.05, 0.5])
    chosen = np.where(rng.random(true.shape) < p, true, 0.0)
    means = lambda weight: arms.bias_table(chosen, weight, (0.0, 1.0), of_users=False)[0]
    np.testing.assert_allclose(means(1 / p), true.mean(axis=0), atol=0.06)
    assert (means(np.ones_like(p)) - true.mean(axis=0) > 0.6).all()
    wrong = rng.permutation(p.ravel()).reshape(p.shape)  # the control: they know of no label
    assert (means(1 / wrong) - true.mean(axis=0) > 0.4).all()
