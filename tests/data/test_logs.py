"""A person's own log: every format, convention and unit, and one clear line for every bad input."""

import pathlib
import subprocess
import sys

import in_process
import numpy as np
import polars
import pytest

from metajax.data.logs import read
from metajax.data.sources import movielens
from metajax.types import UserError

CSV = "userId,movieId,rating,timestamp\n7,20,5,881250949\n3,10,1.5,881250950\n7,10,4,881250951\n"


def put(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BY_HAND = {
    "user": [1, 0, 1],
    "item": [1, 0, 0],
    "label": [5, 1.5, 4],
    "time": [881250949, 881250950, 881250951],
    "user_ids": [3, 7],
    "item_ids": [10, 20],
    "scale": (1.5, 5.0),
    "types": ("int32", "float32"),
}
"""The table of `CSV`, worked out by hand."""


def told(path: pathlib.Path, **given) -> dict:
    """What the log at a path says, to be compared with `BY_HAND`."""
    table = read.load(path, **given)
    names = ("user", "item", "label", "time", "user_ids", "item_ids")
    columns = {name: getattr(table, name).tolist() for name in names}
    types = str(table.user.dtype), str(table.label.dtype)
    return columns | {"scale": table.scale, "types": types}


def test_csv_tsv_and_parquet_agree(tmp_path):
    assert told(put(tmp_path, "log.csv", CSV)) == BY_HAND
    assert told(put(tmp_path, "log[1]*.csv", CSV)) == BY_HAND
    assert told(put(tmp_path, "log.tsv", CSV.replace(",", "\t"))) == BY_HAND
    assert told(put(tmp_path, "semi.csv", CSV.replace(",", ";"))) == BY_HAND
    assert told(put(tmp_path, "crlf.csv", "\ufeff" + CSV.replace("\n", "\r\n"))) == BY_HAND
    polars.read_csv(tmp_path / "log.csv").write_parquet(tmp_path / "log.parquet")
    assert told(tmp_path / "log.parquet") == BY_HAND
    (tmp_path / "log.parquet").rename(tmp_path / "log[a].pq")
    assert told(tmp_path / "log[a].pq") == BY_HAND
    (tmp_path / "log[a].pq").rename(tmp_path / "log.parquet")
    assert read.load(tmp_path / "log.parquet").name == "log"
    assert read.load(tmp_path / "log.parquet", name="mine").name == "mine"


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,rating,timestamp",
        "USER,Item,Score,ts",
        "reviewerID,asin,overall,unixReviewTime",
        "uid, movie_id ,stars,time",
        "user_id:token,item_id:token,label:float,timestamp:float",
    ],
)
def test_columns_by_their_usual_names(tmp_path, header):
    assert told(put(tmp_path, "log.csv", CSV.replace(CSV.split("\n")[0], header))) == BY_HAND


def test_columns_by_name(tmp_path):
    text = CSV.replace("userId,movieId,rating,timestamp", "who,what,how,user")
    table = read.load(put(tmp_path, "log.csv", text), user="who", item="what", label="how")
    assert table.time is None and table.user_ids.tolist() == [3, 7]
    assert told(tmp_path / "log.csv", user="who", item="WHAT", label="how", time="user") == BY_HAND
    for wrong, message in (
        ({"user": "whom"}, "no column 'whom' for the user; the columns are: who, what, how, user"),
        ({"user": "who"}, "no column of the item found.*say --item NAME"),
    ):
        with pytest.raises(UserError, match=message):
            read.load(tmp_path / "log.csv", **wrong)


def test_implicit_events(tmp_path):
    path = put(tmp_path, "log.csv", 'user,item\nu 1,x\nu 2,x\nu 1,"y, z"\n')
    table = read.load(path)
    np.testing.assert_array_equal(table.label, [1, 1, 1])
    assert table.scale == (0.0, 1.0) and table.time is None
    assert table.user_ids.tolist() == ["u 1", "u 2"] and table.item_ids.tolist() == ["x", "y, z"]
    rated = read.load(put(tmp_path, "log2.csv", CSV), label="", time="")
    np.testing.assert_array_equal(rated.label, [1, 1, 1])
    assert rated.time is None


