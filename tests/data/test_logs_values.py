"""Values of logs as people write them: labels, counts, ids, times, repeats.

Every outcome is the right table, worked out by hand, or one line that names what to do.
"""

import numpy as np
import polars
import pytest
from log_files import FOUR, PLAIN, put, refused, rows

from metajax.data import table
from metajax.data.logs.read import load

# -- what was understood is told; what cannot be told is asked for


def test_the_one_line(tmp_path):
    text = "userId;movieId;rating;timestamp;note\n7;20;5;881250949000;x\n3;10;1,5;881250950000;\n"
    read = load(put(tmp_path, "a.csv", text))
    assert read.notes == (
        "a.csv: 2 rows read (semicolon-separated); user = userId (2 ids, whole numbers); item = "
        "movieId (2 ids, whole numbers); label = rating (1.5..5, decimal commas); time = timestamp "
        "(ms, 1997-12-04 to 1997-12-04); ignored note"
    )


@pytest.mark.parametrize("text", ["NaN", "nan", "null", "NA", "\\N", "None", "N/A", "<NA>", "NULL"])
@pytest.mark.parametrize("role", ["user", "item"])
def test_an_id_that_means_none_is_refused_or_left_out_and_told(tmp_path, text, role):
    row = f"{text},1,3" if role == "user" else f"2,{text},3"
    path = put(tmp_path, "a.csv", PLAIN.replace("2,1,3", row))
    refused(path, "row 2", role, "--missing drop")
    read = load(path, missing="drop")
    assert rows(read) == [FOUR[0], *FOUR[2:]] and "left out 1 without a value" in read.notes
    assert len(load(path, missing="keep")) == 4


def test_what_is_dropped_is_counted(tmp_path):
    path = put(tmp_path, "a.csv", PLAIN.replace("2,1,3", "2,1,") + "3,1,4\n3,9,4\n")
    refused(path, "row 2", "the label is empty", "--missing drop")
    read = load(path, missing="drop", last_only=True, min_rows=2, min_users=1)
    assert rows(read) == [("3", "1", 4.0), ("3", "9", 4.0)]
    assert "6 rows read" in read.notes
    assert "left out 1 without a value, 1 repeated before the last of their pair, 2 of users with "
    assert "fewer than 2" in read.notes
    refused(path, "no row is left", missing="drop", min_rows=9)
    bad = put(tmp_path, "b.csv", "user,item,rating\n1,1,\n2,1,3\n2,1,x\n")
    refused(bad, "row 3", "'x' is not a number", missing="drop")  # rows keep their number


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("user,item,my_score", "431"),
        ("user,item,isLiked", ["True", "False", "True"]),
        ("user,item,opinion", "431"),
        ("user,item,feeling", "132"),
    ],
)
def test_a_column_that_looks_like_the_label_is_an_error(tmp_path, header, values):
    name = header.split(",")[2]
    lines = [f"{u},{i},{v}\n" for (u, i), v in zip(("11", "21", "22"), values, strict=True)]
    path = put(tmp_path, "a.csv", header + "\n" + "".join(lines))
    refused(path, f"--label {name}", "--label none")
    assert load(path, label="none").scale == (0, 1)
    assert len(np.unique(load(path, label=name).label)) >= 2


def test_a_column_of_one_side_or_of_text_is_no_label(tmp_path):
    text = "user,item,age,year,city\n1,1,30,1999,Rome\n2,1,40,1999,Oslo\n2,2,40,2001,Oslo\n"
    read = load(put(tmp_path, "a.csv", text))
    assert read.label.tolist() == [1, 1, 1] and "ignored age, year, city" in read.notes


def test_two_labels_are_asked_for(tmp_path):
    path = put(tmp_path, "a.csv", "user,item,click,rating\n1,1,1,4\n2,1,0,2\n")
    refused(path, "rating and click", "--label rating")
    assert load(path, label="click").label.tolist() == [1, 0]
    twice = put(tmp_path, "b.csv", "user,item,rating,rating\n1,1,1,4\n2,1,0,2\n")
    refused(twice, "two columns are called 'rating'")
    assert load(twice, label="4").label.tolist() == [4, 2]
    refused(path, "for both user and label", user="click", label="click")


def test_a_label_that_is_always_true_is_refused(tmp_path):
    path = put(tmp_path, "a.csv", "user,item,recommend\n1,1,True\n2,1,True\n2,2,True\n")
    assert refused(path, "True in every row", "--label none")


@pytest.mark.parametrize("words", ["true false", "True False", "yes no", "T F"])
def test_booleans(tmp_path, words):
    yes, no = words.split()
    read = load(put(tmp_path, "a.csv", f"user,item,liked\n1,1,{yes}\n2,1,{no}\n"))
    assert read.label.tolist() == [1, 0] and "true and false as 1 and 0" in read.notes


