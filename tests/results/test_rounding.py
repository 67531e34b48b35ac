"""Rounding for publication: sums are kept, and no printed number changes."""

import dataclasses

import hypothesis
import numpy as np
from hypothesis import strategies as st
from small_records import record

from experiments.field.tables import report as tables_report
from experiments.pages import index
from metajax.results import compare, packing, records, rounding, tables
from metajax.results.records import Key


@hypothesis.given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 12), st.integers(0, 3))
@hypothesis.settings(deadline=None)
def test_sums_of_tasks_and_of_all_are_kept(num_seeds, num_tasks, bits, way):
    scores = np.random.default_rng(num_tasks).normal(size=(num_seeds, num_tasks))
    found, step = rounding.rounded(scores, bits, way).astype(float), 2.0**-bits
    np.testing.assert_array_equal(found / step, np.round(found / step))
    assert np.abs(found - scores).max() <= step * (1 + 1e-6)
    assert np.abs((found - scores).sum(axis=0)).max() <= step * (1 + 1e-6)
    assert abs((found - scores).sum()) <= step * (0.5 + 1e-6)


def test_values_that_are_not_finite_stay():
    scores = np.array([[np.nan, 0.3, np.inf], [0.26, 0.3, 0.1]], np.float32)
    found = rounding.rounded(scores, 2)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(scores))
    assert found[1, 0] == 0.25 and found[:, 1].sum() in (0.5, 0.75)


def noisy() -> records.Record:
    """A table whose arms differ by .02 and a spread of .1 over 300 users and three seeds."""
    rng, made = np.random.default_rng(3), record(num_tasks=300)
    base = 0.7 + 0.2 * rng.random((1, 300))
    scores: dict[Key, np.ndarray] = {}
    for i, key in enumerate(made.scores):
        values = base + 0.02 * (i % 7) + 0.1 * rng.normal(size=(3, 300))
        scores[key] = np.asarray(values if key.metric == "mae" else values**2, np.float32)
    return dataclasses.replace(made, scores=scores)


def test_no_printed_number_changes_and_half_the_bytes_go(tmp_path):
    made = noisy()
    less = rounding.printed_alike(made)
    assert tables.grid_of(less) == tables.grid_of(made)
    assert index.rows(less) == index.rows(made)
    for scenario in made.tasks:
        of = lambda r, s=scenario: tables_report.scenario_grid("T5", "tables-T5-made-users", r, s)
        assert of(less) == of(made)
    assert tables_report.curve_grid("x", less, "mae") == tables_report.curve_grid("x", made, "mae")
    size = lambda r, name: records.write(tmp_path, name, r).stat().st_size
    assert size(less, "less") < 0.5 * size(made, "whole")
    assert all(packing.divisor(v) for v in less.scores.values())
    stored = records.read(records.publish("x", made, tmp_path / "stored"))
    for key, values in less.scores.items():
        np.testing.assert_array_equal(stored.scores[key], values)


def test_equal_arrays_stay_equal_and_small_records_stay_as_they_are():
    made = noisy()
    same = Key("user_cold", "A3 joint", "all", "mae")
    made.scores[same._replace(condition="shuffled")] = made.scores[same]
    less = rounding.printed_alike(made)
    np.testing.assert_array_equal(
        less.scores[same], less.scores[same._replace(condition="shuffled")]
    )
    few = record(num_tasks=3)
    assert rounding.printed_alike(few) is few


def test_the_same_scores_rounded_in_two_records_stand_once():
    made = noisy()
    some = Key("user_cold", "A2 fold-in", "all", "mae")
    whole = made.scores[some]
    one, other = rounding.rounded(whole, 9, 1), rounding.rounded(whole, 11, 2)
    assert rounding.alike(one, other) and rounding.alike(whole, one)
    assert not rounding.alike(whole, whole + np.float32(0.001)), "another mean"
    assert not rounding.alike(whole, whole[:, ::-1]), "other tasks"
    found = compare.entries(
        {"a": made, "b": dataclasses.replace(made, scores={**made.scores, some: one})}, "mae"
    )
    assert [e.run for e in found if e.arm == "A2 fold-in" and e.scenario == "user_cold"] == ["a"]
