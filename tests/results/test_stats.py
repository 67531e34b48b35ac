"""Statistics equal full enumeration, SciPy and examples worked by hand."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metajax.results import intervals
from metajax.types import UserError

NAN = float("nan")


def test_paired_bootstrap_of_three_users_equals_enumeration():
    """27 equally likely samples of the differences -1, 2, 3; the exact p and ends by listing."""
    b = np.array([0.5, 1.0, 4.0])
    found = intervals.paired_bootstrap(b + np.array([-1.0, 2.0, 3.0]), b, draws=200_000, level=0.8)
    exact = sorted(sum(s) / 3 for s in itertools.product([-1.0, 2.0, 3.0], repeat=3))
    assert found.mean == pytest.approx(4 / 3)
    # At or below 0: (-1,-1,-1) once, (-1,-1,2) in 3 orders; so 4 of 27.
    assert found.p == pytest.approx(2 * 4 / 27, abs=0.005)
    assert found.low == pytest.approx(exact[2]) == pytest.approx(0.0)
    assert found.high == pytest.approx(exact[24]) == pytest.approx(8 / 3)
    assert (found.num_units, found.num_dropped) == (3, 0)


def test_interval_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 300))
    ours = intervals.paired_bootstrap(a, b, level=0.9)
    theirs = scipy.stats.bootstrap(
        (a - b,), np.mean, n_resamples=10_000, method="percentile", confidence_level=0.9, rng=rng
    )
    # Ends of 10,000 draws: a standard error of .021 standard errors of the mean, for each of two.
    near = 4 * 0.03 * float(theirs.standard_error)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=near)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=near)


def test_a_crossed_interval_is_over_tasks_and_over_seeds():
    """One seed: the standard error of the mean. Seeds far apart: that of the mean of two seeds."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(1, 400))
    one = intervals.crossed_bootstrap(scores)
    error = scores.std() / 20
    assert one.mean == pytest.approx(scores.mean())
    assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    apart = intervals.crossed_bootstrap(np.array([[0.0] * 50, [1.0] * 50]))
    assert (apart.low, apart.mean, apart.high) == (0.0, 0.5, 1.0)  # one in four draws of each
    same = intervals.crossed_bootstrap(np.repeat(scores, 3, axis=0))
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.08)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.gamma(2.0, size=(400, 60))
    inside = 0
    for i, sample in enumerate(samples):
        found = intervals.mean_interval(sample, draws=400, seed=i, level=0.9)
        inside += found.low <= 2.0 <= found.high
    assert 0.84 < inside / 400 < 0.94


def test_pairing_sees_a_small_difference_between_unlike_users():
    """Users differ by 10, methods by .1: paired, the interval excludes 0; pairing broken, not."""
    rng = np.random.default_rng(2)
    users = rng.normal(scale=10, size=500)
    a, b = users + 0.1 + rng.normal(scale=0.3, size=500), users
    paired, broken = (
        intervals.paired_bootstrap(a, b),
        intervals.paired_bootstrap(a, rng.permutation(b)),
    )
    assert paired.low > 0 and paired.p < 0.001
    assert broken.low < 0 < broken.high and broken.p > 0.05


def test_no_difference_has_p_one_and_sign_flips_the_interval():
    a, b = np.random.default_rng(3).normal(size=(2, 40))
    assert intervals.paired_bootstrap(a, a)[:4] == (0.0, 0.0, 0.0, 1.0)
    one, other = intervals.paired_bootstrap(a, b), intervals.paired_bootstrap(b, a)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p == other.p


def test_the_smallest_p_is_set_by_the_draws():
    assert intervals.mean_interval(np.array([1.0, 2.0]), draws=99).p == 2 / 100


def test_nan_users_are_dropped_and_counted():
    a, b = np.array([1.0, NAN, 3.0, 5.0]), np.array([0.0, 1.0, NAN, 1.0])
    found = intervals.paired_bootstrap(a, b)
    assert (found.mean, found.num_units, found.num_dropped) == (2.5, 2, 2)


def test_one_user_has_a_mean_and_no_interval():
    found = intervals.mean_interval(np.array([2.0, NAN]))
    assert (found.mean, found.num_units, found.num_dropped) == (2.0, 1, 1)
    assert np.isnan([found.low, found.high, found.p]).all()


def test_equal_seeds_give_equal_intervals():
    values = np.random.default_rng(4).normal(size=50)
    assert intervals.mean_interval(values, seed=1) == intervals.mean_interval(values, seed=1)
    assert intervals.mean_interval(values, seed=1) != intervals.mean_interval(values, seed=2)


def test_ten_thousand_draws_of_three_thousand_users_are_cheap():
    """About 0.13 s on one core; the bound in time leaves room for a busy machine."""
    a, b = np.random.default_rng(5).normal(size=(2, 3000))
    tracemalloc.start()
    begin = time.process_time()
    intervals.paired_bootstrap(a, b)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1.0
    assert peak < 60e6


