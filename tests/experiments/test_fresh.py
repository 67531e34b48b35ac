"""A registered comparison: refused unless committed and unopened, pooled over splits and users."""

import dataclasses
import datetime
import pathlib
import subprocess

import numpy as np
import pytest
from small_records import record

from experiments.field.fresh import fresh, report
from experiments.pages import index
from metajax.benchmark import boosting
from metajax.results import intervals, ledger, records, registered
from metajax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "paper" / "registrations" / "fresh-splits.toml").read_text()
NUMBERS = {"trials": 1, "trial_steps": 3, "seeds": 1, "num_steps": 4, "num_tasks": 4}


def small(folder: pathlib.Path, design: str = "") -> pathlib.Path:
    """The registration on two splits of the synthetic log, with next to no budget."""
    lines = [f'design = "{design}"'] if design else []
    for line in TEXT.replace('"ml-1m"', '"synthetic"').splitlines():
        name = line.partition(" = ")[0]
        if name == "split_seeds":
            line = "split_seeds = [91, 92]"
        if name == "scenarios" and design == "users":
            line = 'scenarios = ["user_cold"]'
        lines.append(f"{name} = {NUMBERS[name]}" if name in NUMBERS else line)
    path = folder / "small.toml"
    path.write_text("\n".join(lines))
    return path


def test_the_registered_file_says_all_it_has_to():
    told = fresh.read(ROOT / "paper" / "registrations" / "fresh-splits.toml")
    assert len(told.split_seeds) == 5 and told.primary == ("mse", "ndcg@5")
    assert told.budget["trials"] >= 30 and told.budget["seeds"] >= 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 30", "tries = 30", "must say"),
        ('method = "A6 ridge head"', 'method = "A6 mine"', "it is one of A6 ridge head"),
        ("[budget]", "[budget", "is no registration"),
        ("method = ", 'design = "T9"\nmethod = ', "the design is 'T9'; it is one of melu, users"),
        ("method = ", "shots = [1, 5]\nmethod = ", "claims with shots are about user_cold alone"),
        (
            TEXT[TEXT.index("scenarios") : TEXT.index("primary")],
            'scenarios = ["user_cold"]\nshots = [5, 2]\n',
            "nothing is judged after 2 ratings; shots are some of 0, 1, 3",
        ),
    ],
)
def test_a_registration_that_says_something_else_is_refused(tmp_path, old, new, message):
    path = tmp_path / "r.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError, match=message):
        fresh.read(path)


def test_a_registration_must_be_committed_as_it_stands(tmp_path):
    path = small(tmp_path)
    with pytest.raises(UserError, match="not committed as it stands"):
        fresh.require_committed(path)
    git = lambda *told: subprocess.run(["git", "-C", tmp_path, *told], check=True)
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "registered")
    assert len(fresh.require_committed(path)) == 40
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(UserError, match="not committed as it stands"):
        fresh.require_committed(path)


def test_a_split_that_was_opened_is_refused(monkeypatch):
    line = {"split": "abc", "experiment": "maml", "frozen": "yesterday"}
    monkeypatch.setattr(ledger, "everything", lambda folder: [line])
    fresh.require_unopened("other", 3)
    with pytest.raises(UserError, match="split seed 3 was opened before, by maml"):
        fresh.require_unopened("abc", 3)


def test_the_two_way_bootstrap_sees_splits_and_users():
    rng = np.random.default_rng(0)
    same = [rng.normal(0.0, 1.0, 400) for _ in range(5)]
    apart = [values - values.mean() + shift for values, shift in zip(same, range(5), strict=True)]
    users = intervals.mean_interval(np.concatenate(same))
    both = intervals.two_way_bootstrap(same)
    assert both.mean == pytest.approx(users.mean) and both.num_units == 2000
    # five splits 0, 1, 2, 3, 4: the mean of a draw of five has the deviation sqrt(2 / 5)
    wide = intervals.two_way_bootstrap(apart)
    assert (wide.high - wide.low) / (2 * 1.96) == pytest.approx(np.sqrt(2 / 5), rel=0.1)
    columns = [np.stack([x, 2 * x, x + 1], axis=1) for x in apart]
    each = intervals.two_way_bootstraps(columns)
    assert each[0] == pytest.approx(wide, rel=1e-12) and each[1].low == pytest.approx(
        2 * wide.low, rel=1e-12
    )
    assert each[2].high == pytest.approx(wide.high + 1, rel=1e-12)
    columns[0][0, 1] = np.nan
    with pytest.raises(UserError, match="defined for the same users"):
        intervals.two_way_bootstraps(columns)
    one = intervals.two_way_bootstrap([same[0]])
    alone = intervals.mean_interval(same[0])
    assert (one.high - one.low) == pytest.approx(alone.high - alone.low, rel=0.05)
    with pytest.raises(UserError, match="defined values"):
        intervals.two_way_bootstrap([np.array([np.nan])])