@pytest.mark.parametrize("name", ["plays", "play_count", "count", "quantity", "Qty", "listenCount"])
def test_counts_are_events_that_happened_so_often(tmp_path, name):
    path = put(tmp_path, "a.csv", f"user,item,{name}\n1,1,700000\n2,1,3\n2,2,0\n3,2,1\n")
    read = load(path)
    assert rows(read) == [("1", "1", 1.0), ("2", "1", 1.0), ("3", "2", 1.0)]
    assert read.count is not None and read.count.tolist() == [700000, 3, 1]
    assert read.scale == (0, 1) and f"count = {name}" in read.notes
    assert "left out 1 with a count of 0" in read.notes
    assert "5 orders of magnitude" in read.notes
    assert load(path, label=name).scale == (0, 700000)
    assert load(path, count="none", label="none").count is None
    refused(put(tmp_path, "b.csv", f"user,item,{name}\n1,1,7\n2,1,-3\n"), "row 2", "--count none")


def test_ratings_as_wide_as_counts_are_told(tmp_path):
    read = load(put(tmp_path, "a.csv", "user,item,rating\n1,1,3\n2,1,900000\n"))
    assert "if they are counts, say --count rating" in read.notes


def test_sessions_are_users_on_request(tmp_path):
    text = "session_id,item_id,eventdate\n1,5,2016-05-09\n1,6,2016-05-09\n2,5,2016-05-10\n"
    path = put(tmp_path, "a.csv", text)
    refused(path, "--user session_id")
    read = load(path, user="session_id")
    assert rows(read) == [("1", "5", 1.0), ("1", "6", 1.0), ("2", "5", 1.0)]
    assert read.time is not None


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        ("4,5 3 2,25", None, [4.5, 3, 2.25]),
        ("4,500 3,125", None, None),
        ("4,500 3,125", ",", [4.5, 3.125]),
        ("4,5 3.5", None, None),
    ],
)
def test_decimal_commas(tmp_path, text, decimal, expected):
    lines = "".join(f"{n};1;{value}\n" for n, value in enumerate(text.split()))
    path = put(tmp_path, "a.csv", "user;item;rating\n" + lines)
    if expected is None:
        refused(path, "row 1")
    else:
        assert load(path, decimal=decimal).label.tolist() == expected


# -- ids


@pytest.mark.parametrize("kind", [polars.Float64, polars.Float32])
def test_float_ids_that_cannot_be_told_apart(tmp_path, kind):
    path = tmp_path / "a.parquet"
    bound = 2**53 if kind == polars.Float64 else 2**24
    for user, message in ((bound, "rounded"), (1e19, "rounded"), (1.5, "not a whole number")):
        frame = polars.DataFrame({"user": [5.0, user], "item": [1, 2], "rating": [4.0, 3.0]})
        frame.with_columns(polars.col("user").cast(kind)).write_parquet(path)
        refused(path, "row 2", message)
    frame = polars.DataFrame({"user": [5.0, bound - 1.0], "item": [1, 2], "rating": [4.0, 3.0]})
    frame.with_columns(polars.col("user").cast(kind)).write_parquet(path)
    read = load(path)
    assert read.user_ids.tolist() == [5, bound - 1] and "stored as floats" in read.notes


@pytest.mark.parametrize("wrong", ["9007199254740993.0", "1.23457E+11", "9e15"])
def test_texts_that_passed_through_floats_are_refused(tmp_path, wrong):
    assert refused(
        put(tmp_path, "a.csv", PLAIN.replace("2,2,5", f"{wrong},2,5")), "row 3", "rounded"
    )


def test_large_and_odd_ids_stay_apart(tmp_path):
    ids = ["9007199254740992", "9007199254740993", "123456789012345678901", "123456789012345678902"]
    for name, text in (
        ("a.csv", "user,item\n" + "".join(f"{one},1\n" for one in ids)),
        ("a.jsonl", "".join(f'{{"user": {one}, "item": 1}}\n' for one in ids)),
    ):
        assert sorted(map(str, load(put(tmp_path, name, text)).user_ids)) == sorted(ids)
    read = load(put(tmp_path, "b.csv", "user,item\n007,1\n7,1\n"))
    assert read.user_ids.tolist() == ["007", "7"] and "leading zeros" in read.notes
    read = load(put(tmp_path, "c.csv", "user,item\n1.0,1\n2.0,1\n"))
    assert read.user_ids.tolist() == ["1.0", "2.0"] and "written as floats" in read.notes
    refused(put(tmp_path, "d.csv", "user,item\n1.0,1\n1,1\n2,1\n"), "1.0", "also written 1")


