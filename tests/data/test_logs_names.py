"""Which column is which, by the kinds of names that logs have; what may be two is asked for."""

import numpy as np
import pytest

pytest.importorskip("polars", reason="reads its own logs: pip install metajax[data]")

from metajax.data.logs import read
from metajax.types import UserError

PEOPLE = ["person", "customer", "member", "reader", "listener", "viewer", "player"]
THINGS = ["film", "movie", "book", "song", "track", "article", "sku", "asin", "game"]
ROWS = [(7, 20, 5, "2014-04-07"), (3, 10, 1, "2014-04-08"), (7, 10, 4, "2014-04-09")]
SECONDS = [1396828800, 1396915200, 1397001600]


def load(folder, header: str, rows=ROWS, **options):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    return read.load(folder / "log.csv", **options)


@pytest.mark.parametrize("user", PEOPLE)
@pytest.mark.parametrize("item", THINGS)
def test_people_and_things_by_what_they_are_called(tmp_path, user, item):
    table = load(tmp_path, f"{user},{item},rating,day")
    assert table.user_ids.tolist() == [3, 7] and table.item_ids.tolist() == [10, 20]
    assert table.time is not None and table.time.tolist() == SECONDS


@pytest.mark.parametrize("form", ["{}_id", "{}ID", "{} Name", "{}"])
def test_a_film_with_and_without_its_id(tmp_path, form):
    table = load(tmp_path, f"Reader_ID,{form.format('Film')},Stars,When")
    assert table.item_ids.tolist() == [10, 20] and table.time is not None


@pytest.mark.parametrize("name", ["day", "date", "when", "timestamp", "played_at", "order_date"])
def test_times_by_their_names(tmp_path, name):
    assert load(tmp_path, f"user,item,rating,{name}").time.tolist() == SECONDS


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("customer,film,rating,book", "film and book may each be the item; say which, such as"),
        ("customer,movie_id,rating,song_id", "may each be the item"),
        ("reader,film,rating,customer", "customer and reader may each be the user"),
    ],
)
def test_two_kinds_are_asked_for(tmp_path, header, line):
    rows = [(7, 20, 5, 1), (3, 10, 1, 2), (7, 10, 4, 2)]
    with pytest.raises(UserError, match=line) as told:
        load(tmp_path, header, rows)
    assert "--item" in str(told.value) or "--user" in str(told.value)


@pytest.mark.parametrize(
    ("header", "ids"),
    [
        ("user,movie_id,rating,film", [10, 20]),  # one kind under two names
        ("user,track_id,rating,artist_id", [10, 20]),  # an artist describes a track
        ("customer,item,rating,book", [10, 20]),  # the general name decides
        ("user,asin,rating,parent_asin", [10, 20]),
    ],
)
def test_one_kind_is_not_asked_for(tmp_path, header, ids):
    rows = [(7, 20, 5, 1), (3, 10, 1, 2), (7, 10, 4, 2)]
    assert load(tmp_path, header, rows).item_ids.tolist() == ids


@pytest.mark.parametrize("name", ["day", "date", "when"])
def test_days_of_a_month_are_no_times_and_it_is_said(tmp_path, name):
    rows = [(7, 20, 5, 31), (3, 10, 1, 2), (7, 10, 4, 1)]
    table = load(tmp_path, f"user,item,rating,{name}", rows)
    assert table.time is None
    assert f"{name} holds numbers from 1 to 31, which are no times" in table.notes
    assert f"--time {name}" in table.notes
    assert load(tmp_path, f"user,item,rating,{name}", rows, time=name).time.tolist() == [31, 2, 1]


@pytest.mark.parametrize("days", ["date", "day"])
@pytest.mark.parametrize("clock", ["10:00", "10:00:00", "10:00 AM"])
def test_a_date_and_a_clock_are_one_time(tmp_path, days, clock):
    rows = [(*row, clock) for row in ROWS]
    table = load(tmp_path, f"user,item,rating,{days},time", rows)
    np.testing.assert_array_equal(table.time, np.array(SECONDS) + 36_000)
    assert f"time = {days} time" in table.notes and "ignored" not in table.notes


def test_seconds_beside_a_date_are_enough(tmp_path):
    rows = [(*row, second + 5) for row, second in zip(ROWS, SECONDS, strict=True)]
    table = load(tmp_path, "user,item,rating,date,time", rows)
    np.testing.assert_array_equal(table.time, np.array(SECONDS) + 5)
    assert "ignored date" in table.notes


def test_a_clock_alone_is_no_time(tmp_path):
    rows = [(*row[:3], "10:51") for row in ROWS]
    with pytest.raises(UserError, match=r"'10:51' is a time of day without the day.*--time none"):
        load(tmp_path, "user,item,rating,time", rows)
    assert load(tmp_path, "user,item,rating,time", rows, time="").time is None
