"""Reliability and cost of what is compared, against pencil arithmetic, SciPy and rliable."""

import numpy as np
import pytest
import scipy.stats
from matplotlib import figure
from small_records import OFFSETS, record

from metajax.results import intervals, plots, records, reliability
from metajax.results.reliability import Cost, Entry


def entry(arm: str, scores: np.ndarray, tasks: str = "t") -> Entry:
    return Entry("run", arm, "user_cold", np.asarray(scores, float), tasks)


def test_iqm_and_improvement_are_those_of_rliable():
    """rliable's own interval needs `arch`, which does not import beside today's pandas."""
    theirs = pytest.importorskip("rliable.metrics")
    a, b = np.random.default_rng(0).normal(size=(2, 5, 37))
    assert intervals.iqm(a) == pytest.approx(theirs.aggregate_iqm(a), abs=1e-12)
    chance = intervals.probability_of_improvement(a, b[:3])
    assert chance == pytest.approx(theirs.probability_of_improvement(a, b[:3]), abs=1e-12)


def test_the_row_of_an_arm_by_hand():
    """Errors 1, 2, 3, 4 of the reference: better than 25, 50, 75 % are errors below 3.25, ..."""
    base = entry("A2", [[1.0, 2.0, 3.0, 4.0]])
    mine = entry("A6", [[0.5, 1.5, 2.6, 9.0], [0.5, 1.5, 2.4, 9.0]])
    rows = reliability.reliability([base, mine], "A2", "mae").rows
    assert rows[0][1:5] == ["run", "A2", "1", "2.5000"] and rows[0][5] == "reference"
    # Cut two from each end of .5 .5 1.5 1.5 2.4 2.6 9 9: (1.5 + 1.5 + 2.4 + 2.6) / 4 = 2.
    assert rows[1][4].startswith("2.0000 [") and rows[1][3] == "2"
    # Better on the first three tasks, worse on the last, in both seeds.
    assert rows[1][5] == "0.75"
    # Quartiles of the reference: 3.25, 2.5, 1.75; six of eight, five of eight, four of eight.
    assert rows[1][6:] == ["0.75", "0.62", "0.50"]


def test_more_is_better_where_the_metric_says_so():
    base, mine = entry("A2", [[0.1, 0.2]]), entry("A6", [[0.3, 0.3]])
    assert reliability.reliability([base, mine], "A2", "ndcg@5").rows[1][5] == "1.00"
    assert reliability.reliability([base, mine], "A2", "mae").rows[1][5] == "0.00"


def test_the_interval_over_seeds_is_that_of_scipy_on_one_task():
    """One task, so that SciPy's bootstrap of a trimmed mean resamples what ours does."""
    runs = np.random.default_rng(6).normal(size=(40, 1))
    base = entry("A2", np.zeros((1, 1)))
    cell = reliability.reliability([base, entry("A6", runs)], "A2", "mae").rows[1][4]
    low, high = (float(x) for x in cell.partition("[")[2].rstrip("]").split(","))
    trimmed = lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis)
    theirs = scipy.stats.bootstrap(
        (runs[:, 0],), trimmed, n_resamples=9999, method="percentile", rng=0
    )
    near = 5 * 0.06 * float(theirs.standard_error)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=near)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=near)


def test_tasks_that_are_undefined_for_one_are_left_out_for_all():
    base, mine = entry("A2", [[1.0, np.nan, 3.0]]), entry("A6", [[0.0, 0.0, np.nan]])
    kept = reliability.common([base, mine])
    assert [k.tolist() for k in kept] == [[[1.0]], [[0.0]]]


def test_what_diverged_or_has_other_tasks_is_left_out():
    base = entry("A2", [[1.0, 2.0]])
    others = [entry("A3", [[1.0, np.inf]]), entry("A6", [[1.0, 2.0]], tasks="other")]
    assert len(reliability.reliability([base, *others], "A2", "mae").rows) == 1
    assert not reliability.reliability([others[0]], "A3", "mae").rows


def test_costs_are_read_and_shared_ones_stand_once():
    seconds = {"A3 joint": 10.0, "A4 fine-tuned": 2.0, "A6 MAML": 30.0, "A2 fold-in": 1.0}
    one, two = record(took=seconds), record("again", took=seconds)
    found = {c.arm: c for c in reliability.costs({"a": one, "b": two})}
    assert len(found) == 4 and {c.run for c in found.values()} == {"a"}
    assert found["A4 fine-tuned"][2:5] == (9600 + 9600, 5, 12.0), "it pays for A3 too"
    assert found["A6 MAML"].quality == pytest.approx(1.0245)
    assert found["A6 MAML"].curve == pytest.approx(1.0245)
    assert not reliability.costs({"a": record(arms=records.arms_of(OFFSETS))})


def test_the_front_and_its_stars():
    assert reliability.front([(0.0, 0.9), (5.0, 0.95), (5.0, 0.5), (9.0, 0.5)]) == [
        *(True, False, True, False)
    ]
    found = [
        Cost("r", "cheap", 0, 0, 1.0, 0.9, 0.9),
        Cost("r", "dear", 100, 5, 9.0, 0.95, 0.9),
        Cost("r", "good", 100, 5, 2.0, 0.5, np.nan),
    ]
    rows = reliability.cost_table(found, "mae").rows
    assert [row[4] for row in rows] == ["0*", "100 ", "100*"]
    assert rows[2][3] == "" and rows[0][6] == "1*"


def test_the_profile_is_drawn_from_left_to_right_in_the_metric(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        figure.Figure,
        "savefig",
        lambda f, *_, **__: lines.extend(x for a in f.axes for x in a.get_lines()),
    )
    errors = np.linspace(0.5, 1.5, 101)[None]
    plots.profile({"A6": -errors}, tmp_path / "p.png", "MAE, share below")
    x, y = lines[0].get_xdata(), lines[0].get_ydata()
    assert 0.5 <= x.min() < x.max() <= 1.5
    assert np.interp(1.0, np.sort(x), np.sort(y)) == pytest.approx(0.5, abs=0.02)