def test_ids_keep_their_meaning(tmp_path):
    path = put(tmp_path, "log.csv", "user,item\n007, b \n7,a\n10,b\n")
    table = read.load(path)
    assert table.user_ids.tolist() == ["007", "10", "7"]  # text: leading zeros mean something
    assert table.item_ids.tolist() == ["a", "b"]
    np.testing.assert_array_equal(table.item, [1, 0, 1])
    path = put(tmp_path, "log2.csv", "user,item\n9,-5\n10,3\n")
    assert read.load(path).user_ids.tolist() == [9, 10]
    assert read.load(path).item_ids.tolist() == [-5, 3]
    frame = polars.DataFrame({"user": [2.0, 1.0], "item": ["b", "a"]})
    frame.with_columns(polars.col("item").cast(polars.Categorical)).write_parquet(
        tmp_path / "log.pq"
    )
    table = read.load(tmp_path / "log.pq")
    assert table.user_ids.tolist() == [1, 2] and table.item_ids.tolist() == ["a", "b"]
    np.testing.assert_array_equal(table.item, [1, 0])


@pytest.mark.parametrize(
    "text",
    [
        "1000000000,1000000001",
        "1000000000999,1000000001000",
        "1000000000999999,1000000001000000",
        "1000000000999999999,1000000001000000000",
        "1000000000.5,1e9",
        "2001-09-09T01:46:40Z,2001-09-09T03:46:41+02:00",
        "2001-09-09 01:46:40.25,2001-09-09 01:46:41",
        "2001-09-09 01:46:40 UTC,2001-09-09 01:46:41+00:00",
    ],
)
def test_times_become_seconds(tmp_path, text):
    first, second = text.split(",")
    log = put(tmp_path, "log.csv", f"user,item,time\n1,1,{first}\n2,1,{second}\n")
    expected = [1_000_000_000, 1_000_000_000 if second == "1e9" else 1_000_000_001]
    np.testing.assert_array_equal(read.load(log).time, expected)


def test_days_and_typed_times(tmp_path):
    log = put(tmp_path, "log.csv", "user,item,date\n1,1,1970-01-02\n2,1,1970-01-03T00:01\n")
    np.testing.assert_array_equal(read.load(log).time, [86_400, 172_860])
    frame = polars.DataFrame({"user": [1, 2], "item": [1, 2], "time": ["1970-01-02", "1969-12-31"]})
    for kind in (polars.Date, polars.Datetime("ms"), polars.Datetime("us", "UTC")):
        typed = frame.with_columns(polars.col("time").str.to_date().cast(kind))
        typed.write_parquet(tmp_path / "log.parquet")
        np.testing.assert_array_equal(read.load(tmp_path / "log.parquet").time, [86_400, -86_400])


def test_scales(tmp_path):
    path = put(tmp_path, "log.csv", CSV)
    assert read.load(path, scale=(0.5, 5.0)).scale == (0.5, 5.0)
    with pytest.raises(UserError, match=r"rating 5 in row 1 lies outside the scale 0..4"):
        read.load(path, scale=(0, 4))
    with pytest.raises(UserError, match="every rating is 4; give the scale"):
        read.load(put(tmp_path, "same.csv", "user,item,rating\n1,1,4\n2,1,4\n"))
    clicks = put(tmp_path, "clicks.csv", "user,item,click\n1,1,1\n2,1,1\n")
    assert read.load(clicks).scale == (0.0, 1.0)
    frame = polars.DataFrame({"user": [1, 2], "item": [1, 1], "click": [True, False]})
    frame.write_parquet(tmp_path / "bool.parquet")
    np.testing.assert_array_equal(read.load(tmp_path / "bool.parquet").label, [1, 0])


