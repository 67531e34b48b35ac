"""Metrics equal pencil arithmetic, ranx and scikit-learn; padding is invisible, ties are fair."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from metajax.evaluation import metrics

NAN: Any = np.nan
ROOM = 14  # one padded shape: each metric compiles once
KS = (1, 3, 10, 20)
KEY = jax.random.key(0)
RANKING = {
    "ndcg": (metrics.ndcg, "ndcg_burges"),
    "precision": (metrics.precision, "precision"),
    "recall": (metrics.recall, "recall"),
    "hit_rate": (metrics.hit_rate, "hit_rate"),
    "mrr": (metrics.mrr, "reciprocal_rank"),
    "average_precision": (metrics.average_precision, "average_precision"),
}
UNKEYED = {
    "mae": metrics.mae,
    "rmse": metrics.rmse,
    "log_loss": metrics.log_loss,
    "auc": metrics.auc,
    "accuracy": metrics.accuracy,
    "precision_decision": metrics.precision_decision,
    "recall_decision": metrics.recall_decision,
    "f1": metrics.f1,
}


@functools.cache
def theirs(name: str) -> Any:
    """A metric of ranx, which is slow to import: only the process that compares pays for it."""
    import numba

    # Lists here are short: interpreting ranx takes milliseconds, compiling it 13 s.
    numba.config.DISABLE_JIT = True  # pyright: ignore
    from ranx import metrics

    return getattr(metrics, name)


ndcg = jax.jit(metrics.ndcg, static_argnames="k")
order = jax.jit(metrics.order)


@jax.jit
def ranking_at_all_k(score, label, mask, key):
    return {
        name: jnp.stack([metric(score, label, mask, key, k=k) for k in KS])
        for name, (metric, _) in RANKING.items()
    }


@jax.jit
def unkeyed(score, label, mask):
    return {name: metric(score, label, mask) for name, metric in UNKEYED.items()}


def padded(rng, score, label):
    """The rows scattered in order over ROOM places, the other places filled with noise."""
    place = np.sort(rng.choice(ROOM, len(score), replace=False))
    out = [rng.normal(size=ROOM) * 9, rng.integers(0, 6, ROOM).astype(float), np.zeros(ROOM)]
    for whole, part in zip(out, (score, label, 1.0), strict=True):
        whole[place] = part
    return tuple(out)


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


lists = given(
    length=st.integers(0, ROOM),
    top_label=st.integers(0, 5),
    all_positive=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


def draw(length, top_label, all_positive, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(min(all_positive, top_label), top_label + 1, length).astype(float)
    return rng, rng.permutation(length) + rng.uniform(-0.4, 0.4, length), label


@settings(deadline=None, max_examples=150)
@lists
def test_ranking_metrics_equal_ranx(length, top_label, all_positive, seed):
    rng, score, label = draw(length, top_label, all_positive, seed)
    with jax.enable_x64(True):
        ours = ranking_at_all_k(*padded(rng, score, label), KEY)
        ours = {name: np.asarray(value) for name, value in ours.items()}
    if not (label > 0).any():
        assert all(np.isnan(value).all() for value in ours.values())
        return
    best = np.argsort(-score)
    run = np.stack([best, score[best]], 1)[None]
    ideal = np.argsort(-label)  # ranx wants judgments sorted by grade
    judged = np.stack([ideal, label[ideal]], 1)[None]
    for name, (_, of_ranx) in RANKING.items():
        same(ours[name], [theirs(of_ranx)(judged, run, k)[0] for k in KS])


@settings(deadline=None, max_examples=150)
@lists
def test_decision_metrics_equal_scikit_learn(length, top_label, all_positive, seed):
    rng, score, label = draw(length, min(top_label, 1), all_positive, seed)
    score = np.round(score - length / 2)  # ties and exact zeros
    with jax.enable_x64(True):
        ours = unkeyed(*padded(rng, score, label))
        ours = {name: float(value) for name, value in ours.items()}
    if length == 0:
        assert all(math.isnan(value) for value in ours.values())
        return
    yes, real = score > 0, label > 0
    probability = 1 / (1 + np.exp(-score))
    same(ours["mae"], oracle.mean_absolute_error(label, score))
    same(ours["rmse"], oracle.root_mean_squared_error(label, score))
    same(ours["log_loss"], oracle.log_loss(real, probability, labels=[False, True]))
    same(ours["accuracy"], oracle.accuracy_score(real, yes))
    same(ours["precision_decision"], oracle.precision_score(real, yes, zero_division=NAN))
    same(ours["recall_decision"], oracle.recall_score(real, yes, zero_division=NAN))
    same(ours["f1"], oracle.f1_score(real, yes, zero_division=NAN))
    same(ours["auc"], oracle.roc_auc_score(real, score) if len(set(real)) == 2 else np.nan)


@settings(deadline=None, max_examples=100)
@given(length=st.integers(1, ROOM), seed=st.integers(0, 2**32 - 1))
def test_a_key_gives_the_metric_of_one_jittered_score(length, seed):
    """Ties in score: the same key breaks them as adding one small noise of its own would."""
    rng = np.random.default_rng(seed)
    tied, label, mask = padded(
        rng, rng.integers(0, 3, length).astype(float), rng.integers(0, 4, length).astype(float)
    )
    key = jax.random.key(seed)
    place_of = np.empty(ROOM)
    place_of[np.asarray(order(np.zeros(ROOM), mask, key))] = np.arange(ROOM)
    jittered = tied - 1e-3 * place_of
    with_ties = ranking_at_all_k(tied, label, mask, key)
    without = ranking_at_all_k(jittered, label, mask, KEY)
    for name in RANKING:
        np.testing.assert_allclose(with_ties[name], without[name], atol=1e-6)


def test_a_constant_scorer_gets_chance_whatever_the_order_of_the_file():
    """4 of 10 relevant, and first in the file: P@5 and R@5 are chance, and not 4/5 and 1."""
    label = np.array([1.0] * 4 + [0.0] * 6)
    keys = jax.random.split(jax.random.key(7), 20_000)

    def mean_of(metric):
        values = jax.jit(jax.vmap(lambda key: metric(jnp.ones(10), label, jnp.ones(10), key, k=5)))(
            keys
        )
        return float(np.mean(values)), 4 * float(np.std(values)) / len(keys) ** 0.5

    discount = [1 / math.log2(i + 1) for i in range(1, 6)]
    chance = {
        metrics.precision: 0.4,
        metrics.recall: 0.5,
        metrics.hit_rate: 1 - math.comb(6, 5) / math.comb(10, 5),
        metrics.ndcg: 0.4 * sum(discount) / sum(discount[:4]),
        # The first relevant row is at i when the i - 1 rows before it are irrelevant.
        metrics.mrr: sum(
            math.comb(6, i - 1) / math.comb(10, i - 1) * 4 / (11 - i) / i for i in range(1, 6)
        ),
    }
    for metric, expected in chance.items():
        mean, error = mean_of(metric)
        assert abs(mean - expected) < error, metric.__name__


def test_every_order_of_a_tie_is_equally_likely():
    keys = jax.random.split(jax.random.key(3), 12_000)
    mask = np.array([1.0, 0.0, 1.0, 1.0])
    orders = jax.jit(jax.vmap(metrics.order, (None, None, 0)))(np.zeros(4), mask, keys)
    found, times = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(found) == 6 and (found[:, 3] == 1).all()
    assert (abs(times - 2000) < 4 * (2000 * 5 / 6) ** 0.5).all()


def test_ndcg_by_hand():
    """Grades 3, 0, 2 in the model's order: gains 7, 0, 3; ideal order 3, 2, 0."""
    score, label = np.array([0.1, 0.9, 0.5]), np.array([2.0, 3.0, 0.0])
    dcg, ideal = 7 + 3 / 2, 7 + 3 / math.log2(3)
    at = functools.partial(ndcg, score, label, np.ones(3), KEY)
    assert float(at(k=3)) == pytest.approx(dcg / ideal, rel=1e-6)
    assert float(at(k=2)) == pytest.approx(7 / ideal, rel=1e-6)