def test_ids_that_are_nearly_the_same_are_told(tmp_path):
    read = load(put(tmp_path, "a.csv", "user,item\n a,1\na,1\nb,1\n"))
    assert read.user_ids.tolist() == ["a", "b"] and "spaces around user ids" in read.notes
    read = load(put(tmp_path, "a.csv", "user,item\ncaf\u00e9,1\ncafe\u0301,1\n"))
    assert read.num_users == 2 and "how an accent is coded" in read.notes


# -- times


@pytest.mark.parametrize(
    "texts",
    [
        ["1600000000", "1600000001000"],
        ["1600000000000000", "1600000001"],
        ["2020-09-13T12:26:40Z", "1600000001"],
        ["2020-09-13 12:26:40", "2020-09-13T14:26:41+02:00"],
        ["13/09/2020 12:26:40", "13/09/2020 12:26:41"],
        ["9/13/2020 12:26:40 PM", "9/13/2020 12:26:41 PM"],
        ["Sun Sep 13 12:26:40 +0000 2020", "Sun Sep 13 12:26:41 +0000 2020"],
        ["13 Sep 2020 12:26:40", "Sep 13 2020 12:26:41"],
        ["20200913122640", "20200913122641"],
        ["2020/9/13 12:26:40", "2020/09/13 12:26:41"],
    ],
)
def test_times_are_read_each_by_its_own_form(tmp_path, texts):
    lines = "".join(f"{n};1;{text}\n" for n, text in enumerate(texts))
    read = load(put(tmp_path, "a.csv", "user;item;time\n" + lines))
    assert read.time is not None and read.time.tolist() == [1_600_000_000, 1_600_000_001]


def test_mixed_units_are_told(tmp_path):
    text = "user,item,time\n1,1,1600000000\n2,1,1600000001000\n"
    assert "ms and s" in load(put(tmp_path, "a.csv", text)).notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20200913", 1_599_955_200), ("09 13, 2020", 1_599_955_200), ("13.9.2020", 1_599_955_200),
     ("Sep 13, 2020", 1_599_955_200), ("13-Sep-2020", 1_599_955_200)],
)  # fmt: skip
def test_days(tmp_path, text, expected):
    path = put(tmp_path, "a.csv", f"user;item;date\n1;1;{text}\n2;1;{text}\n")
    read = load(path)
    assert read.time is not None and read.time.tolist() == [expected] * 2


def test_years(tmp_path):
    read = load(put(tmp_path, "a.csv", "user,item,time\n1,1,1971\n2,1,2000\n"))
    assert read.time is not None and read.time.tolist() == [31_536_000, 946_684_800]
    refused(put(tmp_path, "b.csv", "user,item,time\n1,1,13/09/20\n2,1,14/09/20\n"), "row 1", "1900")
    read = load(tmp_path / "b.csv", time_format="%d/%m/%y")
    assert read.time is not None and read.time[0] == 1_599_955_200


def test_what_is_odd_about_times_is_told(tmp_path):
    for texts, message in (
        ("44087.5 44088.5", "every time lies before 1974"),
        ("0 1600000000", "times around 1970 beside later ones"),
        ("9000000000 1600000000", "times after 2099"),
        ("2020-01-01T00:00:00Z 2020-01-01T00:00:00", "text with an offset and text without one"),
    ):
        lines = "".join(f"{n},1,{text}\n" for n, text in enumerate(texts.split()))
        assert message in load(put(tmp_path, "a.csv", "user,item,time\n" + lines)).notes


def test_a_day_that_may_be_a_month_is_asked_for(tmp_path):
    path = put(tmp_path, "a.csv", "user,item,date\n1,1,03/04/2014\n2,1,05/05/2014\n")
    refused(path, "row 1", "--time-format")
    for form, second in (("%d/%m/%Y", 1_396_483_200), ("%m/%d/%Y", 1_393_891_200)):
        read = load(path, time_format=form)
        assert read.time is not None and read.time[0] == second
    refused(path, "row 1", "is not written as", time_format="%Y-%m-%d")


# -- repeated pairs and ties are counted


def test_repeats_and_ties_are_counted_by_hand(tmp_path):
    text = "user,item,date\n1,1,{0}5\n1,2,{0}5\n1,1,{0}9\n2,1,{0}5\n2,1,{0}6\n".format("2020-01-0")
    read = load(put(tmp_path, "a.csv", text))
    assert table.repeated_pairs(read) == 2 and table.tied_rows(read) == 2
    assert (
        "2 rows repeat a pair" in read.notes and "40.0% of the rows share their time" in read.notes
    )
    calm = load(
        put(tmp_path, "b.csv", "user,item,date\n1,1,2020-01-05\n1,2,2020-01-06\n2,1,2020-01-05\n")
    )
    assert table.repeated_pairs(calm) == table.tied_rows(calm) == 0 and "note" not in calm.notes