def splits(offsets, seeds=(1, 2)) -> list[records.Record]:
    """Splits of 30 users each, about the first arm and about all."""
    told = {"primary": ["mse"], "scenarios": ["user_cold"], "hypothesis": "h", "rule": "r"}
    told |= {
        "dataset": "synthetic",
        "method": "A6 MAML",
        "commit": "c" * 40,
        "split_seeds": [1, 2],
    }
    arms = ([*list(offsets)[:1], "A6 MAML"], list(offsets))
    each = [told | {"arms": names, "digest": f"{place}"} for place, names in enumerate(arms)]
    made = record(num_tasks=30, offsets=offsets, extra={"registrations": each})
    at = lambda seed: records.Split("melu-redrawn", seed, f"s{seed}", {"user_cold": 30})
    return [dataclasses.replace(made, split=at(s)) for s in seeds]


def about_few_ratings(one: records.Record, changed) -> records.Record:
    """A split with its scores changed, by key, whose registrations are about 0 and 5 ratings."""
    said = [told | {"shots": [0, 5]} for told in one.extra["registrations"]]
    scores = {key: changed(key, value) for key, value in one.scores.items()}
    return dataclasses.replace(one, scores=scores, extra={"registrations": said})


def test_the_verdict_is_by_the_registered_rule(capsys):
    better = splits({"A2 fold-in": 0.2, "A3 joint": 0.1, "A6 MAML": 0.0})
    assert registered.comparisons(better)[1].verdict("user_cold", "mse") == "holds"
    level = splits({"A2 fold-in": 0.2, "A3 joint": 0.0, "A6 MAML": 0.0})
    few, every = registered.comparisons(level)
    assert every.verdict("user_cold", "mse") == "DOES NOT HOLD against A3 joint"
    report.show(few)
    said = capsys.readouterr().out
    assert "Registered at commit cccccccccccc: h" in said and "60 tasks of 2 fresh splits" in said
    assert "user-cold: RMSE holds" in said


def test_every_arm_stands_with_intervals_and_with_the_measures_that_are_stored():
    """A2 of 60 users: errors 1.2 + t / 1000, t < 30, two seeds 0.01 off their mean, squared."""
    far = {"A0 item mean": 0.3, "A2 fold-in": 0.2, "A4 fine-tuned": 2.0, "A6 MAML": 0.0}
    found = registered.comparisons(splits(far))[1]
    grid = report.grid_of(found, "user_cold")
    assert grid.headings == ["arm", "RMSE [95 %]", "nDCG@5", "MAE", "MAML - arm, MSE"]
    rows = {row[0]: dict(zip(grid.headings, row, strict=True)) for row in grid.rows}
    assert list(rows)[2] == "A4 fine-tuned (diverged)" and len(rows) == 4
    assert rows["A4 fine-tuned (diverged)"]["MAML - arm, MSE"] == "diverged"
    errors = 1.2 + np.arange(30) / 1000
    root = np.sqrt(np.mean(errors**2) + 0.01**2)
    assert rows["A2 fold-in"]["RMSE [95 %]"].startswith(f"{root:.4f} [1.21")
    assert rows["A2 fold-in"]["MAE"] == f"{errors.mean():.4f}"
    lost = registered.comparisons(splits(far | {"A6 MAML": 2.0}))[1]
    assert lost.verdict("user_cold", "mse") == "DOES NOT HOLD: the method diverged"
    assert report.grid_of(lost, "user_cold").rows[3][1] == "diverged"


def test_the_page_of_experiments_begins_with_the_registered_claims():
    level = splits({"A2 fold-in": 0.2, "A3 joint": 0.0, "A6 MAML": 0.0})
    page = index.registered_claims(level)
    assert page.startswith("## Registered claims")
    assert "- user-cold: RMSE holds." in page
    assert "- user-cold: RMSE DOES NOT HOLD against A3 joint." in page and "| A3 joint |" in page
    assert index.registered_claims(level[:1]) == "", "a split is missing"


def test_a_measure_that_one_split_lacks_is_not_shown():
    one, other = splits({"A2 fold-in": 0.2, "A6 MAML": 0.0})
    fewer = {k: v for k, v in one.scores.items() if k.metric != "mae"}
    found = registered.comparisons([dataclasses.replace(one, scores=fewer), other])[1]
    headings = report.grid_of(found, "user_cold").headings
    assert "MAE" not in headings and "nDCG@5" in headings