def test_ndcg_never_exceeds_one_and_ignores_the_scale_of_scores():
    """Over-predicting does not help: the value depends on the order alone."""
    label = np.array([5.0, 3.0, 4.0, 1.0])
    for scale in (1.0, 100.0):
        value = ndcg(label * scale, label, np.ones(4), KEY, k=3)
        assert float(value) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "label", [[1, -1, -1, -1], [-9, -3, -1, -5], [130, 3, 2, 1], [-7, -7, -7, -7], [1e6, 0, 5, 9]]
)
def test_ndcg_is_from_0_to_1_on_any_scale(label):
    score, label = np.arange(4.0), np.asarray(label, float)
    for sign in (1.0, -1.0):
        value = float(ndcg(sign * score, label, np.ones(4), KEY, k=4))
        assert 0.0 <= value <= 1.0
    best = ndcg(label, label, np.ones(4), KEY, k=4)
    assert float(best) == pytest.approx(1.0)


@pytest.mark.parametrize("stars", [(1, 1, 1, 1), (5, 1, 3, 2), (2, 4, 4, 5)])
def test_ndcg_of_stars_is_that_of_the_same_ratings_in_other_units(stars):
    label, score, ones = np.asarray(stars, float), np.arange(4.0), np.ones(4)
    wanted = float(ndcg(score, label, ones, KEY, k=3))
    for factor, shift in ((20.0, 0.0), (5.0, -15.0), (100.0, 0.0)):
        scale = (factor + shift, 5.0 * factor + shift)
        other = ndcg(score, factor * label + shift, ones, KEY, k=3, scale=scale)
        assert float(other) == pytest.approx(wanted, rel=1e-5)


