"""Text of logs as people write it: quotes, blank lines, headers, line ends, encodings, columns.

Every outcome is the right table, worked out by hand, or one line that names what to do.
"""

import shutil
import subprocess
import sys

import in_process
import pytest
from log_files import FOUR, PLAIN, put, refused, rows

from metajax.data import __main__ as program
from metajax.data.logs.read import load
from metajax.data.sources import named
from metajax.settings import ReadOptions
from metajax.types import UserError

# -- the text engine is not trusted


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
    assert refused(put(tmp_path, "a.csv", PLAIN.replace("2,1,3", wrong)), "row 2", "header 3")


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


# -- errors name what the command line has


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


# -- the command


def last_word(capsys, *arguments) -> str:
    """The line with which the command ends in this process."""
    with pytest.raises(SystemExit) as stop:
        program.main(["describe", *map(str, arguments)])
    assert not capsys.readouterr().out
    return str(stop.value.code)


def test_the_command_takes_every_option(tmp_path, capsys):
    path = put(tmp_path, "a.csv", "1;1;4,5\n2;1;3\n2;2;5\n3;1;2\n")
    options = ["--columns", "user,item,rating", "--scale", "0", "5", "--min-rows", "1"]
    program.main(["describe", str(path), *options])
    said = capsys.readouterr()
    assert "label = rating (0..5, decimal commas)" in said.out and not said.err
    assert "--columns" in last_word(capsys, path)
    told = last_word(capsys, path, "--no-such-option")
    assert told.startswith("error: ") and told.count("\n") == 0


def test_the_command_warns_and_fits_sixty_columns(tmp_path, monkeypatch):
    lines = "".join(f"{n % 9},{n},{10 ** (n % 7)},1600000000\n" for n in range(60))
    path = put(tmp_path, "a.csv", "user,item,plays,time\n" + lines)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    done = in_process.command("metajax.data", "describe", path)
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
