"""The command ``metajax train`` on ratings, counts and clicks: what is saved is what was better."""

import json
import os
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("polars", reason="reads its own logs: pip install metajax[data]")

from metajax import __main__ as metajax
from metajax.benchmark import command
from metajax.commands import recommend, train, training, verdict
from metajax.data.split import Split, Tasks
from metajax.serving import linear, model
from metajax.serving.catalogue import Labels
from metajax.types import UserError

USERS, ITEMS = 120, 40
GENRE = np.arange(ITEMS) % 2  # people stay in one of two genres, nine times of ten


def write(path, kind: str, unit: float = 1.0) -> None:
    """A log of people with a genre each: counts over five orders of magnitude, clicks or stars."""
    rng = np.random.default_rng(3)
    lines = ["user,item,plays,date" if kind == "counts" else "user,item,date"]
    if kind == "ratings":
        lines = ["user,item,rating,date"]
    for user in range(USERS):
        liked = np.where(user % 2 == GENRE, 0.9, 0.1) / (1 + np.arange(ITEMS))
        items = rng.choice(ITEMS, 12, replace=False, p=liked / liked.sum())
        for day, item in enumerate(items):
            value = {
                "counts": f"{int(np.exp(rng.normal(2, 2)) + 1) * (10_000 if user == 0 else 1)},",
                "clicks": "",
                "ratings": f"{unit * (4 if GENRE[item] == user % 2 else 2):g},",
            }[kind]
            lines.append(f"u{user},i{item},{value}2024-01-{day + 1:02}")
    path.write_text("\n".join(lines) + "\n")


def run(*arguments) -> model.Model:
    return train.main(command.parse(train.Config, [str(a) for a in arguments]))


@pytest.fixture(scope="module", params=["counts", "clicks"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write(folder / "log.csv", request.param)
    steps = ("--num-steps", 10, "--num-tasks", 8, "--num-support", 12)
    return request.param, folder, run(folder / "log.csv", "--out", folder / "model", *steps)


def test_a_log_of_events_is_ranked_and_the_better_arm_is_saved(trained):
    kind, folder, made = trained
    about = json.loads((folder / "model" / "model.json").read_text())
    valid = about["validation"]
    assert made.labels.kind == kind and valid["metric"] == "nDCG@10" and valid["users"] == 12
    assert list(valid["arms"]) == ["popularity", "fold-in", "hierarchical Bayes", "ridge head"]
    assert about["arm"] == max(valid["arms"], key=lambda arm: np.mean(valid["arms"][arm]))
    assert (about["arm"] == "ridge head") == ("saved: ridge head" in valid["notes"][1])
    words = {"counts": "counts are met as log(1 + count), 2 items drawn", "clicks": "met as 1, 2"}
    assert words[kind] in valid["notes"][0] and "last events of new people" in valid["notes"][0]
    assert all(0 <= score <= 1 for curve in valid["arms"].values() for score in curve)


def test_its_folder_tells_what_it_is(trained):
    kind, folder, made = trained
    card = (folder / "model" / "README.md").read_text()
    assert "rule: " in card and "saved: " in card and "| popularity |" in card
    assert ("counts of events, met as log(1 + count)" in card) == (kind == "counts")
    assert (folder / "model" / "k_shot.png").stat().st_size > 5000
    assert made.identity == model.load(folder / "model").identity
    assert sorted(p.name for p in folder.iterdir()) == ["log.csv", "model"]  # nothing is left over


def test_a_person_of_one_genre_is_offered_the_rest_of_it(trained):
    kind, _, made = trained
    said = "i0=3, i2=900" if kind == "counts" else "i0, i2, i4"
    found = made.recommend(said, top=5)
    assert not {one.id for one in found} & {"i0", "i2"}
    same = [GENRE[int(str(one.id)[1:])] == 0 for one in found]
    cold = [GENRE[int(str(one.id)[1:])] == 0 for one in made.recommend(top=5)]
    assert sum(same) >= 4 and sum(same) >= sum(cold)
    assert "+" in found[0].why and np.isfinite([one.score for one in found]).all()


def test_a_file_of_new_people_and_a_user_of_the_log(trained, tmp_path, capsys):
    kind, folder, made = trained
    head = "user,item,plays,date\n" if kind == "counts" else "user,item,date\n"
    value = "7," if kind == "counts" else ""
    (tmp_path / "new.csv").write_text(f"{head}zoe,i0,{value}2024-02-01\nzoe,i2,{value}2024-02-02\n")
    config = command.parse(
        recommend.Config, [str(folder / "model"), "--events", str(tmp_path / "new.csv")]
    )
    found = recommend.main(config)["zoe"]
    assert found == made.recommend({"i0": 7, "i2": 7})
    config = command.parse(recommend.Config, [str(folder / "model"), "--user", "u5"])
    met = {
        one.split(",")[1]
        for one in (folder / "log.csv").read_text().splitlines()
        if one[:3] == "u5,"
    }
    assert not {one.id for one in recommend.main(config)["u5"]} & met
    if kind == "counts":
        with pytest.raises(UserError, match="give a number above 0"):
            made.recommend({"i0": 0})


def test_the_unit_of_the_ratings_decides_nothing(tmp_path):
    found = []
    for unit in (1.0, 20.0):
        write(tmp_path / f"{unit:g}.csv", "ratings", unit)
        scale = ("--scale", unit, 5 * unit)
        found.append(
            run(
                tmp_path / f"{unit:g}.csv",
                "--out",
                tmp_path / f"m{unit:g}",
                "--num-steps",
                0,
                *scale,
            )
        )
    stars, cents = found
    assert stars.about["arm"] == cents.about["arm"]
    for arm, curve in stars.about["validation"]["arms"].items():
        other = np.array(cents.about["validation"]["arms"][arm]) / 20
        np.testing.assert_allclose(curve, other, rtol=1e-3, atol=1e-4)
    scores = [one.score for one in cents.recommend({"i0": 100, "i1": 20}, top=99)]
    assert min(scores) >= 20 and max(scores) <= 100


def test_a_head_that_diverges_is_told_and_not_saved(tmp_path, capsys):
    write(tmp_path / "log.csv", "ratings")
    made = run(
        tmp_path / "log.csv", "--out", tmp_path / "m", "--num-steps", 3, "--outer-rate", 1e38
    )
    assert made.about["arm"] != "ridge head"
    assert "DIVERGED" in " ".join(made.about["validation"]["notes"])
    assert "DIVERGED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("user,item,rating\n" + "".join(f"a{i},x{i},{1 + i % 5}\n" for i in range(50)), (), "user"),
        (
            "user,item,rating\n" + "".join(f"a{i % 25},x{i},3\n" for i in range(50)),
            (),
            "--label none",
        ),
        ("user,item\n", (), "row"),
        ("user,item,rating\na,b,3\n", ("--num-steps", "-3"), "--num-steps must be 0 or more"),
        ("user,item,rating\na,b,3\n", ("--num-support", "5000"), "--num-support must be 1 to 600"),
        ("user,item,rating\na,b,3\n", ("--num-tasks", "0"), "--num-tasks must be 1 or more"),
    ],
)
def test_a_log_or_an_option_that_cannot_be_is_one_line_before_any_training(
    tmp_path, text, options, line
):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=line) as told:
        run(tmp_path / "log.csv", "--out", tmp_path / "model", *options)
    assert "\n" not in str(told.value) and not (tmp_path / "model").exists()


