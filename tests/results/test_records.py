"""Records: no loss when written and read, both versions, roles as fields; what is damaged."""

import dataclasses
import json
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_records import OFFSETS, record

from experiments.field.tables import report as tables_report
from experiments.pages import index
from metajax.results import compare, environment, packing, records, tables
from metajax.results.records import Key
from metajax.types import UserError
from paper import edition

ROLES = (records.METHOD, records.BASELINE)  # the method of `fold_in` is a baseline
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
VALUES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
    | st.sampled_from([0.0, -0.0, 0.5, 0.75, 1.0]),
)


def facts_of(made: records.Record) -> dict:
    bare = dataclasses.replace(made, scores={}, scores_digest="")
    return records.plain(dataclasses.asdict(bare))


def assert_same(one: records.Record, other: records.Record) -> None:
    assert facts_of(one) == facts_of(other)
    assert list(one.scores) == list(other.scores)
    for key, values in one.scores.items():
        np.testing.assert_array_equal(other.scores[key], values)
        at = ~np.isnan(values)
        np.testing.assert_array_equal(np.signbit(other.scores[key])[at], np.signbit(values)[at])


@hypothesis.given(st.dictionaries(st.builds(Key, TEXT, TEXT, TEXT, TEXT), VALUES, max_size=6))
@hypothesis.settings(deadline=None, max_examples=25)
def test_any_scores_come_back_to_the_last_bit(tmp_path_factory, scores):
    folder = tmp_path_factory.mktemp("records")
    made = record(arms=records.arms_of(dict.fromkeys(key.arm for key in scores)))
    made = dataclasses.replace(made, scores=scores, method="", extra={"a": [1, {"b": None}]})
    assert_same(made, records.read(records.write(folder, "x", made)))


def test_equal_records_are_equal_files(tmp_path):
    one, two = (records.write(tmp_path / n, "x", record()).read_bytes() for n in "ab")
    assert one == two


