"""The model folder: what is asked is understood, answered exactly, or refused in one line."""

import json

import numpy as np
import pytest
import small_model

from metajax.serving import model
from metajax.serving.catalogue import Catalogue, Labels, parse_said
from metajax.types import UserError


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("model") / "films")


def titles(found) -> list[str]:
    return [one.title for one in found]


def test_a_recommendation_is_the_solution_by_hand(films):
    """Alien = 5: x = (1, 1, 0), residual 5 - 3.5; the inner product with (1, 1, 0) / (2 + 2)."""
    found = films.recommend({"Alien": 5}, top=10)
    weight = 1.5 * np.array([1, 1, 0]) / 4
    expected = 3 + small_model.BIAS + np.column_stack([np.ones(6), small_model.FACTOR]) @ weight
    order = [i for i in np.argsort(-expected, kind="stable") if i != 0]
    assert [one.item for one in found] == order
    np.testing.assert_allclose([one.score for one in found], expected[order], rtol=1e-5)
    best = found[0]
    assert (best.title, best.id) == ("Godfather, The (1972)", 12)
    assert best.why == f"because you rated Alien (1979) 5 ({expected[2] - 3.3:+.2f})"
    assert type(best.id) is int and type(best.score) is float


def test_a_person_without_events_gets_the_cold_start(films):
    found = films.recommend(top=2)
    assert titles(found) == ["Alien (1979)", "Heat (1995)"]
    assert found[1].why == "cold start: 1 people, average taste"


def test_seen_items_are_left_out_unless_asked_for_and_scores_stay_on_the_scale(films, tmp_path):
    said = {"Alien": 5, "The Godfather": 5, "Brazil": 5}
    assert not {"Alien (1979)", "Brazil"} & {*titles(films.recommend(said))}
    assert len(films.recommend(said, seen=True)) == 6
    generous = small_model.write(tmp_path / "generous", mean=4.6)
    assert [one.score for one in generous.recommend(top=2)] == [5.0, 5.0]


def test_more_than_there_are_is_all_there_are(films):
    assert len(films.recommend({"Alien": 5}, top=99)) == 5
    with pytest.raises(UserError, match="top 0: ask for one item or more"):
        films.recommend(top=0)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"Aliens": 5}, "no item is called 'Aliens'; did you mean 'Alien .1979.'"),
        ({"godfather": 5}, "did you mean 'Godfather, The .1972.'"),
        ({"zzzz": 5}, "give titles or ids of the log, such as 'Alien .1979.'"),
        ({"Hamlet": 5}, "2 items are called 'Hamlet'; give the id: id:13 Hamlet .1948., id:14"),
        ({"Alien": 7}, "the rating 7 of 'Alien' lies outside the scale 1..5"),
        ({"Alien": float("nan")}, "the rating nan of 'Alien' is not a finite number"),
        ({"Alien": "5"}, "the rating '5' of 'Alien' is not a finite number"),
        ({"Alien": True}, "not a finite number"),
        ({"Alien": 5, "id:10": 4}, "'Alien' and 'id:10' are one item; give it once"),
        ("Alien", "'Alien' is not understood; write items and ratings as 'Alien=5, Heat=2'"),
        ("Alien=5, alien=4", "are one item"),
        ("Alien=5, Alien=4", "'Alien' stands twice with other values; give one"),
        ("Alien=--5", "not understood"),
        ("Alien=1.2.3", "'1.2.3' is not a number"),
    ],
)
def test_what_is_not_understood_is_one_line(films, said, line):
    with pytest.raises(UserError, match=line) as caught:
        films.recommend(said)
    assert "\n" not in str(caught.value)


def test_items_are_found_as_people_write_them(films):
    for name, item in {
        "ALIEN": 0,
        "alien (1979)": 0,
        "The  Godfather": 2,
        "Hamlet (1996)": 4,
        "id:14": 4,
        "13": 3,
        11: 1,
        "1984": 5,
        "title:Brazil": 5,
    }.items():
        assert films.catalogue.find(name) == item
    assert films.catalogue.search("ham", 5) == [3, 4]
    assert films.catalogue.search("  ", 5) == []


