"""Policies after K episodes: a step helps, and nothing is learned from rewards that are dealt."""

import jax
import numpy as np
import pytest

from experiments.decisions import meta_rl, meta_rl_report, rl_arms
from metajax.decide.click_users import ClickUsers
from metajax.results import records
from metajax.settings import Output
from metajax.types import UserError

WORLD = ClickUsers(num_items=5, candidates=5, horizon=10)
SHAPE = rl_arms.Shape(WORLD, 6, 2, 2, 1, 2)


@pytest.mark.slow
def test_a_step_on_true_rewards_helps_and_on_dealt_ones_does_not():
    users = jax.vmap(WORLD.sample)(jax.random.split(jax.random.key(0), 60))
    told = lambda rate, mixed: np.asarray(rl_arms.earned(
        SHAPE, rl_arms.start(1.0), rate, users, jax.random.key(1), 6, mixed))  # fmt: skip
    still, adapted, mixed = told(0.0, False), told(10.0, False), told(10.0, True)
    assert adapted.mean() > still.mean() + 0.1
    assert mixed.mean() < still.mean() + 0.04
    best = np.asarray(rl_arms.best(SHAPE, users, jax.random.key(1)))
    assert (best >= adapted - 1e-6).all()  # the oracle of the whole catalogue is beyond reach


def test_a_long_step_in_any_direction_already_earns_more_than_showing_all_alike():
    """Why dealt rewards leave a gain: chances are convex, and w settles on long vectors."""
    rng = np.random.default_rng(0)
    users, vectors = np.asarray(meta_rl.drawn(meta_rl.Config(), 2, 100)), meta_rl.WORLD.vectors
    chance = 1.0 / (1.0 + np.exp(1.0 - 1.5 * users @ np.asarray(vectors).T))
    shown = np.argmax(rng.normal(size=(500, 8)) @ np.asarray(vectors).T, axis=1)
    assert chance[:, shown].mean() > chance.mean() + 0.05


@pytest.mark.parametrize("kind", [rl_arms.MAML, rl_arms.EMAML])
def test_meta_training_moves_the_start_and_the_rate(kind):
    params, told = rl_arms.trained(SHAPE, kind, 0.05, 1.0)
    assert params["w"].shape == (1, 8) and told.shape == (1, 2)
    assert np.abs(params["w"]).max() > 0 and np.isfinite(told).all()
    assert abs(float(params["log_rate"][0])) > 0


@pytest.mark.usefixtures("few_draws")
def test_the_stored_record_prints_its_tables_and_draws(tmp_path, capsys):
    if not records.path_of(meta_rl.NAME).is_file():
        pytest.skip("no record of meta_rl is stored")
    record = records.stored(meta_rl.NAME)
    meta_rl_report.report(record, tmp_path)
    said = capsys.readouterr().out
    assert "ClickUsers: chance of a click" in said and "asks at first" in said
    assert (tmp_path / "episodes.png").is_file() and (tmp_path / "asking.png").is_file()
    asks = {arm: told["asks at the end"] for arm, told in record.extra[meta_rl.ASK].items()}
    assert asks[rl_arms.EMAML] > 0.5 > 0.05 > asks[rl_arms.MAML]


def test_a_missing_record_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        meta_rl.main(meta_rl.Config(output=Output(from_records=True)))
