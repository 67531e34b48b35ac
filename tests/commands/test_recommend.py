"""The command ``metajax recommend``: a list for what is said, for a user, for a file of people."""

import csv

import pytest
import small_model

from metajax.benchmark import command
from metajax.commands import recommend
from metajax.serving.catalogue import Labels
from metajax.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "films"
    small_model.write(path)
    return path


def run(*arguments):
    return recommend.main(command.parse(recommend.Config, [str(a) for a in arguments]))


def test_a_list_names_titles_scores_and_why(folder, capsys):
    found = run(folder, "--ratings", "Alien=5, Heat=2", "--top", 2)
    printed = capsys.readouterr().out.splitlines()
    assert [one.title for one in found[""]] == ["Godfather, The (1972)", "Brazil"]
    assert printed[0].startswith("1  4.") and printed[0].endswith("Godfather, The (1972)")
    assert (
        printed[1].strip().startswith("because you rated Alien (1979) 5 (+0.") and len(printed) == 4
    )


def test_a_tie_at_the_top_of_the_scale_is_explained(folder, capsys):
    trained = recommend.model.load(folder)
    several = [r._replace(score=5.0) for r in trained.recommend("Alien=5", 2)]
    assert recommend.lines(trained, several)[-1].startswith("Those at 5 were predicted")
    assert not recommend.lines(trained, several[:1])[-1].startswith("Those at")


def test_a_user_of_the_log_and_nobody(folder, capsys):
    assert {one.id for one in run(folder, "--user", "ann")["ann"]} == {12, 13, 14, 1984}
    assert "cold start" in run(folder)[""][0].why
    assert len(run(folder, "--user", "ann", "--seen", "--top", 99)["ann"]) == 6


def test_a_file_of_people_is_written_as_a_table(folder, tmp_path, capsys):
    log = tmp_path / "new.csv"
    log.write_text("user,item,rating\nzoe,10,5\nmax,Heat,1\nmax,nothing,3\n")
    run(folder, "--events", log, "--out", tmp_path / "lists.csv", "--top", 3)
    rows = list(csv.DictReader((tmp_path / "lists.csv").read_text().splitlines()))
    assert [(r["user"], r["rank"]) for r in rows] == [
        (u, str(k)) for u in ("max", "zoe") for k in (1, 2, 3)
    ]
    assert rows[3]["title"] == "Godfather, The (1972)"
    said = capsys.readouterr()
    assert "2 lists in" in said.out and "1 of 3 items are not in the model and left out" in said.err


def test_a_file_without_users_is_one_person(folder, tmp_path, capsys):
    log = tmp_path / "mine.csv"
    log.write_text("title,rating\nAlien,5\nHeat,2\n")
    (found,) = run(folder, "--events", log, "--top", 2).values()
    assert found == run(folder, "--ratings", "Alien=5, Heat=2", "--top", 2)[""]
    assert "every row is of one person" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("item,rating\n10,9\n", "the rating 9 in row 1 lies outside the scale 1..5"),
        ("item,rating\n77,3\n", "none of the 1 items is in the model"),
        ("item,other\n10,x\n", "no ratings, and the model is of ratings"),
        ("who,what\n10,x\n", "no column of the item found"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(folder, tmp_path, text, line):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(UserError, match=line):
        run(folder, "--events", tmp_path / "f.csv")


def test_one_way_to_say_who_it_is(folder):
    with pytest.raises(UserError, match="give one of --ratings, --events and --user"):
        run(folder, "--ratings", "Alien=5", "--user", "ann")
    with pytest.raises(UserError, match="--top must be 1 or more"):
        run(folder, "--top", 0)


def test_events_need_no_numbers(tmp_path, capsys):
    small_model.write(tmp_path / "m", Labels("clicks"))
    found = run(tmp_path / "m", "--ratings", "Godfather, The, Heat", "--top", 9)[""]
    assert {one.id for one in found} == {10, 13, 14, 1984}
