"""The experiments on streams: they refuse what cannot be played, and print what is stored."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.streams import (
    arms,
    online,
    online_meta,
    peer,
    task_arms,
    task_logs,
    task_report,
    update_rule,
    worlds,
)
from metajax.evaluation import ordinal
from metajax.results import records
from metajax.settings import Data, Output
from metajax.types import UserError

EXPERIMENTS = {
    "online": (online.main, online.Config),
    "peer": (peer.main, lambda output: online.Config(output=output, peer=True)),
    "online_meta": (online_meta.main, online_meta.Config),
    "update_rule": (update_rule.main, update_rule.Config),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_missing_record_gets_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    main, config = EXPERIMENTS[name]
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        main(config(output=Output(from_records=True)))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("path", sorted(records.RESULTS.glob("online*.record")))
def test_a_stored_record_prints_its_table_and_draws(path, tmp_path, capsys):
    record = records.read(path)
    if path.stem == peer.NAME:
        peer.report(record)
    elif record.experiment == "online":
        online.report(record, tmp_path)
        assert (tmp_path / "over-time.png").is_file() and (tmp_path / "pareto.png").is_file()
    else:
        online_meta.task_report.report(record, tmp_path)
        assert list(tmp_path.glob("over-time*.png"))
    said = capsys.readouterr().out
    assert all(arm.name in said for arm in record.arms[:1])
    if record.experiment in ("online", peer.NAME) and "mse" in {k.metric for k in record.scores}:
        places = [said.find(name) for name in ("RMSE of an event", "MAE of an event", "CRPS")]
        assert -1 < places[0] < places[1] < places[2]


def test_the_stream_of_the_synthetic_log_has_its_warm_up():
    plan = online.plan_of(online.Config(data=Data("synthetic"), most_events=400))
    assert (len(plan.events), plan.num_warm, plan.implicit) == (400, 200, False)
    with pytest.raises(UserError, match="too short for a warm-up"):
        online.plan_of(online.Config(data=Data("synthetic"), warm_up=1.0))


@pytest.mark.usefixtures("few_draws")
def test_each_seed_has_a_link_that_knows_nothing_of_the_test(capsys, monkeypatch):
    monkeypatch.setattr(arms, "BLOCK_EVENTS", 256)
    plan = online.plan_of(online.Config(data=Data("synthetic"), most_events=400))
    levels = online.belief.levels_in(plan.events.label[:200], plan.events.scale)
    assert levels is not None

    def played(plan: arms.Plan) -> tuple[online.Bench, dict]:
        bench = online.Bench(dataclasses.replace(plan, passes=1), 2)
        players = bench.players()
        players = {name: players[name] for name in (arms.FROZEN, arms.BIASES)}
        bench.choose(players)
        bench.believe(players, levels)
        bench.warm(plan.num_warm)
        return bench, {name: bench.play(name, *one[::2]) for name, one in players.items()}

    bench, losses = played(plan)
    counts = {name: len(links) for name, links in bench.links.items()}
    assert counts == {arms.FROZEN: 2, arms.BIASES: 1}
    scores = online.kept("synthetic", plan, losses)
    for key in [key for key in scores if key.metric == "mse"]:
        for metric in ordinal.PROPER:
            found = scores[key._replace(metric=metric)]
            assert found.shape == scores[key].shape and np.isfinite(found).all()
    extra = online.belief.facts(levels, plan.events.label[:200], 1.0)
    extra |= {"events_of": online.counts(plan)}
    given = (online.Config(), records.arms_of(losses), scores)
    record = records.made("online", *given, scenario="synthetic", extra=extra)
    online.show.distributions(record)
    said = capsys.readouterr().out
    assert -1 < said.find("MAE cal.") < said.find("log-loss") < said.find("CRPS")
    assert f"over {len(levels)} ratings" in said
    assert online.show.measures(record) == ["mse", "mae"]

    label = np.array(plan.events.label)
    label[plan.num_warm :] = label[plan.num_warm :][::-1]
    other, _ = played(
        dataclasses.replace(plan, events=dataclasses.replace(plan.events, label=label))
    )
    for a, b in zip(*map(jax.tree.leaves, (bench.links, other.links)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_people_nobody_met_start_as_the_mean_person():
    plan = online.plan_of(online.Config(data=Data("synthetic"), most_events=400))
    warm = arms.first_tables(plan, 0, 2, plan.num_warm)
    found = arms.settled(plan, warm.tables, plan.num_warm).user
    met = np.isin(np.arange(plan.events.num_users), plan.events.user[: plan.num_warm])
    mean = np.asarray(warm.tables.user)[met].mean(axis=0)
    np.testing.assert_allclose(found[~met], np.broadcast_to(mean, found[~met].shape), atol=1e-6)


def test_the_closed_form_is_the_items_mean_and_the_damped_residual():
    asked = task_arms.AskedTasks(
        (), support(np.array([[1.0, 0.5]]), np.array([[2.0, 9.0]]), np.array([[1.0, 0.0]])),
        np.array([[[0.0, 0.25]]]),
    )  # fmt: skip
    base = task_arms.means_so_far(1, damping=1.0)
    assert float(base.predict((), asked)[0, 0]) == 0.25 + (2.0 - 1.0) / 2.0


def support(item_mean: np.ndarray, label: np.ndarray, mask: np.ndarray):
    from metajax.types import Examples

    return Examples(np.stack([np.ones_like(item_mean), item_mean], axis=2), label, mask)


def test_the_scale_of_the_ratings_changes_nothing_that_is_learned(monkeypatch):
    load = task_logs.timelines.load
    config = online_meta.Config(data=Data("synthetic"))
    stars = task_logs.Log(config)
    tens = lambda *args: (e := load(*args)) and dataclasses.replace(e, label=20 * e.label)
    monkeypatch.setattr(task_logs.timelines, "load", tens)
    percent = task_logs.Log(config)
    for a, b in zip(*map(jax.tree.leaves, (stars.episodes, percent.episodes)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(percent.unit, 20 * stars.unit, rtol=1e-5)


def test_an_answer_that_is_no_number_counts_as_infinitely_wrong():
    log = task_logs.Log(online_meta.Config(data=Data("synthetic")))
    found = jax.tree.map(lambda x: x[:2], log.episodes)
    answers = np.zeros(found.query.label.shape)
    answers[0, 0] = np.nan
    told = task_logs.measured(log, answers, found)
    assert list(told) == ["mse", "ndcg@5", "mae"]
    for loss in (told["mse"], told["mae"]):
        assert np.isinf(loss[0]) and np.isfinite(loss[1])
    assert told["ndcg@5"][0] == 0.0 < told["ndcg@5"][1]
    right = np.array(found.query.label)
    told = task_logs.measured(log, right, found)
    np.testing.assert_allclose(told["ndcg@5"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(told["mse"], 0.0, atol=1e-12)
    clicks = task_logs.measured(
        SimpleNamespace(unit=1.0, implicit=True), np.zeros(right.shape), found
    )
    assert list(clicks) == ["brier"]


def test_answers_with_a_link_are_judged_as_distributions_in_the_unit_of_the_log():
    config = online_meta.Config(data=Data("synthetic"), most_events=9_000, hidden=4)
    log = task_logs.Log(config)
    assert log.levels is not None
    levels, bench = log.levels, task_logs.Bench(log, config, task_arms.Sizes())
    settings = {task_arms.BASE: {"rate": 0.0}, task_arms.SCRATCH: {"rate": 0.01}}
    bench.trainers = {}  # neither of the two is taught by the warm-up
    links = bench.links(settings, 0)
    _, _, found = bench.held_out()
    answers = np.zeros(found.query.label.shape)
    answers[0, 0] = np.nan
    for name in settings:
        told = task_logs.measured(log, answers, found, links[name])
        assert set(told) == {"mse", "ndcg@5", "mae", *ordinal.PROPER}
        for metric in ordinal.PROPER:
            assert np.isinf(told[metric][0]) and np.isfinite(told[metric][1:]).all()
    label, mask = log.stars(found)
    assert set(np.unique(np.round(label[mask > 0], 3))) <= set(levels.tolist())
    even = links[task_arms.BASE]._replace(slope=np.float32(0))  # scores say nothing
    p = np.asarray(ordinal.probabilities(even, np.zeros(1)))[0]
    crps = task_logs.measured(log, answers, found, even)["crps"][1]
    own = label[1][mask[1] > 0][:, None] <= levels[None, :-1]
    by_hand = ((np.cumsum(p)[:-1] - own) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(crps, by_hand, rtol=1e-4)
    log.levels = None
    assert bench.links(settings, 0) == {}


@pytest.mark.usefixtures("few_draws")
def test_tables_of_a_log_lead_with_rmse_and_older_records_say_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task_report.show, "over_time", lambda *_: None)
    arm_names = [task_arms.PLAIN, task_arms.FTML, task_arms.BASE]
    rng = np.random.default_rng(0)
    groups = (records.ALL, task_logs.NEW, task_logs.OLD, task_logs.BACK)
    extra = {
        "events_of": {group: [2] * 12 for group in groups}, "tasks": [5, 24, 12],
        "curves": {arm: rng.random(40).tolist() for arm in arm_names}, "times": None,
    }  # fmt: skip
    for metrics in (("mse", "ndcg@5", "mae"), ("mae",), ("brier",)):
        scores = {
            records.Key("x", arm, group, metric): 0.25 + 0.01 * rng.random((1, 12))
            for metric in metrics for arm in arm_names for group in groups
        }  # fmt: skip
        config, named = online_meta.Config(), records.arms_of(arm_names)
        record = records.made("online_meta", config, named, scores, scenario="x", extra=extra)
        task_report.report(record, tmp_path)
        said = " ".join(capsys.readouterr().out.split())
        assert (task_report.OLDER in said) == (metrics == ("mae",))
        assert ("no RMSE" in said) == (metrics == ("brier",))
        if len(metrics) == 3:
            places = [said.index(f"x: {n} of 24") for n in ("RMSE", "nDCG@5", "MAE")]
            assert places == sorted(places) and "MSE minus no meta" in said
            own = task_report.users(record, task_arms.FTML, "mse", records.ALL)
            assert f"{(own.total.sum() / own.count.sum()) ** 0.5:.4f} [" in said


def test_the_worlds_differ_in_what_drifts_alone():
    still, both = worlds.world_of("still", 5), worlds.world_of("walk and jumps", 5)
    assert (still.walk, still.jump) == (0.0, 0.0) and both.walk > 0 and both.jump > 0
    stream = jax.jit(lambda: still.stream(jax.random.key(0), 12))()
    assert (np.asarray(stream.mean) == np.asarray(stream.mean)[0]).all()
