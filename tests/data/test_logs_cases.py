"""Files as they are in the wild: every kind of trouble that people report, in a small file.

Every outcome is the right table, worked out by hand, or one line that names what to do.
"""

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import polars
import pytest

from metajax.data import table
from metajax.data.logs.read import load
from metajax.data.sources import named
from metajax.settings import ReadOptions
from metajax.types import UserError


def put(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(read):
    """(user id, item id, label) of every row, as text and number."""
    users, items = read.user_ids[read.user], read.item_ids[read.item]
    return [(str(u), str(i), float(r)) for u, i, r in zip(users, items, read.label, strict=True)]


def refused(path, *wanted, **options):
    """The one line that a file is refused with, which holds every wanted text."""
    with pytest.raises(UserError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for text in wanted:
        assert text in message, message
    for advice in ("truncate_ragged", "ignore_errors", "infer_schema", "user=", "quote_char"):
        assert advice not in message
    return message


FOUR = [("1", "1", 4.0), ("2", "1", 3.0), ("2", "2", 5.0), ("3", "1", 2.0)]
PLAIN = "user,item,rating\n1,1,4\n2,1,3\n2,2,5\n3,1,2\n"


# -- kind 2: the text engine is not trusted


@pytest.mark.parametrize(
    "texts",
    [
        ["plain", 'say ""hi"" 12""', "y", "z"],
        ["plain", "5'11\" tall", "y", "z"],
        ['the 12" mix', "plain", 'the 7" mix', "z"],
        ['"so it begins', "x", 'ends"', "z"],
        ['"The" thing', "x", "y", "z"],
        ['"', "x", "y", "z"],
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("middle", [True, False])
def test_a_stray_quote_costs_no_row(tmp_path, texts, name, middle):
    sign = "\t" if name == "a.tsv" else ","
    order = (0, 1, 3, 2) if middle else (0, 1, 2, 3)
    lines = [["user", "item", "rating", "note"]]
    lines += [[u, i, f"{r:g}", t] for (u, i, r), t in zip(FOUR, texts, strict=True)]
    text = "".join(sign.join(line[place] for place in order) + "\n" for line in lines)
    assert rows(load(put(tmp_path, name, text))) == FOUR


def test_many_rows_between_two_stray_quotes_are_read(tmp_path):
    lines = [f'u{n % 50},i{n % 40},{n % 5 + 1},{chr(34) if n in (200, 1700) else "fine"}\n'
             for n in range(2000)]  # fmt: skip
    read = load(put(tmp_path, "a.csv", "user,item,rating,note\n" + "".join(lines)))
    assert len(read) == 2000
    assert rows(read)[1000] == ("u0", "i0", 1.0)


def test_quotes_that_enclose_and_quotes_that_stray_are_told_by_row(tmp_path):
    text = 'user,item,rating,note\n1,1,4,"a, b"\n2,1,3,"never closed\n2,2,5,y\n'
    refused(put(tmp_path, "a.csv", text), "row 2", "never closes", "--quote none")
    text = 'user,item,rating\n1,"a, b",4\n2,"The" thing,3\n'
    refused(put(tmp_path, "a.csv", text), "row 2", "behind a closing quote")
    text = 'user,item,rating\n"1",a,4\n2,"The" thing,3\n'
    refused(put(tmp_path, "a.csv", text), "row 1", "--quote none")
    read = load(tmp_path / "a.csv", quote="none")
    assert rows(read) == [('"1"', "a", 4.0), ("2", '"The" thing', 3.0)]


def test_a_text_of_several_lines_is_one_row(tmp_path):
    text = 'user,item,rating,note\n1,1,4,"so, it\n\nwas\nfine"\n2,1,3,"x"\n2,2,5,\n3,1,2,y\n'
    read = load(put(tmp_path, "a.csv", text))
    assert rows(read) == FOUR and "4 rows read" in read.notes


def test_rows_in_quotes_that_look_like_rows_can_be_confirmed(tmp_path):
    text = 'user,item,rating,note\n1,"a",4,"x\n2,1,3,y\nz"\n'
    refused(put(tmp_path, "a.csv", text.replace("\nz", "")), "row 1", "a quote opens here")
    assert len(load(tmp_path / "a.csv", quote='"', min_users=1, label="none")) == 1


def test_backslashes_before_quotes(tmp_path):
    text = (
        'user,item,rating\n1,"The \\"Best\\" Game, Vol. 1",4\n2,"Plain",3\n'
        '2,"The \\"Best\\" Game, Vol. 1",5\n'
    )
    read = load(put(tmp_path, "a.csv", text))
    assert read.item_ids.tolist() == ["Plain", 'The "Best" Game, Vol. 1']
    assert [row[2] for row in rows(read)] == [4, 3, 5]


def test_tsv_with_quotes_in_ids(tmp_path):
    text = 'user\titem\trating\n1\t"The" Thing\t4\n2\t"Unclosed title\t3\n2\tother\t5\n3\tlast\t1\n'
    read = load(put(tmp_path, "a.tsv", text))
    assert len(read) == 4 and '"Unclosed title' in read.item_ids.tolist()


def test_blank_lines_are_no_rows_and_are_told(tmp_path):
    for text in ("user,item,rating\n\n1,1,4\n \n2,1,3\n", "\n\nuser,item,rating\n1,1,4\n2,1,3\n\n"):
        read = load(put(tmp_path, "a.csv", text))
        assert rows(read) == FOUR[:2] and "blank lines left out" in read.notes


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_header_with_one_name_too_few(tmp_path, quote):
    header = ",".join(f"{quote}{name}{quote}" for name in ("user", "item", "rating"))
    bodies = [f"{quote}{n}{quote},{u},{i},{r:g}\n" for n, (u, i, r) in enumerate(FOUR)]
    path = put(tmp_path, "a.csv", header + "\n" + "".join(bodies))
    refused(path, "row 1", "one name less", "--columns _,user,item,rating")
    assert rows(load(path, columns="_,user,item,rating")) == FOUR
    commas = put(tmp_path, "b.csv", "user,item,rating\n1,1,4,\n2,1,3,\n")
    refused(commas, "row 1", "one separator too many", "--columns user,item,rating,_")
    assert rows(load(commas, columns="user,item,rating,_")) == FOUR[:2]


@pytest.mark.parametrize("wrong", ["2,1", "2,1,3,4", "2;1;3"])
def test_a_row_of_another_width_is_named(tmp_path, wrong):
    refused(put(tmp_path, "a.csv", PLAIN.replace("2,1,3", wrong)), "row 2", "header 3")


def test_line_ends(tmp_path):
    for end in ("\r\n", "\r"):
        assert rows(load(put(tmp_path, "a.csv", PLAIN.replace("\n", end)))) == FOUR
    mixed = PLAIN.replace("4\n", "4\r\n").replace("5\n", "5\r")
    assert rows(load(put(tmp_path, "a.csv", mixed))) == FOUR
    assert rows(load(put(tmp_path, "a.csv", PLAIN[:-1]))) == FOUR


def test_text_that_is_none(tmp_path):
    path = put(tmp_path, "a.csv", "user,item,rating\nu1,a\0,4\nu2,a,3\n")
    refused(path, "row 1", "NUL")
    assert rows(load(put(tmp_path, "a.csv", PLAIN.encode("utf-16")))) == FOUR
    latin = put(tmp_path, "a.csv", "user,item,rating\nJos\xe9,1,4\n2,1,3\n".encode("latin-1"))
    refused(latin, "not UTF-8", "--encoding latin-1")
    assert load(latin, encoding="latin-1").user_ids.tolist() == ["2", "Jos\xe9"]
    refused(latin, "no encoding", encoding="klingon")


def test_what_stands_before_the_header(tmp_path):
    for head in ("# made on Monday\n# twice\n", "% bip weighted\n", "sep=,\n"):
        assert rows(load(put(tmp_path, "a.csv", head + PLAIN))) == FOUR
    assert "2 lines of remarks left out" in load(put(tmp_path, "a.csv", f"#x\n#\n{PLAIN}")).notes
    assert rows(load(put(tmp_path, "a.csv", "#" + PLAIN))) == FOUR


# -- kind 1: what was understood is told; what cannot be told is asked for


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
    refused(path, "True in every row", "--label none")


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
    refused(put(tmp_path, "a.csv", PLAIN.replace("2,2,5", f"{wrong},2,5")), "row 3", "rounded")


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


# -- kind 5: repeated pairs and ties are counted


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


# -- kind 7: errors name what the command line has


def test_headerless_files(tmp_path):
    text = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,0\n"
    path = put(tmp_path, "clicks.dat", text + "2,2014-04-07T13:56:37.614Z,214662742,0\n")
    refused(path, "--columns user,time,item,_")
    expected = [("1", "214536502", 1.0), ("1", "214536500", 1.0), ("2", "214662742", 1.0)]
    for options in (
        {"columns": "user,time,item,_"},
        {"columns": "session,time,item,category", "user": "session"},
        {"header": False, "user": "1", "item": "3", "time": "2", "label": "none"},
    ):
        read = load(path, **options)
        assert rows(read) == expected and "no header" in read.notes
        assert read.time is not None and read.time[0] == 1_396_867_869
    refused(path, "--no-header", user="1", item="3")
    refused(path, "row 1", "4 field(s)", "2 name(s)", columns="user,item")
    refused(path, "no column of the item", header=False, user="1")
    checkins = (
        "0\t2010-10-19T23:55:27Z\t30.25\t-97.7\t22847\n1\t2010-10-18T22:17:43Z\t3.0\t-9.7\t2\n"
    )
    for name in ("checkins.txt", "checkins.tsv"):
        path = put(tmp_path, name, checkins)
        refused(path, "--columns user,time,_,_,item")
        read = load(path, columns="user,time,_,_,item")
        assert rows(read) == [("0", "22847", 1.0), ("1", "2", 1.0)]


def test_positions_with_a_header(tmp_path):
    path = put(tmp_path, "a.csv", "wer,was,wie\n1,1,4\n2,1,3\n2,2,5\n3,1,2\n")
    assert rows(load(path, user="1", item="2", label="3")) == FOUR
    refused(path, "from 1 to 3", user="4", item="2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"decimal": "x"}, "--decimal"), ({"quote": "'"}, "--quote"),
     ({"scale": (5, 1)}, "--scale"), ({"missing": "guess"}, "--missing")],
)  # fmt: skip
def test_senseless_options_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ReadOptions(**changes)


# -- kind 9: every layout has a way in


REVIEWS = [
    {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1325894400, "vote": "2"},
    {"reviewerID": "A2", "asin": "B1", "overall": 3.0, "unixReviewTime": 1325894401,
     "reviewText": "so\nso \u2028 it is", "style": {"size": "L"}},
    {"reviewerID": "A2", "asin": "B2", "overall": 4.0, "unixReviewTime": 1325894402},
]  # fmt: skip


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.ndjson", "r.txt", "r.JSON"])
def test_json_lines(tmp_path, name):
    lines = [json.dumps(row) for row in REVIEWS]
    for text in ("\n".join(lines), "\n\n".join(lines) + "\n\n", f"[{','.join(lines)}]"):
        if text[0] == "[" and name == "r.txt":
            continue
        read = load(put(tmp_path, name, text))
        assert rows(read) == [("A1", "B1", 5.0), ("A2", "B1", 3.0), ("A2", "B2", 4.0)]
        assert read.scale == (3, 5) and "JSON" in read.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user": 1, "item": 2}\n{"user": 1, "item"\n', "row 2 is not JSON"),
        ("{'user': 1, 'item': 2}\n", "row 1 is not JSON"),
        ('{"user": 1, "item": 2}\n[1, 2]\n', "row 2 is not a JSON object"),
        ('{"user": 1, "item": 2}{"user": 1, "item": 2}\n', "row 1 is not JSON"),
        ('{"user": 1, "item": 2}\n{"user": 2}\n', "row 2: the item is empty"),
        ('{"user": 1, "item": 2}\n{"user": true, "item": 2}\n', "row 2"),
        ('{"user": {"id": 1}, "item": 2}\n{"user": {"id": 2}, "item": 2}\n', "has the type Struct"),
        ("[]", "no rows"),
        ("[1, 2]", "no rows"),
        (
            '{"user": "a\\u0000", "item": 1}\n{"user": "a", "item": 1}\n',
            "row 1: the user holds a NUL",
        ),
        ('{"user": 1, "item": 1}\n{"user": 2, "item": 1, "rating": NaN}\n', "row 2 is not JSON"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    refused(put(tmp_path, "a.json", text), message)


def test_yelp(tmp_path):
    review = {"review_id": "r", "useful": 0, "text": "x", "date": "2016-03-09 12:00:00"}
    lines = [json.dumps(review | {"user_id": u, "business_id": b, "stars": s})
             for u, b, s in (("u1", "b1", 2.0), ("u2", "b1", 5.0))]  # fmt: skip
    business = {"business_id": "b1", "name": "Caf\u00e9 \u2028 X", "categories": ["Food", "Bar"]}
    path = put(tmp_path, "review.json", "\n".join(lines))
    read = load(path, items=put(tmp_path, "business.json", json.dumps(business)))
    assert rows(read) == [("u1", "b1", 2.0), ("u2", "b1", 5.0)]
    assert read.item_titles is not None and read.item_titles.tolist() == ["Caf\u00e9 \u2028 X"]
    assert read.item_features.sizes == {"categories": 3}


def test_a_long_list_of_json_on_one_line(tmp_path):
    listed = [{"user": f"u{n % 7}", "item": n, "rating": n % 5} for n in range(40_000)]
    assert len(load(put(tmp_path, "a.json", json.dumps(listed)))) == 40_000


def test_netflix(tmp_path):
    text = "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n885013,4,2005-10-19\n"
    read = load(put(tmp_path, "combined_data_1.txt", text))
    assert rows(read) == [("1488844", "1", 3.0), ("822109", "1", 5.0), ("885013", "2", 4.0)]
    assert "Netflix" in read.notes and read.time is not None
    refused(put(tmp_path, "a.txt", text + "7,4\n"), "row 4", "'7,4'")


def test_mind(tmp_path):
    text = (
        "1\tU1\t11/15/2019 8:55:22 AM\tN10 N11\tN1-0 N2-1\n2\tU2\t11/15/2019 9:05:00 PM\t\tN1-1 \n"
    )
    news = 'N1\tsports\tsoccer\tThe "Great" Game\tx\thttps://a\t[]\t[]\nN2\tnews\tworld\tB\t\thttps://b\t[]\t[]\n'
    path = put(tmp_path, "behaviors.tsv", text)
    read = load(path, items=put(tmp_path, "news.tsv", news))
    assert rows(read) == [("U1", "N1", 0.0), ("U1", "N2", 1.0), ("U2", "N1", 1.0)]
    assert read.time is not None and read.time[0] == 1_573_808_122
    assert read.item_titles is not None and read.item_titles[0] == 'The "Great" Game'
    refused(put(tmp_path, "b.tsv", text + "3\tU3\t11/15/2019 9:05:00 PM\t\tN1\n"), "row 3", "'N1'")


@pytest.mark.parametrize(
    ("name", "sign"),
    [("ratings.dat", "::"), ("u.data", "\t"), ("log.TXT", " "), ("A.B.CSV", "|"), ("x.csv", "\t")],
)
def test_endings_and_separators(tmp_path, name, sign):
    path = put(tmp_path, name, PLAIN.replace(",", sign))
    assert rows(load(path)) == FOUR
    odd = put(tmp_path, "odd.csv", PLAIN.replace(",", "~"))
    refused(odd, "no column of the user")
    assert rows(load(odd, separator="~")) == FOUR


def packed(text, ending, folder):
    data = text.encode()
    if ending == ".zip":
        with zipfile.ZipFile(folder / "made.zip", "w") as archive:
            archive.writestr("log.csv", data)
        return (folder / "made.zip").read_bytes()
    if ending == ".zst":
        frame = polars.DataFrame({"line": text.split("\n")[:-1]})
        made = folder / "made.zst"
        frame.write_csv(made, include_header=False, quote_style="never", compression="zstd")
        return made.read_bytes()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return pack[ending](data)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst", ".zip"])
def test_packed_files(tmp_path, ending):
    data = packed(PLAIN, ending, tmp_path)
    read = load(put(tmp_path, f"log.csv{ending}", data))
    assert rows(read) == FOUR and read.name == "log"
    assert named.short_name(f"x/log.csv{ending}") == "log"
    refused(put(tmp_path, f"cut.csv{ending}", data[: len(data) // 2]), "cut short")
    assert rows(load(put(tmp_path, f"plain.csv{ending}", PLAIN))) == FOUR  # its name is wrong
    assert rows(load(put(tmp_path, "packed.csv", data))) == FOUR  # its name hides it
    assert rows(load(put(tmp_path, f"log{ending}", data))) == FOUR


# -- side tables


def movies(folder, text, name="movies.csv"):
    return put(folder, name, text)


def test_side_tables_of_csv(tmp_path):
    log = put(tmp_path, "a.csv", "userId,movieId,rating\n1,10,4\n2,11,3\n2,12,5\n")
    items = movies(
        tmp_path,
        'movieId,title,genres,budget,imdb\n10,"Heat, The (1995)",Crime|Drama,5.5,u\n'
        "11,Alien (1979),Horror,7,v\n99,Other (2000),Drama,1,w\n",
    )
    users = put(tmp_path, "users.csv", "id,job\n1,chef\n2,poet\n")
    read = load(log, items=items, users=users)
    assert read.item_titles is not None
    assert read.item_titles.tolist() == ["Heat, The", "Alien", ""]
    assert read.item_year is not None and read.item_year.tolist() == [1995, 1979, 0]
    np.testing.assert_array_equal(read.item_features.columns["budget"], [[5.5], [7], [0]])
    genres = read.item_features.columns["genres"]
    assert (genres > 0).sum(axis=1).tolist() == [2, 1, 0]
    assert read.user_features.columns["job"].shape == (2, 1)
    assert "items movies.csv: 2 of 3 matched (66.7%) by movieId" in read.notes
    assert "users users.csv: 2 of 2 matched (100.0%) by id" in read.notes


def test_side_tables_that_do_not_match(tmp_path):
    log = put(tmp_path, "a.csv", "user,item,rating\n1,10,4\n2,11,3\n")
    for text, message in (
        ("item,title\n010,A\n011,B\n", "none of the 2 items of the log is in it"),
        ("item,title\n10.0,A\n11.0,B\n", "none of the 2 items of the log is in it"),
        ("title,genre\nA,x\n", "no column of the item ids"),
        ("item,title\n10,A\n10,B\n11,C\n", "the item '10' stands in row 1 and in row 2"),
        ("item,title\n10,A\n11\n", "row 2"),
        ("item,title\n\\N,A\n,B\n", "row 2"),
    ):
        path = movies(tmp_path, text)
        with pytest.raises(UserError, match=str(path)) as caught:
            load(log, items=path)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    same = movies(tmp_path, "item,title\n10,A\n10,A\n11,C\n")
    read = load(log, items=same)
    assert read.item_titles is not None and read.item_titles.tolist() == ["A", "C"]
    few = put(tmp_path, "b.csv", "user,item\n1,10\n2,11\n3,12\n4,13\n5,14\n")
    assert "only 40.0% of the items are in movies.csv" in load(few, items=same).notes
    with pytest.raises(UserError, match="no such file"):
        load(log, items=tmp_path / "absent.csv")


INTER = "user_id:token\titem_id:token\trating:float\n1\t10\t5\n2\t11\t1\n2\t10\t3\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id:token\tjob:token\n001\tchef\n002\tpoet\n", "none of the 2 users"),
        ("user_id:token\tage:float\n1.0\t3\n2.0\t4\n", "none of the 2 users"),
        ("user_id:token\tjob:token\n1\tchef\n2\tpoet\n1\tpilot\n", "the user '1' stands in row 1"),
        ("age:float\tname:token\n30\t1\n", "no column of the user ids"),
    ],
)
def test_atomic_sides_that_do_not_fit(tmp_path, text, message):
    put(tmp_path, "d.user", text)
    path = put(tmp_path, "d.inter", INTER)
    with pytest.raises(UserError, match=message):
        load(path)


def test_atomic_ids_are_found_by_name(tmp_path):
    put(tmp_path, "d.user", "age:float\tuser_id:token\n30\t1\n40\t2\n")
    read = load(put(tmp_path, "d.inter", INTER))
    np.testing.assert_array_equal(read.user_features.columns["age"], [[30], [40]])
    assert "users d.user: 2 of 2 matched" in read.notes and "no .item file" in read.notes


def test_sides_of_a_part_are_those_of_the_whole(tmp_path):
    put(tmp_path, "d.user", "user_id:token\tjob:token\n1\tchef\n2\tpoet\n")
    read = load(put(tmp_path, "d.train.inter", INTER))
    assert read.user_features.sizes == {"job": 3} and "users d.user" in read.notes


def test_line_separators_inside_a_title(tmp_path):
    title = "item_id:token\ttitle:token_seq\n10\tPart one\u2028Part two\n11\tCaf\x85e\n"
    put(tmp_path, "d.item", title)
    read = load(put(tmp_path, "d.inter", INTER))
    assert read.item_titles is not None
    assert read.item_titles.tolist() == ["Part one\u2028Part two", "Caf\x85e"]


# -- the command


def command(*arguments, **environment):
    line = [sys.executable, "-m", "metajax.data", "describe", *map(str, arguments)]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_the_command_takes_every_option(tmp_path):
    path = put(tmp_path, "a.csv", "1;1;4,5\n2;1;3\n2;2;5\n3;1;2\n")
    done = command(path, "--columns", "user,item,rating", "--scale", "0", "5", "--min-rows", "1")
    assert done.returncode == 0 and not done.stderr
    assert "label = rating (0..5, decimal commas)" in done.stdout
    done = command(path)
    assert done.returncode == 1 and not done.stdout and "--columns" in done.stderr
    done = command(path, "--no-such-option")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_command_warns_and_fits_sixty_columns(tmp_path):
    lines = "".join(f"{n % 9},{n},{10 ** (n % 7)},1600000000\n" for n in range(60))
    path = put(tmp_path, "a.csv", "user,item,plays,time\n" + lines)
    done = command(path, COLUMNS="60", NO_COLOR="1")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 60
    words = " ".join(done.stdout.split())
    assert "WARNING counts span 6 orders of magnitude" in words
    assert "WARNING 100.0% of the rows share their time with another of their user" in words


@pytest.mark.skipif(not shutil.which("head"), reason="needs head")
def test_a_reader_that_has_seen_enough(tmp_path):
    path = put(tmp_path, "a.csv", PLAIN)
    line = f"'{sys.executable}' -m metajax.data describe '{path}' | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data set") and not done.stderr


def test_a_load_by_path_says_what_was_understood(tmp_path, capsys):
    read = named.load(str(put(tmp_path, "a.csv", PLAIN)), options=ReadOptions(scale=(0, 5)))
    said = capsys.readouterr().err
    assert said == read.notes + "\n" and said.count("\n") == 1 and read.scale == (0, 5)
