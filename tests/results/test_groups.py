"""Test tasks by group: the groups of a count, of features, and the table of a record."""

import numpy as np
import pytest

from metajax.data.table import Features
from metajax.results import groups, records
from metajax.types import UserError

FEW, MANY = 0.2, 0.6
KINDS = {"ratings": {"names": ["few (1-3)", "many (4-9)"], "of": [0] * 10 + [1] * 10}}


def record_of(kinds: groups.Kinds | None = None) -> records.Record:
    """Ours is ahead by .2 of those with few ratings and behind by .4 of those with many."""
    arms = records.arms_of(["ours", "theirs"])
    key = lambda arm: records.Key("people", arm, records.ALL, "mae")
    ours = np.repeat([FEW, MANY], 10)[None]
    scores = {key("ours"): ours, key("theirs"): np.where(ours == FEW, 0.4, 0.2)}
    extra = {} if kinds is None else {groups.GROUPS: {"people": kinds}}
    return records.Record("mine", arms, scores, extra=extra)


def test_the_table_tells_whom_a_result_is_of():
    found = groups.table(record_of(KINDS), "people", ("ours", "theirs"), "mae", title="t")
    assert found is not None and len(found.rows) == 2
    assert found.rows[0] == [
        *("ratings", "few (1-3)", "10", "0.200", "0.400"),
        "-0.2000*[-0.200, -0.200]",
    ]
    assert found.rows[1][4:] == ["0.200", "+0.4000*[+0.400, +0.400]"]


def test_a_record_without_groups_and_a_group_that_is_everybody_have_no_table(capsys):
    everybody = {"ratings": {"names": ["all"], "of": [0] * 20}}
    for record in (record_of(), record_of(everybody)):
        groups.show(record, "people", ("ours", "theirs"), "mae", title="t")
    assert capsys.readouterr().out == ""


def test_groups_of_other_tasks_get_one_line():
    wrong = {"ratings": {"names": ["few", "many"], "of": [0, 1]}}
    with pytest.raises(UserError, match="ratings of 2 tasks, but scores of 20 in people; run"):
        groups.stored(record_of(wrong), "people")


def test_equal_counts_are_in_one_group():
    found = groups.terciles(np.array([5] * 8 + [9, 9]))
    assert found and set(found["of"][:8]) == {0} and set(found["of"][8:]) == {2}
    assert found["names"] == ["few (5)", "middling", "many (9)"]
    assert groups.terciles(np.array([3, 3, 3])) is None


def test_only_small_columns_of_one_value_are_groups_and_unknown_is_none():
    columns = {"gender": [[1], [2], [0]], "zip": [[1], [2], [3]], "genre": [[1, 2]] * 3}
    features = Features(
        {k: np.array(v, np.int32) for k, v in columns.items()},
        {"gender": 3, "zip": 400, "genre": 4},
    )
    found = groups.of_tasks(np.array([2, 0, 1]), {}, features)
    assert found == {"gender": {"names": ["women", "men"], "of": [-1, 0, 1]}}
