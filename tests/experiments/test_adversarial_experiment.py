"""The attacks of the experiment do what they say, and its tables say what is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from experiments.trust import (
    adversarial,
    adversarial_arms,
    adversarial_parts,
    adversarial_report,
)
from metajax import benchmark
from metajax.benchmark import command
from metajax.benchmark.problem import Problem
from metajax.evaluation import judge, ordinal
from metajax.learners import pooled
from metajax.results import records
from metajax.types import Episode, Examples, Model, UserError

KEY = jax.random.key(0)


def person(real: int = 10) -> Episode:
    mask, label = np.float32(np.arange(12) < real), np.float32(1 + np.arange(12) % 5)
    rows = Examples({"factor": np.ones((12, 2), np.float32)}, label, mask)
    return Episode((), rows, rows)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 2), (0.4, 4), (1.0, 10)])
def test_so_many_ratings_are_the_opposite_and_padding_is_left(share, count):
    lies = jax.jit(adversarial_parts.lies(share))
    before, after = jax.tree.map(np.asarray, (person().support, lies(KEY, person()).support))
    told = np.asarray(after.label != before.label)
    neutral = np.asarray(before.label == 3.0)  # whose opposite is the same
    assert told.sum() <= count <= (told | neutral).sum()
    np.testing.assert_allclose(after.label[told], 6.0 - before.label[told])
    assert not told[10:].any()


def test_noise_has_the_length_of_the_lies():
    lies = adversarial_parts.lies(0.4)

    @jax.jit
    def both(key, one):
        noisy = adversarial_parts.noise_of(lies)(key, one)
        return noisy.support, lies(jax.random.split(key)[0], one).support

    noisy, told = jax.tree.map(np.asarray, both(KEY, person()))
    gap = lambda x: float(np.linalg.norm((x.label - person().support.label) * x.mask))
    assert gap(noisy) == pytest.approx(gap(told), rel=1e-5) and gap(told) > 0


MEASURES = ("mae", "mse", "ndcg@5")


def planted(kept: float, metrics=(*MEASURES, *ordinal.PROPER)) -> records.Record:
    """A record whose robust arm keeps a share of what the plain one loses at 20 % of lies."""
    people = np.linspace(0.6, 0.8, 20)[None]
    scores = {}
    for arm, share in (("fold-in", 1.0), ("fold-in, Huber", kept), ("MAML", 1.0)):
        for i, condition in enumerate(adversarial_report.CONDITIONS):
            for metric in metrics:
                values = people + (-0.02 if metric == "ndcg@5" else 0.02) * i * share
                scores[records.Key("lies", arm, condition, metric)] = values
    arms = records.arms_of(dict.fromkeys(k.arm for k in scores))
    told = {"opened": (), "scenario": "lies", "extra": {"ordinal": {"levels": 5}}}
    return records.made("adversarial", adversarial.Config(), arms, scores, **told)


def test_the_tables_say_what_a_defence_saves(tmp_path, capsys):
    record = planted(0.4)
    for metric in MEASURES:
        kept = lambda arm, m=metric: adversarial_report.loss_kept(record, arm, m)
        assert kept("fold-in, Huber") == pytest.approx(0.4, abs=1e-3)
        assert kept("fold-in") == pytest.approx(1.0)
    adversarial_report.report(record, tmp_path)
    said = capsys.readouterr().out
    places = [said.index(f"{name}, lying supports") for name in ("RMSE", "nDCG@5", "MAE")]
    assert places == sorted(places) and said.count("0.40") >= 3
    last = said[said.index("distributions over ratings") :]
    assert places[-1] < said.index(last)
    heads = [last.index(name) for name in ("MAE cal.", "RMSE cal.", "log-loss", "CRPS")]
    assert heads == sorted(heads) and "fold-in, Huber, lies 20%" in last
    assert said.count("judge a distribution over 5 ratings") == 1
    assert adversarial_report.OLDER not in said
    assert (tmp_path / "lies.png").stat().st_size > 10_000


def test_a_record_of_absolute_errors_alone_says_so(tmp_path, capsys):
    adversarial_report.report(planted(0.4, ("mae",)), tmp_path)
    said = capsys.readouterr().out
    assert adversarial_report.OLDER in said and "MAE, lying supports" in said
    assert "RMSE" not in said.replace(adversarial_report.OLDER, "")
    assert "distribution" not in said


def untrained(name, learner, problem, *_) -> adversarial_arms.Arm:
    """An arm of two seeds as they begin."""
    keys = jax.random.split(KEY, 2)
    seeds = jax.jit(jax.vmap(learner.init, (0, None)))(keys, problem.example)
    return adversarial_arms.Arm(learner, jax.tree.map(lambda x: x[0], seeds), {}, seeds=seeds)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["lies", "moved", "hostile"])
def test_distributions_are_judged_by_one_link_that_no_attack_and_no_test_reached(
    attack, tmp_path, monkeypatch
):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    options = ["--preset", "quick", "--attack", attack, "--out", str(tmp_path)]
    config = command.parse(adversarial.Config, options)
    problem = benchmark.load(config.data, config.split, config.training.num_support)
    plain = untrained("", adversarial_arms.maml(problem), problem)
    kinds = {("mean", kind): plain.seeds for kind in adversarial.attempts(config, attack)}
    monkeypatch.setattr(adversarial, "under_hostile", lambda *_: kinds)
    monkeypatch.setattr(adversarial, "trained", untrained)
    monkeypatch.setattr(adversarial, "against_lies", lambda *_: {"MAML": plain})
    monkeypatch.setattr(adversarial, "against_moves", lambda *_: {"plain": plain})
    happened, fit, open_test = [], judge.links_of, Problem.open_test

    def fitted(arms, tasks, *given, **more):
        happened.append("links")
        for mine, valid in zip(*map(jax.tree.leaves, (tasks, problem.valid[1])), strict=True):
            np.testing.assert_array_equal(mine, valid)
        return fit(arms, tasks, *given, **more)

    def opened(self, *given):
        happened.append("test")
        return open_test(self, *given)

    monkeypatch.setattr(judge, "links_of", fitted)
    monkeypatch.setattr(Problem, "open_test", opened)
    record = adversarial.attacked(config, attack)
    assert happened == ["links", "test"]
    assert record.extra["ordinal"] == {"levels": 5, "even": False, "step": 1.0}
    judged = [key for key in record.scores if key.metric == "mse"]
    assert len(judged) >= 4
    for key in judged:
        errors = record.scores[key]
        for metric in ordinal.PROPER:
            values = record.scores[key._replace(metric=metric)]
            assert values.shape == errors.shape and np.isfinite(values).all()


def test_asked_items_are_moved_to_raise_the_squared_error():
    """A score is the sum of an item's factors: each moves its length away from the label."""
    score = lambda params, profile, inputs: inputs["factor"].sum(axis=1)
    learner = pooled.pooled(Model(lambda key, profile, inputs: {}, score))
    episode = person()
    params = jax.jit(learner.init)(KEY, episode)
    up = adversarial.against.uphill
    moved = adversarial_parts.on_query(learner, params, 0.5, up)
    found = np.asarray(jax.jit(lambda e: moved(learner.start(params, ()), e))(episode))
    away = np.where(episode.query.label > 2, -1, 1) * (episode.query.label != 2)
    np.testing.assert_allclose(found, 2 + 0.5**0.5 * away * episode.query.mask, atol=1e-2)


