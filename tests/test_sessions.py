"""The shell sessions of the documentation run as they stand, in an empty folder."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

for name in ("polars", "starlette", "uvicorn"):
    pytest.importorskip(name, reason="the sessions: pip install 'metajax[data,serve]'")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SESSIONS = (ROOT / "docs" / "sessions.md").read_text()
PAGE = (ROOT / "docs" / "recommend.md").read_text()


def blocks(text: str, kind: str = "sh") -> list[str]:
    """The code of a kind in a text."""
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def section(title: str) -> str:
    """The commands of a section of docs/sessions.md."""
    (found,) = [part for part in SESSIONS.split("\n## ") if part.startswith(title)]
    return "\n".join(blocks(found))


def shell(commands: str, folder: pathlib.Path) -> str:
    """What commands print in a folder where `python` and `metajax` are this checkout's."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("metajax", " -m metajax")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        program.chmod(0o755)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TMPDIR=str(folder))
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_researcher_with_a_log(tmp_path):
    said = shell(section("A researcher"), tmp_path)
    assert "user = user (200 ids" in said and "saved: " in said
    assert "A2 fold-in" in said and "A6 ANIL" in said
    best = [line for line in said.splitlines() if re.match(r"\d  \d\.\d\d  Film", line)]
    assert len(best) == 5 and all(int(line[-2:]) % 2 == 0 for line in best)  # the taste of film 2
    assert list((tmp_path / "out" / "anil").glob("*.record"))


@pytest.mark.slow
def test_a_student_who_extends(tmp_path):
    said = shell(section("A student"), tmp_path)
    assert "A6 level" in said and "--outer-rate" in said
    assert (tmp_path / "out" / "level" / "CHECKSUMS").is_file()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_an_engineer_who_runs_it(tmp_path):
    said = shell(section("An engineer"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "lists.csv").read_text().splitlines()))
    assert [row["user"] for row in rows] == ["ann"] * 20 + ["bob"] * 20
    assert not {"3", "8"} & {row["id"] for row in rows[:20]}
    again = json.loads((tmp_path / "again.json").read_text())
    assert [event["title"] for event in again["events"]] == ["The Silent Planet (1990)"]
    assert "lies outside the scale" in said and "recall@20" in said
    assert (tmp_path / "out" / "load" / "load.png").is_file()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_page_on_recommendations_runs_as_it_stands(tmp_path):
    """Its three commands, its request and its Python, on a log of two tastes."""
    write_log(tmp_path)
    commands, request = blocks(PAGE, "")[:2]
    train, recommend, serve = commands.strip().splitlines()
    starts = "until grep -q http log; do sleep 0.2; done"
    port = "sed -n 's/.*127.0.0.1://p' log"
    asked = request.strip().replace("localhost:8000", f"localhost:$({port})")
    asked = asked.replace("curl", "curl -sS", 1)
    said = shell(
        f"{train}\n{recommend}\n{serve} --port 0 > log &\n{starts}\n{asked}\nkill $!\nwait\n"
        f"python - <<'END'\n{blocks(PAGE, 'python')[0]}\nEND\n",
        tmp_path,
    )
    assert "saved: " in said and "ridge head" in said and "you rated Alien (1979) " in said
    answer = json.loads(re.search(r'^\{"user".*?\}\]\}', said, re.MULTILINE)[0])
    assert answer["events"][0]["title"] == "Alien (1979)" and len(answer["items"]) == 10
    assert (tmp_path / "out" / "model" / "README.md").is_file()


def write_log(folder: pathlib.Path) -> None:
    """ratings.csv and movies.csv of 80 people with one of two tastes among 40 films."""
    titles = ["Alien (1979)", "Heat", *(f"Film {i}" for i in range(2, 40))]
    films = [f"{i},{title}" for i, title in enumerate(titles)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title", *films]) + "\n")
    rows = ["userId,movieId,rating"]
    for user in range(80):
        for film in range(40):
            if (7 * user + 3 * film) % 5 < 3:
                rows.append(f"{user},{film},{4 + user % 2 if (user + film) % 2 else 1 + film % 3}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")


def test_the_pages_say_what_the_tests_take():
    """Fast: every session has commands, and each command of metajax in them exists."""
    for title in ("A researcher", "A student", "An engineer"):
        assert "metajax" in section(title)
    named = set(re.findall(r"^metajax (\w+)", SESSIONS + PAGE, re.MULTILINE))
    assert named == {"describe", "experiments", "train", "recommend", "serve"}
    assert len(blocks(PAGE, "python")[0].strip().splitlines()) <= 10
    (in_readme,) = [b for b in blocks((ROOT / "README.md").read_text(), "python") if "films" in b]
    code = lambda block: [line.partition("#")[0].split() for line in block.splitlines()]
    assert code(blocks(PAGE, "python")[0]) == code(in_readme)  # comments may differ
