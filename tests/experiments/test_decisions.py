"""Experiments on decisions: what they refuse, what they compute by pencil, what they print."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.decisions import arms, bandit, feedback_loop, show, sushi, worlds
from experiments.pages import decision_tables as page
from experiments.speed import bandits
from metajax.decide import replay
from metajax.decide.environment import Observation
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError

EXPERIMENTS = {"bandit": bandit, "feedback_loop": feedback_loop}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_missing_record_gets_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    module = EXPERIMENTS[name]
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        module.main(module.Config(output=Output(from_records=True)))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_stored_record_prints_its_table_and_draws(name, tmp_path, capsys):
    if not records.path_of(name).is_file():
        pytest.skip("no record is stored")
    module = EXPERIMENTS[name]
    module.main(module.Config(output=Output(from_records=True, out=tmp_path)))
    assert list(tmp_path.glob("*.png")) and "oracle" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_records():
    assert page.PAGE.read_text() == page.filled(page.PAGE.read_text())


@pytest.mark.parametrize(
    ("names", "most"),
    [(page.DECISIONS, 90), (page.TRUST, 120), (page.STREAMS, 60), (page.DOMAINS, 150)],
)
def test_the_stored_records_of_a_room_took_no_longer_than_they_may(names, most):
    told = page.minutes(names)
    assert len(told) == len(names) and 0 < sum(told.values()) < most


def test_what_cannot_be_run_is_one_line():
    with pytest.raises(UserError, match="no world 'jokes'"):
        bandit.worlds(bandit.Config(world="jokes"))
    with pytest.raises(UserError, match="1,473 have rated all"):
        bandit.worlds(bandit.Config(people=900))
    with pytest.raises(UserError, match="5,000 are known"):
        bandit.worlds(bandit.Config(world="sushi10", people=2_000))


def rankings(folder, people=40):
    """A folder of data with the rankings of people who nearly agree."""
    rng = np.random.default_rng(0)
    order = np.argsort(np.arange(10.0) + 2.0 * rng.normal(size=(people, 10)), axis=1)
    (folder / "sushi10").mkdir()
    np.savez(folder / "sushi10" / "sushi10.npz", order=order.astype(np.uint8))
    return folder


def test_slates_are_judged_by_the_persons_own_ranking(tmp_path):
    world = sushi.world(rankings(tmp_path), 8, 50)
    tables, every = world.learn(0), sushi.arms()
    root = np.asarray(tables["root"])
    past = np.asarray(world.valid.rating)
    assert past.min() == 0.0 and past.max() == 1.0 and tables["mean"].shape == (10,)
    assert tables["mean"][0] > tables["mean"][9] and np.allclose(root @ root.T, (root @ root.T).T)
    play = {n: bandit.Player(world, every[n]) for n in (arms.ORACLE, arms.POPULAR)}
    told = {n: player(tables, (0.2, 0.3), world.test, 0) for n, player in play.items()}
    assert told[arms.ORACLE].shape == (8, 50)
    assert (told[arms.ORACLE] >= told[arms.POPULAR]).all()


def test_a_control_of_slates_tells_another_choice_and_pays_by_the_own_one():
    pair = (replay.Person(np.array([1.0, 0.0]), np.ones(2)),
            replay.Person(np.array([0.0, 1.0]), np.ones(2)))  # fmt: skip
    plain = replay.slates({"item": np.arange(2)}, 2, 2, 5)
    world = sushi.controlled(plain, "others")
    _, state = jax.jit(world.reset)(jax.random.key(0), pair)
    step = jax.jit(world.step)
    seen, _, reward, _, info = step(jax.random.key(1), state, np.array([0, 1]), pair)
    assert (seen.profile["chosen"], reward, info["expected"]) == (1, 1.0, 1.0)


@pytest.mark.parametrize("every", [arms.arms(), sushi.arms()], ids=["items", "slates"])
def test_every_tuned_arm_has_as_many_trials(every):
    assert {len(a.trials) for a in every.values()} == {1, 12}
    single = {n for n, a in every.items() if len(a.trials) == 1 and a.role == records.BASELINE}
    assert single == {arms.POPULAR, arms.RANDOM, arms.ORACLE}
    assert arms.best([(1.0, 2.0), (3.0, 4.0)], [0.5, 0.6]) == (3.0, 4.0)


def test_the_mean_of_an_item_is_drawn_to_the_mean_of_all():
    past = worlds.Past(np.array([[0, 1], [0, 2]]), np.array([[2.0, 5.0], [4.0, 9.0]]),
                       np.array([[1.0, 1.0], [1.0, 0.0]]))  # fmt: skip
    np.testing.assert_allclose(
        worlds.item_means(past, 3, damping=1.0), [(6 + 11 / 3) / 3, (5 + 11 / 3) / 2, 11 / 3]
    )


def test_a_network_on_past_users_is_its_last_layer_and_head():
    rng = np.random.default_rng(0)
    item = rng.integers(6, size=(40, 10))
    past = worlds.Past(item, np.float32(item == 2), np.ones(item.shape, np.float32))
    layer, head = worlds.network(np.eye(6), past, 0)
    np.testing.assert_allclose(layer @ head, np.eye(6)[2], atol=0.25)


def tables(dim=3, items=6):
    x = np.ones((items, dim)) * np.arange(items)[:, None]
    one = np.arange(items, dtype=float)
    return worlds.Tables(one, x, x, np.ones(dim), x, one, np.zeros(dim), np.eye(dim),
                         np.ones(()))  # fmt: skip


@pytest.mark.parametrize("name", [arms.META, arms.WARM, arms.NEURAL, arms.POPULAR, arms.ORACLE])
def test_at_the_first_round_the_best_known_item_is_shown(name):
    seen = Observation((), {"item": np.array([1, 4, 2])}, np.ones(3))
    truth = np.array([0.0, 9.0, 1.0, 1.0, 1.0, 1.0])

    @jax.jit
    def shown(tables, setting, truth, seen):
        policy = arms.arms()[name].make(tables, setting, truth)
        return policy.act(policy.init(jax.random.key(0), seen), seen, jax.random.key(1))

    action, _ = shown(tables(), np.array([1.0, 0.0]), truth, seen)
    assert int(action) == (0 if name == arms.ORACLE else 1)


def test_rewards_are_averaged_over_the_first_rounds():
    first = bandit.averaged(np.arange(50.0)[None])
    np.testing.assert_allclose(first[:, 0], [2.0, 4.5, 9.5, 24.5])


def record_of(ahead: float) -> records.Record:
    scores = {}
    for name, arm in arms.arms().items():
        level = 1.0 + ahead * (arm.role == records.METHOD)
        for n in bandit.FIRST:
            values = level + 0.01 * np.arange(4.0)[None]
            scores[records.Key("clicks", name, f"first {n}", "reward")] = values
    roles = {n: a.role for n, a in arms.arms().items()}
    curves = {n: [1.0, 0.5] for n in roles}
    told = {"clicks": {"curves": curves, "unit": "clicks", "seeds": {}}}
    extra = {"worlds": told, "first": bandit.FIRST}
    return records.Record(
        "bandit", records.arms_of(roles, roles=roles), scores, {"seeds": 1}, extra=extra
    )


def test_the_verdict_is_of_intervals(tmp_path, capsys):
    told = show.verdict(record_of(0.5), "clicks", arms.META)
    assert "first 5 rounds ahead of every policy" in told and "+49.26 %" in told
    told = show.verdict(record_of(0.0), "clicks", arms.META)
    assert "first 10 rounds not clearly ahead of popularity + LinUCB" in told
    show.bandit(record_of(0.5), tmp_path)
    assert (tmp_path / "clicks.png").is_file() and "+0.500" in capsys.readouterr().out


def test_decisions_are_timed_beside_a_gymnasium_loop(tmp_path, capsys):
    pytest.importorskip("gymnasium")
    ours, theirs = bandits.ours(4, 1), bandits.gymnasium_loop(2)
    assert ours.users == 4 and theirs.users == 2 and 0 < theirs.reward < 1
    rows = [{"variant": "a", **ours._asdict(), "micros": 2.0},
            {"variant": "b", **theirs._asdict(), "micros": 9.0}]  # fmt: skip
    record = records.Record("speed", extra={"rows": rows, "rounds": 50})
    bandits.show(record, tmp_path)
    assert "4.5x as fast" in capsys.readouterr().out and "4.5x" in bandits.markdown(record)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_in_small(name, tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path))
    module = EXPERIMENTS[name]
    small = {"bandit": {"world": "clicks", "people": 6, "past": 30, "seeds": 1},
             "feedback_loop": {"users": 3, "rounds": 120, "past": 30, "seeds": 1}}  # fmt: skip
    config = dataclasses.replace(module.Config(output=Output(out=tmp_path)), **small[name])
    record = module.main(config)
    assert len(record.arms) > 8 and (tmp_path / f"{name}.record").is_file()