def test_precision_and_decision_thresholds_by_hand():
    """Ratings of 4 and 5 are relevant (above 3); the decision is a predicted rating above 3.5."""
    score = np.array([4.5, 3.6, 3.4, 2.0, 4.0])
    label = np.array([5.0, 3.0, 4.0, 1.0, 4.0])
    at = {"cutoff": 3.5, "threshold": 3.0}
    decide = (metrics.precision_decision, metrics.recall_decision, metrics.f1, metrics.accuracy)

    @jax.jit
    def found(score, label, mask):
        task = (score, label, mask)
        return [
            metrics.precision(*task, KEY, k=3, threshold=3.0),
            metrics.recall(*task, KEY, k=2, threshold=3.0),
            *(metric(*task, **at) for metric in decide),
            metrics.auc(*task, threshold=3.0),
        ]

    *rest, accuracy, auc = map(float, found(score, label, np.ones(5)))
    assert rest == pytest.approx([2 / 3] * 5)
    assert accuracy == pytest.approx(3 / 5)
    # Of the 3 x 2 pairs only (3.4 of a four, 3.6 of a three) is out of order.
    assert auc == pytest.approx(5 / 6)


@pytest.mark.parametrize("score", [np.array([np.inf, -np.inf, np.inf, 0.0])])
def test_infinite_scores_are_scores(score):
    """The last row is padding; an infinite score is not taken for it."""
    label, mask = np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    auc = jax.jit(metrics.auc)(score, label, mask)
    recall = jax.jit(metrics.recall, static_argnames="k")(score, label, mask, KEY, k=3)
    assert float(auc) == pytest.approx(0.25)
    assert float(recall) == 1.0


def test_a_nan_score_fails_the_task_and_a_nan_in_the_padding_does_not():
    label, mask = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
    broken, fine = np.array([0.5, np.nan, 0.0]), np.array([0.5, 0.0, np.nan])
    ranked = jax.jit(lambda *task: [metric(*task, KEY, k=2) for metric, _ in RANKING.values()])
    for name in UNKEYED:
        assert np.isnan(unkeyed(broken, label, mask)[name])
        assert np.isfinite(unkeyed(fine, label, mask)[name])
    assert np.isnan(ranked(broken, label, mask)).all()
    assert np.isfinite(ranked(fine, label, mask)).all()


def test_vmap_over_tasks_is_a_loop_over_tasks():
    rng = np.random.default_rng(0)
    tasks = [
        padded(rng, rng.normal(size=n), rng.integers(0, 2, n).astype(float)) for n in (0, 1, 9)
    ]
    keys = jax.random.split(KEY, 3)
    batch = [np.stack(leaf) for leaf in zip(*tasks, strict=True)]
    together = jax.jit(jax.vmap(ranking_at_all_k))(*batch, keys)
    together |= jax.jit(jax.vmap(unkeyed))(*batch)
    together = jax.device_get(together)
    for i, task in enumerate(tasks):
        alone = ranking_at_all_k(*task, keys[i]) | unkeyed(*task)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-5)


def test_ranking_metrics_of_one_key_share_one_sort():
    """Full ranking of a catalogue is a sort: six metrics must not cost six."""
    one = jnp.ones(100)
    six = jax.jit(lambda *task: [metric(*task, k=5) for metric, _ in RANKING.values()])
    assert str(six.lower(one, one, one, KEY).compile().as_text()).count(" sort(") == 1


def test_misuse_is_refused():
    one = np.ones(3)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ndcg(one, one, one, KEY, k=0)
    with pytest.raises(AssertionError, match="shape"):
        jax.jit(metrics.mae)(one, one, np.ones(1))
    with pytest.raises(AssertionError, match="rank"):
        jax.jit(metrics.f1)(one[:, None], one[:, None], one[:, None])
