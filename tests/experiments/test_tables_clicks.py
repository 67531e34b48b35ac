"""Items as tasks of the tables: swapped tables, calibrated scores, and the arms of T4."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.field.metaemb import metaemb
from experiments.field.tables import clicks, contenders
from metajax.benchmark.problem import Problem
from metajax.data import table
from metajax.data.episodes import Source, Tasks
from metajax.data.sources import named
from metajax.evaluation import protocols
from metajax.settings import Data, Training
from metajax.types import Episode, Examples, MetaLearner


def _scores_its_inputs() -> MetaLearner:
    """A learner whose score is the input, whatever it adapts on."""
    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: (),
        adapt=lambda params, state, examples, key: state,
        predict=lambda params, state, inputs: inputs["score"],
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def test_a_swapped_table_swapped_again_is_the_table():
    log = named.load("synthetic", None)
    there = table.swapped(log)
    assert (there.num_users, there.num_items) == (log.num_items, log.num_users)
    np.testing.assert_array_equal(there.user, log.item)
    assert there.user_features is log.item_features
    back = table.swapped(there)
    assert dataclasses.replace(log, state=None).checksum() == back.checksum()


def test_calibration_is_logistic_regression_on_meta_validation():
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 1, (20, 30)).astype(np.float32)
    label = (rng.random((20, 30)) < 1 / (1 + np.exp(-(5 * score - 3)))).astype(np.float32)
    index = np.arange(600, dtype=np.int32).reshape(20, 30)
    none = Examples(index[:, :1], label[:, :1], np.zeros((20, 1), np.float32))
    query = Examples(index, label, np.ones((20, 30), np.float32))
    tasks = jax.tree.map(jnp.asarray, Episode(np.arange(20, dtype=np.int32), none, query))
    whole = np.zeros(20, np.int32)
    source = Source(
        Tasks(whole, whole, whole, whole, whole.astype(np.float32)),  # not drawn from here
        profile={"id": jnp.arange(20)},
        inputs={"score": jnp.asarray(score.ravel())},
    )
    ready = functools.partial(Problem, None, None, 0.0, source, (source, tasks), tasks)()  # pyright: ignore
    fit = clicks.calibration(_scores_its_inputs(), {}, ready, (0,))
    oracle = LogisticRegression(C=np.inf).fit(score.reshape(-1, 1), label.ravel())
    np.testing.assert_allclose(fit, [oracle.coef_[0, 0], oracle.intercept_[0]], rtol=2e-3)
    logits = clicks.as_logits(_scores_its_inputs())
    params = ({}, fit)
    given = {"score": jnp.array([0.5])}
    found = logits.predict(params, logits.start(params, {}), given)
    np.testing.assert_allclose(found, fit[0] * 0.5 + fit[1], rtol=1e-6)


@pytest.mark.slow
def test_every_arm_of_the_tables_warms_items_up(tmp_path):
    config = metaemb.Config(
        data=Data("synthetic"), hot=100, seeds=1, base_steps=20, num_steps=10, num_tasks=4
    )
    training = Training(seeds=1, num_steps=10, num_tasks=4, num_support=60)
    budget = contenders.Budget(1, 3, tmp_path)
    shots = protocols.ctr_warmup().shots
    methods = ("A6 ridge head",)
    also = lambda log, parts: clicks.arms(methods, log, parts, training, budget, shots)
    record = metaemb.run(config, also)
    assert record.names()[0] == record.method == "A6 ridge head"
    assert {"A1 bias", "A7 hier. Bayes", "Meta-Embedding"} < set(record.names())
    for arm in record.names():
        for k in shots:
            auc = record.of("item_cold", arm, f"k={k}", "auc")
            assert np.all((auc >= 0) & (auc <= 1)), arm
            assert np.isfinite(record.of("item_cold", arm, f"k={k}", "log_loss")).all(), arm
