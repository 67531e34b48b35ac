"""Rows with several labels: what is refused, what an input may know, the real files."""

import dataclasses

import numpy as np
import pytest

from metajax.data.sources import behaviors, labeled
from metajax.types import UserError

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABEL = np.column_stack([np.arange(40) % 2, np.arange(40) % 3 == 0]).astype(np.float32)


def saved(tmp_path, **changes):
    path = tmp_path / "own.npz"
    np.savez(path, **{"x": X, "label": LABEL} | changes)
    return path


def test_a_file_of_ones_own_is_dealt_to_three_parts(tmp_path):
    rows = labeled.read(saved(tmp_path, tasks=np.array(["a", "b"])))
    assert rows.tasks == ("a", "b") and rows.numbers == (False, False)
    assert set(rows.part) == {0, 1, 2} and (rows.known == 1).all()
    number = labeled.read(saved(tmp_path, label=np.column_stack([LABEL[:, 0], X[:, 0]])))
    assert number.numbers == (False, True)


CONSTANT = np.column_stack([LABEL[:, 0], np.ones(40)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": CONSTANT}, "the label column task 2 is always 1 in the training rows.*leave it"),
        ({"known": np.zeros((40, 2))}, "the label column task 1 is never known in the training"),
        ({"label": LABEL[:30]}, "x has 40 rows"),
        ({"x": np.full((40, 3), np.nan)}, "values that are no numbers"),
        ({"x": X[:, 0]}, "x and label must be tables"),
    ],
)
def test_rows_that_nothing_can_be_learned_of_get_one_line(tmp_path, changes, told):
    with pytest.raises(UserError, match=told) as caught:
        labeled.read(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_unit_is_in_one_part_and_a_sample_keeps_the_parts():
    unit = np.repeat(np.arange(10), 4)
    part = labeled.split_rows(unit, (0.5, 0.2), 0)
    assert all(len(set(part[unit == u])) == 1 for u in range(10))
    ones = np.ones_like(LABEL)
    rows = labeled.Labeled("a", X, LABEL, ones, ("a", "b"), unit, part, (False, False))
    rows = dataclasses.replace(rows, about={"row": np.arange(40)})
    few = labeled.sampled(rows, {0: 3})
    np.testing.assert_array_equal(few.x, X[few.about["row"]])
    assert (few.part == 0).sum() == 3 and (few.part == 2).sum() == (part == 2).sum()
    assert labeled.chosen(rows, ("b",)).label.shape == (40, 1)


LOG = behaviors.Log(
    user=np.array([0, 1, 0, 1, 2, 0, 2, 1, 0, 2]),
    item=np.array([0, 0, 1, 2, 1, 3, 4, 4, 5, 5]),
    time=np.arange(10),
    value=np.ones((10, 1)),
)


def test_rows_are_later_events_and_items_that_the_person_never_met():
    rows = behaviors.shown(LOG, most=1, others=3, seed=0)
    real = rows.event >= 0
    assert (rows.time >= 4).all() and len(set(rows.user[real])) == real.sum()
    met = set(zip(LOG.user, LOG.item, strict=True))
    assert all((u, i) not in met for u, i in zip(rows.user[~real], rows.item[~real], strict=True))
    np.testing.assert_array_equal(LOG.item[rows.event[real]], rows.item[real])


def test_inputs_do_not_change_with_what_happens_later():
    rows = behaviors.Shown(*(np.array([v]) for v in (0, 1, 6, -1)))
    later = LOG._replace(item=np.where(LOG.time > 6, 5, LOG.item))
    before = behaviors.known_before(LOG, rows)
    after = behaviors.known_before(later, rows)  # vectors that tie have a free sign
    np.testing.assert_allclose(np.abs(before), np.abs(after), atol=1e-6)
    assert before[0, 0] == pytest.approx(np.log1p(2))  # item 1 was met twice before


@pytest.mark.slow
def test_census_has_no_label_among_its_inputs(data_dir):
    rows = labeled.census_income(data_dir)
    assert rows.x.shape[0] == 99_762 and np.isfinite(rows.x).all()
    np.testing.assert_allclose(rows.label.sum(axis=0), [6_186, 43_143])
    sure = [abs(np.corrcoef(rows.x[:4_000, j], rows.label[:4_000, 1])[0, 1])
            for j in range(rows.x.shape[1]) if rows.x[:4_000, j].std() > 0]  # fmt: skip
    assert max(sure) < 0.95
    assert set(rows.about) == {"sex", "age", "education", "weeks worked"}
    assert (rows.label[rows.about["education"] == "children", 0] == 0).all()


def test_purchases_are_carts_and_carts_are_views(data_dir):
    rows = behaviors.retailrocket(data_dir)
    assert rows.chain and (np.diff(rows.label, axis=1) <= 0).all()
    assert rows.label.mean(axis=0)[0] == pytest.approx(0.2, abs=0.01)


def test_a_row_of_a_market_has_a_label_in_that_market_alone(data_dir):
    rows = behaviors.markets(data_dir)
    np.testing.assert_array_equal(rows.known.sum(axis=1), 1.0)
    assert rows.tasks[-1] == "beauty" and not rows.chain
    for people in (rows.unit[rows.known[:, t] > 0] for t in range(4)):
        assert len(np.unique(people)) > 1_500  # of 1,994 who are in all four