def test_a_registration_is_judged_by_its_own_arms():
    level = splits({"A2 fold-in": 0.2, "A3 joint": 0.0, "A6 MAML": 0.0})
    few, every = registered.comparisons(level)
    assert few.record.names() == ["A2 fold-in", "A6 MAML"] and len(every.record.names()) == 3
    assert few.verdict("user_cold", "mse") == "holds"


def test_no_verdict_before_all_splits_are_there():
    offsets = {"A2 fold-in": 0.2, "A6 MAML": 0.0}
    with pytest.raises(UserError, match="before all registered splits are run: 2 is missing"):
        registered.comparisons(splits(offsets, [1]))
    one, other = splits(offsets)
    other = dataclasses.replace(other, extra={"registrations": one.extra["registrations"][:1]})
    assert len(registered.whole([one, other])) == 1, "one is about both splits, one misses a split"
    with pytest.raises(UserError, match=r"(1|2) is missing"):
        registered.comparisons([one, other])
    assert registered.comparisons([]) == []


def test_only_arms_that_all_splits_have_are_compared():
    one, other = splits({"A2 fold-in": 0.2, "A3 joint": 0.1, "A6 MAML": 0.0})
    said = other.extra["registrations"]
    fewer = [told | {"arms": ["A2 fold-in", "A6 MAML"]} for told in said]
    other = dataclasses.replace(other, extra={"registrations": fewer})
    found = registered.comparisons([one, other])[1]
    assert list(found.gaps("user_cold", "mse")) == ["A2 fold-in"]


def test_a_claim_about_few_ratings_is_judged_by_those_ratings(capsys, tmp_path):
    """MAML is ahead of A2 with all ratings, and behind it after five, for every user."""
    each = splits({"A2 fold-in": 0.2, "A6 MAML": 0.0})
    shift = lambda key, value: value + 0.6 * (key.arm == "A6 MAML" and key.condition == "k=5")
    each = [about_few_ratings(one, shift) for one in each]
    found = registered.comparisons(each)[1]
    assert found.places() == [("user_cold", "k=0"), ("user_cold", "k=5")]
    assert found.verdict("user_cold", "mse", "k=0") == "holds"
    assert found.verdict("user_cold", "mse", "k=5") == "DOES NOT HOLD against A2 fold-in"
    report.show(found)
    said = capsys.readouterr().out
    assert "user-cold, 0 ratings: RMSE holds" in said
    assert "user-cold, 5 ratings: RMSE DOES NOT HOLD against A2 fold-in" in said
    rows = report.grid_of_shots(found, "user_cold", "mse").rows
    assert [(row[0], row[-2], row[-1]) for row in rows] == [
        ("0", "1 of 1", "none"),
        ("5", "0 of 1", "A2 fold-in"),
    ]
    saved = report.plot(found, tmp_path)
    assert [path.name for path in saved] == ["a6-maml.png", "a6-maml-user-cold-by-ratings.png"]
    assert all(path.stat().st_size for path in saved)


def test_an_arm_that_diverged_with_few_ratings_is_left_out_there_alone(capsys):
    """After five ratings A4 is infinite for one user, and another user is left out for all."""

    def changed(key: records.Key, value: np.ndarray) -> np.ndarray:
        if key.condition != "k=5" or key.metric not in ("mae", "mse"):
            return value
        value = value.copy()
        value[:, 3] = np.nan
        value[:, 7] = np.inf if key.arm == "A4 fine-tuned" else value[:, 7]
        return value

    each = splits({"A0 item mean": 0.5, "A2 fold-in": 0.2, "A4 fine-tuned": 0.1, "A6 MAML": 0.0})
    each = [about_few_ratings(one, changed) for one in each]
    found = registered.comparisons(each)[1]
    assert "A4 fine-tuned" in found.gaps("user_cold", "mse", "k=0")
    after = found.gaps("user_cold", "mse", "k=5")
    assert list(after) == ["A0 item mean", "A2 fold-in"]
    assert {gap.found.num_dropped for gap in after.values()} == {2}
    assert found.verdict("user_cold", "mse", "k=5") == "holds"
    alone = intervals.two_way_bootstrap(
        [
            intervals.mean_of_seeds(one.of("user_cold", "A6 MAML", "k=5", "mse"))
            - intervals.mean_of_seeds(one.of("user_cold", "A2 fold-in", "k=5", "mse"))
            for one in each
        ]
    )
    assert after["A2 fold-in"].found == pytest.approx(alone, rel=1e-12)
    report.show(found)
    said = capsys.readouterr().out
    assert "diverged" in said and "tasks left out for every arm: 2." in " ".join(said.split())