def test_titles_with_commas_are_read_from_one_text(films):
    read = lambda text, labels=films.labels: parse_said(text, labels, films.catalogue)
    assert read("Godfather, The=2, Heat = 4.5; ") == {"Godfather, The": 2.0, "Heat": 4.5}
    events = Labels("clicks")
    assert read("Godfather, The, Heat", events) == {"Godfather, The": 1.0, "Heat": 1.0}
    assert read("Alien=3", events) == {"Alien": 3.0}


def test_counts_are_met_as_logarithms():
    labels = Labels("counts", unit=2.0)
    np.testing.assert_allclose(labels.encode({"a": np.e - 1, "b": np.e**3 - 1}), [0.5, 1.5])
    np.testing.assert_array_equal(Labels("clicks").encode({"a": 7}), [1.0])
    with pytest.raises(UserError, match="'a' has 0: give a number above 0"):
        labels.encode({"a": 0})


def test_a_user_of_the_log_is_known(films):
    items, labels, _ = films.user("ann")
    assert (items.tolist(), labels.tolist()) == ([0, 1], [5.0, 1.0])
    with pytest.raises(UserError, match="no user 'eve' in the log; users are called like ann"):
        films.user("eve")


def test_identity_is_of_parameters_and_catalogue(films, tmp_path):
    again = small_model.write(tmp_path / "again")
    other = small_model.write(tmp_path / "other", mean=3.1)
    assert again.identity == films.identity != other.identity


def test_the_learner_can_be_built_again(films):
    learner, params = films.learner()
    state = learner.start(params, {})
    inputs = {k: v[:2] for k, v in films.columns.items()} | {"item": np.arange(2)}
    np.testing.assert_allclose(learner.predict(params, state, inputs), [3.5, 3.4], rtol=1e-6)


@pytest.mark.parametrize("name", [*model.FILES, "model.json"])
def test_a_cut_file_is_told_in_one_line(tmp_path, name):
    small_model.write(tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"is cut or altered|is damaged"):
        model.load(tmp_path / "m")
    path.unlink()
    with pytest.raises(UserError, match=f"has no {name}|is no model folder"):
        model.load(tmp_path / "m")


def test_another_format_and_a_folder_of_something_else_are_refused(tmp_path):
    small_model.write(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="has format 99, not 1; train it again"):
        model.load(tmp_path / "m")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.png").write_bytes(b"")
    with pytest.raises(UserError, match="photos holds other files"):
        small_model.write(tmp_path / "photos")
    assert (tmp_path / "photos" / "dog.png").exists()


@pytest.mark.parametrize("year", [None, np.array([1979, 1995, 1972, 0, 0])])
def test_a_year_in_the_title_of_the_log_need_not_be_said(year):
    """As in MovieLens' files, whose titles end in the year; two of them differ in it alone."""
    titles = ["Alien (1979)", "Heat (1995)", "Godfather, The (1972)", "Heat", "Hamlet (1948)"]
    found = Catalogue(np.arange(5), titles, year).find
    said = ["alien", "Alien (1979)", "The Godfather", "Godfather, The", "The Godfather (1972)"]
    assert [found(one) for one in said] == [0, 0, 2, 2, 2]
    assert (found("Heat"), found("Heat (1995)"), found("hamlet")) == (3, 1, 4)
    with pytest.raises(UserError, match="did you mean 'Alien"):
        found("Alien (1986)")
    both = Catalogue(np.arange(2), ["Hamlet (1948)", "Hamlet (1996)"], None)
    with pytest.raises(UserError, match="2 items are called 'Hamlet'; give the id: id:0 Hamlet"):
        both.find("Hamlet")
