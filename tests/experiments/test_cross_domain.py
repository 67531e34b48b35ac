"""The experiment on two domains: who is hidden, what is refused, its stored records."""

import dataclasses

import numpy as np
import pytest

from experiments.domains import cross_arms as arms
from experiments.domains import cross_data as data
from experiments.domains import cross_domain as experiment
from experiments.domains import cross_factors as factors
from experiments.domains import cross_report as report
from metajax.data import shared_users
from metajax.data.features import behavior
from metajax.data.table import Features, Interactions
from metajax.evaluation import ordinal
from metajax.results import records
from metajax.settings import Output
from metajax.training import loop
from metajax.types import UserError


def log(name: str, people: range, rows: int, seed: int) -> Interactions:
    """A log in which each of these people rates so many of 30 items."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(people)), rows).astype(np.int32)
    item = np.concatenate([rng.permutation(30)[:rows] for _ in people]).astype(np.int32)
    label = rng.integers(1, 6, len(user)).astype(np.float32)
    ids = np.array([f"p{i}" for i in people])
    sides = Features(), Features()
    return Interactions(name, user, item, label, None, ids, np.arange(30), *sides, (1.0, 5.0))


PAIR = shared_users.paired(log("a", range(60), 15, 0), log("b", range(40, 140), 15, 1))


def test_people_without_enough_rows_to_compare_get_one_line():
    with pytest.raises(UserError, match="users for test, who need 13 rows in b"):
        data.split(PAIR, 0.2)


def test_hidden_people_are_in_one_part_alone():
    pair = shared_users.paired(log("a", range(140), 15, 0), log("b", range(140), 15, 1))
    parts = data.split(pair, 0.5)
    test, valid, train = (set(parts[k].tolist()) for k in ("test", "valid", "train"))
    assert len(test) == 70 and not (test & valid or test & train or valid & train)
    assert test | valid == set(parts["unseen"].tolist())


def test_ratings_and_events_are_not_paired(tmp_path):
    for name, rating in (("rated", ",{}"), ("bought", "")):
        head = "user,item" + (",rating" if rating else "")
        rows = [f"p{i},x{j}{rating.format(1 + j)}" for i in range(12) for j in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join([head, *rows, ""]))
    paths = [str(tmp_path / f"{name}.csv") for name in ("rated", "bought")]
    with pytest.raises(UserError, match=r"has ratings and .* has events"):
        data.loaded(paths[0], paths[1], None)


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("amazon-cloth-sport", "amazon-sport"), "several domains; give two of amazon-cloth, ama"),
        (("douban-book", "douban-book"), "is both source and target"),
    ],
)
def test_a_folder_of_domains_and_one_domain_twice_get_one_line(pair, told):
    with pytest.raises(UserError, match=told):
        data.loaded(*pair, None)


def test_no_share_of_hidden_people_gets_one_line():
    with pytest.raises(UserError, match="give one or more --hidden"):
        experiment.measured(experiment.Config(hidden=()))


def test_an_unknown_genre_gets_one_line():
    with pytest.raises(UserError, match="no genre 'Jazz' in ml-1m; the genres are Action"):
        data.domain("ml-1m:Jazz", "ml-1m:Drama", None)


def test_both_domains_as_one_log_keep_their_people_and_items_apart():
    both = factors.stacked(PAIR)
    assert both.num_users == 140 and both.num_items == 60 and len(both) == 60 * 15 + 100 * 15
    target = both.item >= 30
    shared = np.isin(np.unique(both.user[target]), np.unique(both.user[~target])).sum()
    assert shared == PAIR.shared == 20


def test_the_sums_of_a_person_and_the_noise_by_hand():
    x, y = np.array([[1.0], [2.0], [1.0]]), np.array([1.0, 2.0, 3.0])
    gram, moment, square = behavior.sums(np.array([0, 0, 1]), x, y, 1)
    assert (gram.item(), moment.item(), square.item()) == (5.0, 5.0, 5.0)
    assert behavior.noise(gram, moment, square, 2.0) == pytest.approx((5 - 25 / 6) / 2)


def test_no_column_of_a_training_user_was_fitted_to_that_user():
    """Whoever changes all their ratings changes no column that their own task sees."""
    pair = shared_users.paired(log("a", range(90), 15, 0), log("b", range(90), 15, 1))
    known = np.arange(len(pair.target))
    mine = pair.target.user == 7
    changed = dataclasses.replace(
        pair.target, label=np.where(mine, 6 - pair.target.label, pair.target.label)
    )
    of = data.side(pair.target, known)
    other = data.side(changed, known)
    fold = of.fold[7]
    np.testing.assert_allclose(of.held_out[1][fold], other.held_out[1][fold], atol=0.02)


def test_links_are_fitted_on_validation_people_and_arms_have_their_own_columns():
    pair = shared_users.paired(log("a", range(140), 15, 0), log("b", range(140), 15, 1))
    found = data.crossing(pair, 0.5, data.side(pair.source, np.arange(len(pair.source))))
    mean = lambda source, tasks, key: np.asarray(tasks.query.inputs["offset"])[None]
    true = lambda source, tasks, key: np.asarray(tasks.query.inputs["true"])[None]

    def told(tasks, users):  # the labels themselves are a column of the second arm
        query = tasks.query
        return tasks._replace(query=query._replace(inputs=query.inputs | {"true": query.label}))

    ready = {("half", report.ITEM): ({}, mean, lambda tasks, users: tasks)}
    ready |= {("half", report.OURS): ({}, true, told)}
    links = experiment.links_of(ready, {"half": found}, (1.0, 5.0))
    assert links["half", report.OURS].slope[0] > 5 * links["half", report.ITEM].slope[0]
    scores = {}
    for (scenario, name), (_, one, columns) in ready.items():
        given = (one, columns, links[scenario, name])
        scores |= experiment.judged(found, scenario, name, *given)
    for key in [key for key in scores if key.metric == "mse"]:
        assert key._replace(metric="mae") in scores
        for metric in ordinal.PROPER if key.condition == records.ALL else ():
            assert np.isfinite(scores[key._replace(metric=metric)]).all()
    loss = lambda name: scores[records.Key("half", name, records.ALL, "log_loss")].mean()
    assert loss(report.OURS) < 0.5 < 1.0 < loss(report.ITEM)

    label = np.array(found.rows.label)
    label[found.parts["test"]] = 1.0
    other = found._replace(rows=found.rows._replace(label=label))
    again = experiment.links_of(ready, {"half": other}, (1.0, 5.0))
    np.testing.assert_array_equal(again["half", report.ITEM].cuts, links["half", report.ITEM].cuts)
    events = found._replace(implicit=True)
    assert experiment.links_of(ready, {"half": events}, (0.0, 1.0)) == {}


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("name", [r.stem for r in records.files(records.RESULTS, "cross_domain-*")])
def test_a_stored_record_prints_its_tables_and_draws(name, tmp_path, capsys):
    source, _, target = name.removeprefix("cross_domain-").partition("-to-")
    config = experiment.Config(output=Output(from_records=True, out=tmp_path))
    path = lambda short: short.replace("ml-1m-", "ml-1m:").title().replace("Ml-1M", "ml-1m")
    if source.startswith("ml-1m"):
        source, target = path(source), path(target)
    config = dataclasses.replace(config, source=source, dataset=target)
    assert experiment.name_of(config) == name
    experiment.main(config)
    said = capsys.readouterr().out
    assert report.PTUPCDR in said and "K=10" in said
    assert (tmp_path / "shots.png").is_file() and (tmp_path / "gaps.png").is_file()


def test_a_stopped_run_goes_on_from_the_arms_that_it_has(tmp_path):
    """What is kept of an arm is read, to the last bit, and no arm is trained twice."""
    config = experiment.Config(output=Output(out=tmp_path))
    params = {"embed": {}, "prior": {"bridge": np.float32([[0.1, 1 / 3]])}}
    experiment.begun(config, PAIR).add("20% hidden: TMCDR", [{"rate": 0.1}, params])
    again = experiment.begun(config, PAIR)
    told, found = experiment.restored(again["20% hidden: TMCDR"])
    assert told == {"rate": 0.1} and found["embed"] == {}
    np.testing.assert_array_equal(found["prior"]["bridge"], params["prior"]["bridge"])
    other = dataclasses.replace(config, trials=9)
    assert "20% hidden: TMCDR" not in experiment.begun(other, PAIR)


def ours_record(settings: dict) -> records.Record:
    """A record that knows of our arm alone what was chosen of it."""
    arm = records.arms_of([report.OURS], settings={report.OURS: {"50% hidden": settings}})
    return records.Record(experiment.NAME, arm)


@pytest.mark.parametrize(("low", "kept"), [(0.1, report.TRAINED), (-0.1, report.START)])
def test_a_start_stays_unless_training_gains_more_than_a_standard_error(low, kept, monkeypatch):
    """Gains of .1 and .3: mean .2, standard error .1. Gains of -.1 and .3: mean .1, error .2."""
    start, trained = np.array([1.0, 1.0]), np.array([1.0 - low, 0.7])
    told = arms.gained(start, trained)
    assert told["kept"] == kept and told["users"] == 2
    assert told["gain"] == pytest.approx((low + 0.3) / 2)
    assert told["standard_error"] == pytest.approx((0.3 - low) / 2)
    params = {"model": {"of": trained[None]}, "log_settings": np.zeros((1, 2))}
    fitted = loop.Fitted(params, np.array([75]), {"valid": np.ones((1, 1))}, None)
    monkeypatch.setattr(arms.Tuner, "fit", lambda *rest: fitted)
    monkeypatch.setattr(arms.Tuner, "untrained", lambda *rest: {"of": start})
    monkeypatch.setattr(arms, "errors", lambda learner, params, tasks: params["of"])
    tuner = arms.Tuner(None, None, 1, 1, 1)
    ours = arms.Arm(None, bridge=False)
    found, _, params = tuner.tuned(ours, first=(start, start))
    assert found["kept"] == kept and found["steps"] == (75 if kept == report.TRAINED else 0)
    best = trained if kept == report.TRAINED else start
    np.testing.assert_array_equal(params["of"][0], best)
    assert found["valid_mse"] == pytest.approx(best.mean())
    told = ours_record(found)
    assert kept in report.guarded(told)[0] and f"{(low + 0.3) / 2:+.4f}" in report.guarded(told)[0]
    assert "older than the one-standard-error rule" in report.guarded(ours_record({}))[0]
    control, _, _ = tuner.tuned(ours, told=found | {"kept": report.START}, first=(start, start))
    assert control["kept"] == report.START and control["valid_mse"] == 1.0


def test_hidden_people_are_grouped_by_their_rows_in_the_source():
    few = dataclasses.replace(PAIR.source, user=np.array([0, 1, 1, 2, 2, 2]), label=np.ones(6))
    found = data.groups_of(PAIR._replace(source=few), np.array([2, 0, 1]))
    names = ["few (1)", "middling (2)", "many (3)"]
    assert found == {"source ratings": {"names": names, "of": [2, 0, 1]}}