def test_rows_that_resemble_each_other_take_few_bytes():
    """Steps of 2^-10 in a range of 16 around another row: under 6 bits a value, not 32."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 1024, (1, 4000))
    rows = [first + rng.integers(0, 16, first.shape) for _ in range(8)]
    arrays = [(row / 1024).astype(np.float32) for row in [first, *rows]]
    assert packing.divisor(arrays[0]) == 1024
    assert len(packing.pack(arrays)) < 4000 * (11 + 8 * 6) / 8
    np.testing.assert_array_equal(packing.unpack(packing.pack(arrays))[3], arrays[3])


@pytest.mark.parametrize("path", records.files(records.RESULTS), ids=lambda path: path.stem)
def test_every_stored_record_reads_into_the_typed_form(path):
    made = records.read(path)
    assert made.experiment and made.config_hash and made.environment.commit
    assert {key.arm for key in made.scores} <= set(made.names())
    assert not made.method or made.arm(made.method).role in ROLES
    assert all(values.ndim == 2 for values in made.scores.values())
    told = records.facts(path)
    assert told is not None and facts_of(told) == facts_of(made)


FIRST = ("frozen", "config_hash", "settings_hash", "times_opened", "split", "configurations")
"""The fields of an opening in version 1."""


def wrong_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something.txt", "else")


def other_version(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("record.json", json.dumps({"version": 99}))
        archive.writestr("scores.bin", b"")


def changed(path, facts, scores=None):
    """The record with other facts, and other bytes of scores if there are any."""
    with zipfile.ZipFile(path) as archive:
        told = json.loads(archive.read("record.json"))
        packed = archive.read("scores.bin") if scores is None else scores
    told = {name: value for name, value in (told | facts).items() if value is not None}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("record.json", json.dumps(told))
        archive.writestr("scores.bin", packed)


def binary_fractions(path):
    """As an intermediate version packed: a byte of bits for each array, and no name of the form."""
    made = records.read(path)
    parts = packing._split(packing.pack(list(made.scores.values())))
    parts[2] = bytes(len(made.scores))
    changed(path, {"version": 1, "packing": None}, packing._join(parts))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (binary_fractions, "of another version of metajax: .* binary fractions"),
        (lambda path: changed(path, {"packing": "new"}), "of another version .* packed as 'new'"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged"),
        (lambda path: path.write_bytes(b"\x00" * 300), "no record or is damaged"),
        (lambda path: path.write_text('{"experiment": "x"}'), "no record or is damaged"),
        (lambda path: path.write_bytes(b""), "no record or is damaged"),
        (wrong_zip, "no record or is damaged"),
        (other_version, "another version of metajax: version 99, and 1 and 2 are read"),
        (lambda path: path.unlink(), "no record .*x.record; run the experiment first"),
    ],
)
def test_what_is_damaged_or_foreign_is_one_line(tmp_path, harm, said):
    path = records.write(tmp_path, "x", record())
    harm(path)
    with pytest.raises(UserError, match=said) as found:
        records.read(path)
    assert "\n" not in str(found.value)
    assert records.facts(path) is None or harm is binary_fractions  # facts do not read scores


def test_version_1_is_read_as_it_was_written(tmp_path):
    """Its records do not name the way they are packed, nor who opened the test tasks."""
    path = records.write(tmp_path, "x", record())
    made = records.read(path)
    opened = [{k: v for k, v in dataclasses.asdict(made.opened[0]).items() if k in FIRST}]
    changed(path, {"version": 1, "packing": None, "opened": opened})
    assert_same(made, records.read(path))


def test_every_changed_byte_is_found(tmp_path):
    path = records.write(tmp_path, "x", record(num_tasks=5))
    whole, made = path.read_bytes(), records.read(path)
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            again = records.read(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:  # a byte of the archive that says nothing
            assert_same(made, again)


def test_roles_are_one_of_five():
    with pytest.raises(UserError, match="the role of arm 'Mine' is 'best'"):
        records.Arm("Mine", "best")
    assert [records.label(n) for n in ("A6 MAML", "Mine", "A60 x", "- blend")] == [
        *("MAML", "Mine", "A60 x", "- blend")
    ]


@pytest.fixture
def mine():
    """A record whose method is called Mine: .1 better than A4, .2 better than A2."""
    offsets = {("Mine" if arm == "A6 MAML" else arm): gap for arm, gap in OFFSETS.items()}
    return record("mine", offsets=offsets, method="Mine", extra={"table": "T5"})


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, ""), ({"best_step": [2]}, "3"), ({"best_step": [2], "num_steps": 1700}, "1,700")],
)
def test_the_page_of_methods_tells_how_many_steps_an_arm_took(mine, settings, told):
    """All of the three that were allowed, or those to its plateau; none of a closed form."""
    arms = [dataclasses.replace(a, settings=settings) for a in mine.arms]
    made = dataclasses.replace(mine, arms=tuple(arms), config=mine.config | {"num_steps": 3})
    (row,) = (line for line in index.glance([made]).splitlines() if "[Mine]" in line)
    assert row.split(" | ")[-1].strip(" |") == told


def test_an_arm_called_mine_is_a_method_everywhere(mine, capsys, tmp_path):
    grid = tables.grid_of(mine)
    row = next(cells for cells in grid.rows if cells[0].strip() == "A2 fold-in")
    assert grid.headings[-1] == "nDCG@5: Mine - arm" and "*" in row[-1] and "*" in row[-2]
    assert [grid.rows[i][0].strip() for i in grid.bold] == ["Mine", "Mine"]
    assert "[Mine](#mine) | 1.0247" in index.glance([mine])
    assert index.rows(mine)[0]["arm"] == "Mine"
    assert "ahead of every non-meta arm" in tables_report.verdicts(mine, "user_cold", "all", "mae")
    tables_report.show_scenarios("T5", "tables-T5-made-users", mine)
    assert "Mine - arm" in capsys.readouterr().out
    declared = edition.Edition("made", "mine", (), (), ())
    r = edition.Results(declared, {"mine": mine}, {})
    assert [m.name for m in r.methods()] == ["Mine"]
    assert r.against("A2 fold-in").better == ["Mine"]
    records.write(tmp_path, "mine-made", mine)
    found = compare.entries(compare.find([tmp_path]), "mae", scenario="user_cold")
    cells = {cells[2]: cells[4] for cells in compare.compare(found, "Mine", "mae").rows}
    assert cells["Mine"] == "reference" and cells["A2 fold-in"].startswith("+0.2000*")


def test_a_baseline_is_told_by_its_role_and_not_by_its_name():
    made = record(
        offsets={"popular": -0.2, "A6 MAML": 0.0},
        arms=(records.Arm("popular", records.BASELINE), records.Arm("A6 MAML")),
    )
    assert "NOT ahead of popular" in tables_report.verdicts(made, "user_cold", "all", "mae")


def test_what_is_not_committed_is_not_published(tmp_path):
    made = record()
    changed = dataclasses.replace(made.environment, uncommitted_changes=True)
    with pytest.raises(UserError, match="uncommitted changes") as found:
        records.publish("x", dataclasses.replace(made, environment=changed), tmp_path)
    assert "\n" not in str(found.value) and not list(tmp_path.iterdir())
    assert records.publish("x", made, tmp_path).is_file()


def test_the_environment_knows_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("jax", "no-such-package"))
    found = environment.environment()
    assert found.packages["no-such-package"] == "unknown" != found.packages["jax"]


def test_a_tree_without_its_history_says_the_commit_it_is_told(monkeypatch):
    monkeypatch.setattr(environment, "_git", lambda *arguments: "")
    monkeypatch.delenv("METAJAX_COMMIT", raising=False)
    assert environment.environment().commit == ""
    monkeypatch.setenv("METAJAX_COMMIT", "abc123")
    assert environment.environment().commit == "abc123"