STARS = Labels("ratings", 1.0, 5.0)


def flat(value: float) -> linear.Form:
    """An arm that says ``value`` of the second of two items, whatever it is shown."""
    return linear.Form(
        np.zeros((2, 0), np.float32),
        np.array([3.0, value], np.float32),
        np.zeros(2, np.float32),
        *(np.zeros(0), np.zeros(0), None, None, 1.0),
    )


def test_the_verdict_names_the_arm_that_errs_less_and_says_what_is_sure():
    """Two people, one item each to be asked for; an arm that is right, and one that is off by 1."""
    tasks = Tasks(
        owner=np.arange(2),
        start=np.array([0, 2]),
        length=np.array([2, 2]),
        other=np.array([0, 1, 0, 1]),
        label=np.array([3.0, 4.0, 3.0, 4.0], np.float32),
        shots=np.array([1, 1]),
    )
    parts = Split("newcomers", 0, np.zeros(0), tasks, {"user_cold": tasks}, {}, 1)  # pyright: ignore
    for worse, better in (("ridge head", "item mean"), ("item mean", "ridge head")):
        forms = {worse: flat(5.0), better: flat(4.0)}
        made = verdict.compare(forms, None, parts, STARS, "ridge head")  # pyright: ignore
        assert made.chosen == better and made.scores[worse].mean() == 1.0
        alone = "an arm without meta-learning is better or as good"
        assert (alone in made.notes[0]) == (better == "item mean")
        sign = "+" if better == "item mean" else "-"
        assert f"{sign}1.0000" in made.notes[1] and "below 0 is better" in made.notes[1]


def test_an_arm_that_predicts_the_median_is_not_saved_for_it():
    """Nine of ten people give a film 5: the median errs less in stars, the mean in squares."""
    label = np.tile(np.array([3.0, 5.0], np.float32), 10)
    label[-1] = 1.0
    tasks = Tasks(
        owner=np.arange(10),
        start=np.arange(10) * 2,
        length=np.full(10, 2),
        other=np.tile(np.array([0, 1]), 10),
        label=label,
        shots=np.ones(10, int),
    )
    parts = Split("newcomers", 0, np.zeros(0), tasks, {"user_cold": tasks}, {}, 1)  # pyright: ignore
    forms = {"median": flat(5.0), "mean": flat(4.6)}
    made = verdict.compare(forms, None, parts, STARS, "median")  # pyright: ignore
    assert made.chosen == "mean"
    np.testing.assert_allclose(made.mean("mean"), np.sqrt(1.44), rtol=1e-5)
    np.testing.assert_allclose(made.facts()["arms"]["median"], np.sqrt(1.6), rtol=1e-4)
    shown = verdict.grid(made, "log").rows
    assert [row[-1] for row in shown] == ["1.2649", "1.2000"]


def test_a_signal_says_that_nothing_is_kept(tmp_path, monkeypatch, capsys):
    write(tmp_path / "log.csv", "ratings")
    monkeypatch.setattr(sys, "argv", ["metajax", "train", str(tmp_path / "log.csv")])
    monkeypatch.setattr(training, "judged", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        metajax.main()
    assert ended.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("stopped by SIGTERM: nothing is kept of an unfinished run")
    assert metajax.STOPPED.keys() == set(metajax.COMMANDS)
