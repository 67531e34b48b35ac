"""Layouts of logs: JSON, Netflix, MIND, packed files, side tables, RecBole's atomic files.

Every outcome is the right table, worked out by hand, or one line that names what to do.
"""

import bz2
import gzip
import json
import lzma
import zipfile

import numpy as np
import polars
import pytest
from log_files import FOUR, PLAIN, put, refused, rows

from metajax.data.logs.read import load
from metajax.data.sources import named
from metajax.types import UserError

# -- every layout has a way in


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
    assert refused(put(tmp_path, "a.json", text), message)


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
