"""Items as tasks of the tables: swapped tables, calibrated scores, and the arms of T4."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.field.metaemb import metaemb, training
from experiments.field.tables import clicks, contenders
from metajax import losses
from metajax.benchmark import boosting, stacking
from metajax.benchmark.arm import Fitted
from metajax.data import table
from metajax.data.episodes import Source, Tasks
from metajax.data.sources import named
from metajax.evaluation import protocols
from metajax.learners import pooled
from metajax.models import ctr
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
    raw = metaemb.logits_of(_scores_its_inputs(), {"none": jnp.zeros(1)}, source)
    oracle = LogisticRegression(C=np.inf).fit(score.reshape(-1, 1), label.ravel())
    slope, start = oracle.coef_[0, 0], oracle.intercept_[0]
    fit = clicks.calibration(raw(tasks, (0,))[0], tasks.query)
    np.testing.assert_allclose(fit, [slope, start], rtol=2e-3)
    found = clicks.calibrated(raw, tasks, (0,))(tasks, (0, 5))
    assert found.shape == (1, 2, 20, 30)
    np.testing.assert_allclose(found[0, 1], slope * score + start, rtol=5e-3, atol=5e-3)


def test_an_arm_that_is_no_learner_sees_the_first_shots_alone():
    """Its score is the number of support rows that it was shown."""
    seen = lambda source, tasks, key: jnp.broadcast_to(
        tasks.support.mask.sum(axis=1)[None, :, None], (1, *tasks.query.label.shape)
    )
    arm = Fitted(seen, {}, 0.0)
    rows = lambda n, m: Examples(jnp.zeros((n, m), jnp.int32), jnp.zeros((n, m)), jnp.ones((n, m)))
    tasks = Episode(jnp.zeros(3, jnp.int32), rows(3, 6), rows(3, 4))
    found = clicks.scores_of(arm, None)(tasks, (0, 2, 60))  # pyright: ignore[reportArgumentType]
    assert found.shape == (1, 3, 3, 4)
    np.testing.assert_array_equal(found[0, :, 0, 0], [0, 2, 6])


@pytest.mark.slow
def test_every_arm_of_the_tables_warms_items_up(tmp_path):
    config = metaemb.Config(
        data=Data("synthetic"), hot=100, seeds=1, base_steps=20, num_steps=10, num_tasks=4
    )
    asked = Training(seeds=1, num_steps=10, num_tasks=4, num_support=60)
    budget = contenders.Budget(1, 3, tmp_path)
    shots = protocols.ctr_warmup().shots
    methods = ("A6 ridge head",)
    also = lambda log, parts: clicks.arms(methods, log, parts, asked, budget, shots)
    record = metaemb.run(config, also)
    assert record.names()[0] == record.method == "A6 ridge head"
    assert {"A1 bias", "A7 hier. Bayes", "Meta-Embedding", boosting.A8} < set(record.names())
    assert stacking.A9 in record.names() and not record.extra["notes"]
    for arm in record.names():
        for k in shots:
            auc = record.of("item_cold", arm, f"k={k}", "auc")
            assert np.all((auc >= 0) & (auc <= 1)), arm
            assert np.isfinite(record.of("item_cold", arm, f"k={k}", "log_loss")).all(), arm


@pytest.fixture(scope="module")
def warm():
    """Configuration, items, and a click model that two steps have trained."""
    config = metaemb.Config(data=Data("synthetic"), hot=100, num_tasks=4)
    data = metaemb.load(config, protocols.ctr_warmup(hot=config.hot))
    table = ctr.with_table(data.base, data.table.num_items, config.embedding)
    learner, steps = pooled.pooled(table, loss=losses.log_loss), metaemb.steps_of(config)
    found = training.fitted("click model", learner, data, config.outer_rate, steps, 2, 1)
    return config, data, jax.tree.map(lambda x: x[0], found.params["model"])


def check_trials(arm, warm):
    """The second trial of a program has the validation loss of a program for its rates alone."""
    config, data, trained = warm
    steps, seen = metaemb.steps_of(config), []

    def way(rates):
        seen.append(rates)
        return metaemb.build(dataclasses.replace(config, **rates), data, trained)[arm]

    trial = training.trials(arm, way, data, steps, 3)
    first = trial({"inner_rate": 1.0, "outer_rate": 1e-3})
    once, rates = len(seen), {"inner_rate": 0.3, "outer_rate": 2e-3}
    second = trial(rates)
    assert len(seen) == once, "the second trial makes a program of its own"
    learner, moves, _ = way(rates)
    rate, num_steps = (rates["outer_rate"], 3) if moves else (0.0, 1)
    alone = training.fitted(arm, learner, data, rate, steps, num_steps, 1)
    assert second == pytest.approx(float(alone.history["valid"].min()), rel=1e-6)
    assert first != second


def test_one_program_serves_all_rates_of_a_way(warm):
    check_trials("mean embedding", warm)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm", ["random embedding", "Meta-Embedding", "MWUF", "CVAR", "DropoutNet"]
)
def test_one_program_serves_all_rates_of_each_way(arm, warm):
    check_trials(arm, warm)