def test_repeated_pairs_are_kept_or_the_last_one(tmp_path):
    text = "user,item,rating,time\n1,1,3,30\n1,1,5,10\n2,1,1,5\n1,1,4,30\n"
    path = put(tmp_path, "log.csv", text)
    np.testing.assert_array_equal(read.load(path).label, [3, 5, 1, 4])
    last = read.load(path, last_only=True)
    np.testing.assert_array_equal(last.label, [1, 4])
    np.testing.assert_array_equal(last.user, [1, 0])
    np.testing.assert_array_equal(last.time, [5, 30])
    np.testing.assert_array_equal(read.load(path, last_only=True, time="").label, [1, 4])
    path = put(tmp_path, "log2.csv", text.replace("4,30", "4,20"))
    np.testing.assert_array_equal(read.load(path, last_only=True).label, [3, 1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "user,item,rating\n1,1,5\n2,1,good\n", "row 2: the label 'good' is not a number"),
        ("a.csv", "user,item,rating\n1,1,5\n2,1,nan\n", "row 2: the label is nan, not a finite"),
        ("a.csv", "user,item,rating\n1,1,5\n2,1,\n", "row 2: the label is empty"),
        ("a.csv", "user,item,rating\n1,1,5\n2,1", "row 2 has 2 .*the header 3 .*cut short"),
        ("a.csv", "user,item,rating\n1,1,5\n ,1,2\n", "row 2: the user is empty"),
        ("a.csv", "user,item,time\n1,1,5\n2,1,soon\n", "row 2: the time 'soon' is not a time"),
        ("a.csv", "user,item,time\n1,1,2001-09-09\n2,1,soon\n", "row 2: .*'soon' is not a time"),
        ("a.csv", "user,item,time\n1,1,2001-09-09\n2,1,\n", "row 2: the time is empty"),
        ("a.csv", "user,item,rating\n1,1,5\n2,1,3,4,5\n", "row 2 has 5 field"),
        ("a.csv", "196\t242\t3\n186\t302\t3\n", "no column of the user found"),
        ("a.csv", "user,item,rating\n", "no rows"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "\n\n", "no rows"),
        ("a.csv", "user,item\n1,1\n1,2\n", "1 user; give a log of at least 2 users"),
        ("a.csv", "user,item\nJos\xe9,1\n".encode("latin-1"), "not UTF-8 .* near byte 13"),
        ("a.csv", b"user,item\nu,1\n" + b"\xff\xfe" * 9, "not UTF-8"),
        ("a.xlsx", "user,item\n1,1\n", "unknown kind '.xlsx'; give one of .csv"),
        ("a.parquet", "PAR1 and no more", "not a complete Parquet file"),
        ("a.parquet", "PAR1 and no morePAR1", "cannot be read"),
        ("a.pq", "PA", "not a complete Parquet file"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, name, text, message):
    path = put(tmp_path, name, text)
    with pytest.raises(UserError, match=message) as caught:
        read.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_absent_file_and_one_person(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read.load(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="no such file"):
        read.load(tmp_path)
    path = put(tmp_path, "mine.csv", "user,item\n1,1\n1,2\n")
    assert read.load(path, min_users=1).num_users == 1


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_parquet_cut_short_anywhere(tmp_path, keep):
    path = tmp_path / "log.parquet"
    numbers = np.arange(5000)
    polars.DataFrame({"user": numbers % 70, "item": numbers}).write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match="not a complete Parquet file"):
        read.load(path)
    cut = int(keep * len(whole))  # a hole: both ends are whole
    path.write_bytes(whole[:cut][:-2000] + whole[cut:])
    with pytest.raises(UserError, match=r"cannot be read|label|user|item"):
        read.load(path)


def test_unfit_types_of_parquet(tmp_path):
    path = tmp_path / "log.parquet"
    for columns, message in (
        ({"user": [[1], [2]], "item": [1, 2]}, "the user column 'user' has the type List"),
        ({"user": [1.5, 2.0], "item": [1, 2]}, "row 1: the user 1.5 is not a whole number"),
        ({"user": [1, None], "item": [1, 2]}, "row 2: the user is empty"),
        ({"user": [1, 2], "item": [1, 2], "rating": [[1], [2]]}, "label column .* List"),
        (
            {"user": [1, 2], "item": [1, 2], "rating": [1.0, float("nan")]},
            "row 2: the label is nan",
        ),
        ({"user": [1, 2], "item": [1, 2], "time": [1, None]}, "row 2: the time is empty"),
        ({"user": [1, 2], "item": [1, 2], "time": [[1], [2]]}, "time column .* List"),
    ):
        polars.DataFrame(columns).write_parquet(path)
        with pytest.raises(UserError, match=message):
            read.load(path)


@pytest.mark.parametrize("start", [0, 3_000_000])
def test_a_giant_line_is_refused_before_it_is_read(tmp_path, start):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item\n" + b"1,1\n" * (start // 4))
    with path.open("ab") as file:  # a sparse file: 2 GB of zeros, without a line's end
        file.truncate(2_000_000_000)
    with pytest.raises(UserError, match="a line is longer than 1048576 bytes"):
        read.load(path)


def test_without_polars(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"needs polars; install it with: pip install 'metajax\["):
        read.load(put(tmp_path, "log.csv", CSV))


def test_real_log_equals_the_reader(data_dir, tmp_path):
    text = (data_dir / "ml-100k" / "u.data").read_text()
    path = put(tmp_path, "u.inter", "user_id:token\titem_id:token\trating:float\tts:float\n" + text)
    own, known = read.load(path), movielens.ml_100k(data_dir)
    for column in ("user", "item", "label", "time", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(own, column), getattr(known, column))
    assert own.scale == known.scale


def test_command_line(tmp_path):
    path = put(tmp_path, "log.csv", CSV)
    done = in_process.command("metajax.data.logs", path)
    assert done.returncode == 0, done.stderr
    assert "log.csv: 3 rows read (comma-separated)" in done.stdout
    assert "time = timestamp (s, 1997-12-04 to 1997-12-04)" in done.stdout
    bad = put(tmp_path, "bad.csv", "user,item,rating\n1,1,good\n")
    done = in_process.command("metajax.data.logs", bad)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


MILLIONS = """
import resource, sys, time
import numpy as np, polars
from metajax.data.logs import read
path, number = sys.argv[1], int(sys.argv[2])
if sys.argv[3] == "write":
    rng = np.random.default_rng(0)
    users = np.array([f"user {i}" for i in range(max(number // 20, 2))])
    polars.DataFrame({
        "user_id": users[rng.integers(len(users), size=number)],
        "item_id": (rng.zipf(1.3, number) % 200_000).astype(np.int64),
        "rating": rng.integers(1, 11, number) / 2,
        "timestamp": rng.integers(1_500_000_000_000, 1_700_000_000_000, number),
    }).write_parquet(path)
else:
    start = time.perf_counter()
    table = read.load(path)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(len(table), seconds, peak / (1e9 if sys.platform == "darwin" else 1e6))
"""


@pytest.mark.slow
def test_ten_million_rows(tmp_path):
    """The bound: 10 million rows of Parquet in less than 20 s and 3 GB, in a process of its own."""
    command = [sys.executable, "-c", MILLIONS, str(tmp_path / "log.parquet"), "10000000"]
    subprocess.run([*command, "write"], check=True)
    line = subprocess.run([*command, "read"], capture_output=True, text=True, check=True).stdout
    number, seconds, gigabytes = map(float, line.split())
    assert number == 10_000_000 and seconds < 20 and gigabytes < 3
