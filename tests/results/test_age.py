"""Records older than the code: told on a list, never made to look fresh."""

import dataclasses

import pytest
from small_records import record

from metajax.results import age, records
from metajax.types import UserError


@pytest.fixture
def folder(tmp_path):
    records.write(tmp_path, "old", record())
    new = dataclasses.replace(record(), generation=records.GENERATION)
    records.write(tmp_path, "new", new)
    return tmp_path


def test_a_record_that_is_older_than_the_code_must_be_listed(folder):
    with pytest.raises(UserError, match=r"^old in .*older than the code; run again"):
        age.check(folder)
    (folder / age.LIST).write_text(age.listing(folder))
    assert age.check(folder) == 1
    assert "old 2026-01-02T03:04:05Z cccccccccccc\n" in (folder / age.LIST).read_text()


def test_a_fresh_record_may_not_stay_on_the_list(folder):
    (folder / age.LIST).write_text(age.listing(folder) + "new 2026 c\n")
    with pytest.raises(UserError, match="names new: not older"):
        age.check(folder)


def test_a_record_made_now_is_of_this_code(tmp_path):
    made = records.made("x", _Config())
    assert made.generation == records.GENERATION
    assert records.read(records.write(tmp_path, "x", made)).generation == records.GENERATION


def test_the_list_of_the_published_records_is_true():
    older = age.check(records.RESULTS)
    text = (records.RESULTS / age.LIST).read_text()
    assert text == age.listing(records.RESULTS)
    assert text.count("\n") == older + age.HEAD.count("\n")


@dataclasses.dataclass(frozen=True)
class _Config:
    seeds: int = 1