def test_counting_how_often_a_user_is_drawn_changes_nothing(monkeypatch):
    values = np.random.default_rng(5).normal(0.02, 1.0, 700)
    counted = intervals.mean_interval(values, draws=500, seed=3)
    monkeypatch.setattr(intervals, "MOST_KEPT", 0)
    monkeypatch.setattr(intervals, "_times", None)
    assert counted == pytest.approx(intervals.mean_interval(values, draws=500, seed=3), abs=1e-14)


def test_mean_of_seeds_by_hand():
    scores = np.array([[1.0, NAN, NAN], [3.0, 5.0, NAN]])
    np.testing.assert_array_equal(intervals.mean_of_seeds(scores), [2.0, 5.0, NAN])


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04; never below the one before it."""
    adjusted = intervals.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(intervals.holm(np.array([0.6, NAN, 0.5])), [1.0, NAN, 1.0])
    assert intervals.holm(np.array([])).shape == (0,)


@settings(deadline=None)
@given(runs=st.integers(1, 7), tasks=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_iqm_equals_scipy(runs, tasks, seed):
    scores = np.random.default_rng(seed).normal(size=(3, runs, tasks))
    expected = [scipy.stats.trim_mean(x.ravel(), 0.25) for x in scores]
    np.testing.assert_allclose(intervals.iqm(scores), expected, atol=1e-12)


def test_iqm_by_hand():
    assert intervals.iqm(np.array([[100.0, 1.0], [2.0, -50.0]])) == 1.5


def test_stratified_bootstrap_resamples_the_runs_of_each_task_on_its_own():
    """Runs 0 and 1 of two tasks: 5 of 16 samples average 3/4 or more (1 of 4 were tasks tied)."""
    scores = np.array([[0.0, 0.0], [1.0, 1.0]])
    found = intervals.stratified_bootstrap(scores, lambda s: s.mean((-2, -1)) - 0.7, draws=100_000)
    assert found.p == pytest.approx(2 * 5 / 16, abs=0.012)
    assert (found.low, found.high) == pytest.approx((-0.7, 0.3))
    assert found.mean == pytest.approx(-0.2)


def test_stratified_bootstrap_does_not_resample_tasks():
    scores = np.tile([1.0, 5.0, 9.0, 40.0], (3, 1))
    found = intervals.stratified_bootstrap(scores, draws=500)
    assert found[:3] == (7.0, 7.0, 7.0) and found.num_units == 3


def test_stratified_iqm_interval_agrees_with_scipy_on_one_task():
    runs = np.random.default_rng(6).normal(size=40)

    def trimmed(x, axis):
        return scipy.stats.trim_mean(x, 0.25, axis=axis)

    theirs = scipy.stats.bootstrap((runs,), trimmed, n_resamples=10_000, method="percentile", rng=0)
    ours = intervals.stratified_bootstrap(runs[:, None])
    near = 4 * 0.038 * float(theirs.standard_error)  # .027 at the 2.5 % end, for each of two
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=near)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=near)


@settings(deadline=None)
@given(runs=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=st.integers(0, 2**32 - 1))
def test_probability_of_improvement_equals_mann_whitney(runs, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 4, (n, 3)).astype(float) for n in runs)
    u = scipy.stats.mannwhitneyu(a, b, axis=0, method="asymptotic").statistic
    expected = np.mean(u / (runs[0] * runs[1]))
    assert intervals.probability_of_improvement(a, b) == pytest.approx(expected)


def test_performance_profile_by_hand():
    scores = np.array([[0.1, 0.5], [0.5, 0.9]])
    profile = intervals.performance_profile(scores, np.array([0.0, 0.1, 0.5, 0.8, 0.9]))
    np.testing.assert_array_equal(profile, [1.0, 0.75, 0.25, 0.25, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.paired_bootstrap(np.ones(3), np.ones(2)), "3 and 2 users"),
        (lambda: intervals.paired_bootstrap(np.ones(2), np.array([1, np.inf])), "infinite"),
        (lambda: intervals.mean_interval(np.array([np.inf, 1.0])), "infinite"),
        (lambda: intervals.mean_interval(np.array([NAN])), "no user"),
        (lambda: intervals.mean_interval(np.ones((2, 2))), "1 axes"),
        (lambda: intervals.mean_interval(np.ones(2), draws=0), "at least 1 draw"),
        (lambda: intervals.stratified_bootstrap(np.array([[NAN]])), "finite"),
        (lambda: intervals.performance_profile(np.ones((0, 2)), np.ones(1)), "not empty"),
        (lambda: intervals.probability_of_improvement(np.ones((2, 3)), np.ones((2, 2))), "3 tasks"),
    ],
)
def test_misuse_is_said_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