def test_every_attack_has_its_table_and_picture(tmp_path, capsys):
    people = np.linspace(0.6, 0.8, 20)[None]
    rooms = {
        "moved factors": [
            (a, c, metric)
            for a in ("plain", "outer")
            for c in ("all", "asked moved 0.5")
            for metric in MEASURES
        ],
        "hostile users": [
            ("mean", kind, metric)
            for kind in adversarial.attempts(adversarial.Config(), "hostile")
            for metric in (*MEASURES, "pushed")
        ],
        "two domains": [("reversal", "all", m) for m in ("mse", "along", "domain")],
    }
    for room, keys in rooms.items():
        scores = {records.Key(room, *key): people for key in keys}
        arms = records.arms_of(dict.fromkeys(k.arm for k in scores))
        record = records.made("adversarial", adversarial.Config(), arms, scores, opened=())
        adversarial_report.report(record, tmp_path)
        assert (tmp_path / f"{room.replace(' ', '-')}.png").stat().st_size > 5_000
    said = capsys.readouterr().out
    assert "asked .5 minus plain" in said and adversarial_report.OLDER not in said
    assert said.index("MSE minus honest") < said.index("nDCG@5 minus honest")


def test_the_shares_of_hostile_users_are_a_range():
    told = adversarial.attempts(adversarial.Config(hostile=(0.05, 0.01)), "shares")
    assert list(told) == ["honest", "random 1%", "random 5%", "bandwagon 1%", "bandwagon 5%"]
    assert told["bandwagon 1%"] == (2, 0.01) and told["honest"] == (0, 0.0)
    only = adversarial.attempts(adversarial.Config(), "hostile")
    assert list(only) == ["honest", "random 5%", "bandwagon 5%", "mirrored 5%"]
    with pytest.raises(UserError, match="--hostile"):
        adversarial.attacked(adversarial.Config(hostile=(0.0,)), "hostile")


def test_embeddings_that_are_learned_are_moved_with_the_stored_ones():
    """A linear score of factors: a row of the table and a move of the factor count alike."""
    linear = pooled.pooled(Model(
        lambda key, profile, inputs: {"w": jnp.array([1.0, -2.0])},
        lambda params, profile, inputs: inputs["factor"] @ params["w"],
    ))  # fmt: skip
    learner = compiled(adversarial_arms.embedded(linear, 3, 2))
    ones = np.ones((4, 2), np.float32)
    inputs = {"factor": ones, "item": np.array([0, 1, 2, 2])}
    rows = Examples(inputs, 0 * ones[:, 0], ones[:, 0])
    params = learner.init(KEY, Episode((), rows, rows))
    state = learner.start(params, ())
    np.testing.assert_allclose(learner.predict(params, state, rows.inputs), -1.0)
    moved = {**params, "table": np.array(params["table"])}
    moved["table"][2, 0] = 0.5
    np.testing.assert_allclose(learner.predict(moved, state, rows.inputs), [-1, -1, -0.5, -0.5])
