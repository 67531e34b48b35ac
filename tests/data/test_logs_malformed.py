"""Two hundred malformed logs, made from a seed: each is read to its true rows, or is one line.

A log is written in one of many ways that are sound, then damaged in one or two of the ways that
real files are. No damage changes a value into another sound one, so that a table which is not the
truth is a fault.
"""

import bz2
import csv
import gzip
import io
import json
import random

import polars
import pytest

from metajax.data.logs.read import load
from metajax.types import UserError

TITLES = [
    "plain",
    'say ""hi""',
    "a, b",
    'the 12" mix',
    "caf\u00e9 \u2028 x",
    "",
    "it's",
    "\\",
    '"',
    "a\tb",
]
Row = list[str]


def truth(rng: random.Random) -> list[Row]:
    """A header and rows: user, item, rating, time, note."""
    style = rng.choice(["{}", "u{}", "00{}", "{}.0", "9007199254740{:03d}", "us\u00e9r {}"])
    rows = []
    for n in range(rng.randint(4, 30)):
        user, item = style.format(n % 4 + 1), f"i{rng.randint(1, 9)}"
        rating = ["0.5", "4", "2.5", "1"][n % 4]
        rows.append([user, item, rating, str(1_600_000_000 + n), rng.choice(TITLES)])
    header = rng.choice(
        [
            ["user", "item", "rating", "timestamp", "note"],
            ["userId", "movieId", "Rating", "ts", "x"],
        ]
    )
    return [header, *rows]


def written(rng: random.Random, table: list[Row]) -> tuple[str, bytes]:
    """A file that holds the table, in one of many dialects: its name and bytes."""
    form = rng.choice(["csv", "csv", "csv", "tsv", "json", "parquet"])
    if form == "json":
        lines = [json.dumps(dict(zip(table[0], row, strict=True))) for row in table[1:]]
        return "log.jsonl", "\n".join(lines).encode()
    if form == "parquet":
        buffer = io.BytesIO()
        polars.DataFrame(table[1:], table[0], orient="row").write_parquet(buffer)
        return "log.parquet", buffer.getvalue()
    sign = "\t" if form == "tsv" else rng.choice(",;|")
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    out = io.StringIO()
    end = rng.choice(["\n", "\r\n", "\r"])
    csv.writer(out, delimiter=sign, quoting=quoting, lineterminator=end).writerows(table)
    return f"log.{form}", out.getvalue().encode()


def bom(rng, data):
    return b"\xef\xbb\xbf" + data


def blank_lines(rng, data):
    lines = data.split(b"\n")
    lines.insert(rng.randrange(len(lines)), rng.choice([b"", b"  ", b"\r"]))
    return b"\n".join(lines)


def nul(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + b"\0" + data[at:]


def stray_quote(rng, data):
    """One more quote at the start or end of a last field."""
    lines = data.split(b"\n")
    at = rng.randrange(1, max(len(lines), 2))
    if at < len(lines):
        lines[at] = lines[at] + b'"'
    return b"\n".join(lines)


def more_fields(rng, data):
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = lines[at].rstrip(b"\r") + rng.choice([b",", b"\t", b";", b",,x", b"|y"])
    return b"\n".join(lines)


def fewer_fields(rng, data):
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    for sign in (b",", b"\t", b";", b"|"):
        lines[at] = lines[at].rpartition(sign)[0] or lines[at]
    return b"\n".join(lines)


def cut(rng, data):
    return data[: rng.randrange(len(data))] if len(data) > 1 else b""


def packed(rng, data):
    return rng.choice([gzip.compress, bz2.compress])(data)


def cut_archive(rng, data):
    whole = gzip.compress(data)
    return whole[: rng.randrange(3, len(whole))]


def not_utf8(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + b"\xff" + data[at:]


def no_header(rng, data):
    return data.partition(b"\n")[2] or data.partition(b"\r")[2]


def row_names(rng, data):
    head, _, rest = data.partition(b"\n")
    sign = max((b",", b";", b"|", b"\t"), key=head.count)
    return head + b"\n" + b"\n".join(b"7" + sign + line for line in rest.split(b"\n") if line)


def absent_values(rng, data):
    return data.replace(b"i3", rng.choice([b"", b"NaN", b"\\N", b"null"]))


def word_for_number(rng, data):
    return data.replace(b"2.5", rng.choice([b"good", b"nan", b"inf", b"1e999", b"--"]))


def binary(rng, data):
    return bytes(rng.randrange(256) for _ in range(rng.randrange(200)))


def other_times(rng, data):
    return data.replace(b"1600000001", rng.choice([b"soon", b"2020-13-45", b"9e99", b""]))


def nothing(rng, data):
    return data


DAMAGES = [
    *(bom, blank_lines, nul, stray_quote, more_fields, fewer_fields, cut, packed, cut_archive),
    *(not_utf8, no_header, row_names, absent_values, word_for_number, binary, other_times, nothing),
]
SHORTENS = {cut, no_header, fewer_fields}
"""Damages that may take whole rows away at an end: what is left has to be true rows."""


def expected(table: list[Row]) -> list[tuple[str, str, float, int]]:
    return [(row[0], row[1], float(row[2]), int(row[3])) for row in table[1:]]


def rows_of(path) -> list[tuple[str, str, float, int]]:
    found = load(path, min_users=1)
    assert found.time is not None
    users, items = found.user_ids[found.user], found.item_ids[found.item]
    columns = (map(str, users), map(str, items), found.label.tolist(), found.time.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.filterwarnings("ignore")  # what polars says of damaged files is not the matter here
@pytest.mark.parametrize("seed", range(200))
def test_a_malformed_log_is_its_true_rows_or_one_line(tmp_path, seed):
    rng = random.Random(seed)
    table = truth(rng)
    name, data = written(rng, table)
    damages = [rng.choice([nothing, nothing, bom]), DAMAGES[seed % len(DAMAGES)]]
    for damage in damages:
        data = damage(rng, data)
    path = tmp_path / name
    path.write_bytes(data)
    try:
        found = rows_of(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        sound = {bom, packed, nothing}
        if name != "log.parquet":
            assert not sound.issuperset(damages), str(error)
        return
    rows = expected(table)
    if SHORTENS & {*damages}:
        assert found and (found == rows[: len(found)] or found == rows[-len(found) :])
    else:
        assert found == rows