def test_a_split_serves_a_later_registration_that_came_before_its_opening(tmp_path, monkeypatch):
    one, few = small(tmp_path, "users"), tmp_path / "few.toml"
    few.write_text(one.read_text().replace("primary", "shots = [0, 5]\nprimary"))
    first, second = fresh.together([one, few])
    assert second.shots == (0, 5) and first.shots == ()
    opened = records.Opening(frozen="2026-01-02T00:00:00Z")
    made = record(offsets={"A2 fold-in": 0.1, first.method: 0.0}, opened=(opened,))
    made = fresh.told([first], ["c" * 40], made)
    at = lambda day: datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
    monkeypatch.setattr(fresh, "committed_at", lambda path: at(1))
    both = ([first, second], ["c" * 40, "d" * 40], [one, few])
    kept = fresh.also_told(*both, made)
    digests = [told["digest"] for told in kept.extra["registrations"]]
    assert digests == [first.digest, second.digest]
    assert fresh.also_told(*both, kept) is kept
    monkeypatch.setattr(fresh, "committed_at", lambda path: at(3))
    with pytest.raises(UserError, match=r"few\.toml was committed after a split of it was opened"):
        fresh.also_told(*both, made)
    monkeypatch.setattr(fresh, "committed_at", lambda path: at(1))
    longer = second._replace(budget=second.budget | {"num_steps": 9})
    with pytest.raises(UserError, match="another budget, design or method"):
        fresh.also_told([longer], ["d" * 40], [few], made)


def test_the_mean_over_seeds_of_the_registered_measures_is_stored():
    made = record()
    kept = fresh.stored_scores(made, {"mse", "ndcg@5"})
    assert {key.condition for key in kept} == {"all", "k=0", "k=5"}
    assert {key.metric for key in kept if key.condition != "all"} <= {"mse", "ndcg@5"}
    assert {key.metric for key in kept if key.condition == "all"} >= {"mse", "mae"}
    key = records.Key("user_cold", "A6 MAML", "all", "mse")
    assert kept[key].shape == (1, 50) and len(made.scores[key]) == 2
    np.testing.assert_allclose(kept[key][0], made.scores[key].mean(axis=0), atol=1e-3)


def test_a_registration_that_no_stored_record_names_is_said(tmp_path):
    path = tmp_path / "other.toml"
    path.write_text(TEXT + "\n# the same splits, another file\n")
    config = fresh.Config((path,), output=fresh.Output(from_records=True))
    with pytest.raises(UserError, match=r"no stored record is of .*other.toml; run it without"):
        fresh.main(config)


def test_registrations_of_other_splits_are_refused_together(tmp_path):
    one, other = small(tmp_path), tmp_path / "other.toml"
    other.write_text(one.read_text().replace("[91, 92]", "[93]"))
    assert [told.split_seeds for told in fresh.together([one, one])] == [(91, 92)] * 2
    with pytest.raises(UserError, match=r"other.toml has another split_seeds than .*small.toml"):
        fresh.together([one, other])
    with pytest.raises(UserError, match="give the file of a registration"):
        fresh.together([])


@pytest.mark.slow
@pytest.mark.parametrize("design", ["", "users"])
def test_two_small_registrations_are_run_once_and_go_on(design, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(fresh, "require_committed", lambda path: "c" * 40)
    monkeypatch.setattr(boosting, "DEFAULT", boosting.DEFAULT._replace(most_trees=20))
    one, other = small(tmp_path, design), tmp_path / "mixed.toml"
    other.write_text(one.read_text().replace("A6 ridge head", "A6 mixture"))
    config = fresh.Config((one, other), output=fresh.Output(out=tmp_path / "out"))
    each = fresh.main(config)
    assert set(each[0].tasks) == set(fresh.read(one).scenarios)
    plain, mixed = (found.record for found in registered.comparisons(each))
    assert plain.method == "A6 ridge head" and "A10 mixture" not in plain.names()
    assert mixed.method == "A6 mixture" and "A6 ridge head" in mixed.names(records.METHOD)
    assert {"A10 mixture", "A11 mixture"} <= set(mixed.names(records.BASELINE))
    trees = mixed.arm("A11 mixture").settings["weights, items unrated"]
    assert trees["A8 boosting redrawn"] == trees["A8 boosting"] > 0
    assert len(each) == 2 and (tmp_path / "out" / "a6-mixture.png").is_file()
    assert {opening.times_opened for one in each for opening in one.opened} == {1}
    again = fresh.main(config)
    assert [one.opened for one in again] == [one.opened for one in each], "none is opened twice"
    assert "DOES NOT HOLD" in capsys.readouterr().out
