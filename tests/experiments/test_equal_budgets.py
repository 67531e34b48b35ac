"""Every arm of the field's tables may spend the same: trials, steps, seeds, a fair beginning."""

import dataclasses
import importlib
import pathlib
import types

import numpy as np
import pytest
import scipy.sparse as sp

from experiments import HERE
from experiments.field.ranking import meta, ranking
from experiments.field.tables import contenders, tables
from metajax.benchmark import (
    baselines,
    boosting,
    command,
    harness,
    mixture,
    problem,
    ranking_arms,
    stacking,
)
from metajax.benchmark import ranking as lists
from metajax.benchmark.arm import Fitted
from metajax.data import split
from metajax.data.worlds import latent
from metajax.results import records
from metajax.tuning import search

TRAINED = {baselines.A3, *contenders.CONTENDERS}
SEARCHED = {
    *(baselines.A1, baselines.A2, baselines.A7, baselines.A4),
    *(boosting.A8, boosting.A8_ALONE, boosting.A8_REDRAWN, stacking.A9),
    *TRAINED,
}
BUDGET = contenders.Budget(7, 11, pathlib.Path("nowhere"))
TRAINING = contenders.Training(seeds=5, num_steps=13, num_tasks=4, num_support=16)


def slug(arm: str) -> str:
    return arm.lower().replace(" ", "-").replace(".", "")


@pytest.fixture(scope="module")
def spent():
    """What every arm asks for: searches, trials and trainings, none of which is run."""
    table = latent.rating_log(num_users=120, num_items=60)
    ready = problem.problem_of(table, split.melu(table, valid_users=0.3), 16)
    searches, trials, trainings = {}, {}, {}
    made = lambda **settings: baselines.Trained(
        None, {"log_precision": np.zeros((1, 3))}, {"valid": 1.0, **settings}, {}, 0.0
    )
    closed = (baselines.A0, baselines.A1, baselines.A2, baselines.A7)

    def tune(objective, space, num_trials, *, folder, name, first):
        searches[name] = (num_trials, first == search.middle(space))
        if name in map(slug, TRAINED):
            trials[name] = objective(first, lambda *now: None)
        ended = search.Trial(dict(first), 1.0, "complete")
        return search.Found(dict(first), 1.0, [ended] * num_trials, {})

    def trained_arm(arm, learner, tx, problem, training, folder):
        trainings[arm] = training
        return made()

    mixed = lambda arms, role: Fitted(None, {"valid": 1.0, "of": set(arms)}, 0.0, role=role)
    fitted = Fitted(lambda *given: np.zeros(1), {"valid": 1.0}, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders.search, "tune", tune)
        of = lambda build, problem, training, numbers: lambda chosen, watch: training
        patch.setattr(contenders.trials, "trials", of)
        patch.setattr(baselines, "closed_form_arms", lambda problem: {a: made() for a in closed})
        patch.setattr(baselines, "trained_arm", trained_arm)
        patch.setattr(baselines, "fine_tuning", lambda *given: lambda rates: made())
        patch.setattr(boosting, "booster", lambda *given, **named: lambda settings, backend: fitted)
        patch.setattr(mixture, "mixture_arm", lambda problem, arms, role: mixed(arms, role))
        patch.setattr(stacking, "stacker", lambda *given: lambda penalty: made())
        arms, notes = contenders.all_arms(contenders.METHODS, ready, TRAINING, BUDGET, "ratings")
    assert not notes
    return arms, searches, trials, trainings


@pytest.mark.parametrize("goal", ["ratings", "lists", "clicks"])
def test_every_trained_arm_may_be_trained_to_order_where_lists_are_judged(goal):
    spaces = [one.space_of(goal) for one in contenders.CONTENDERS.values()]
    assert {"ordered" in space for space in spaces} == {goal == "lists"}
    learner = contenders.maml.build(contenders.maml.Config(), types.SimpleNamespace(mean=3.0))[0]
    assert contenders.to_order(learner, {"ordered": False}) is learner
    assert contenders.to_order(learner, {"ordered": True}).loss is not learner.loss


def test_all_arms_have_equal_search_trials_steps_and_seeds(spent):
    arms, searches, trials, trainings = spent
    assert set(searches) == set(map(slug, SEARCHED)), "every arm with a setting is searched"
    only_mixed = {boosting.A8_REDRAWN}
    mixed = {mixture.A10, mixture.A11, mixture.MIXED}
    assert set(arms) == (SEARCHED - only_mixed) | {baselines.A0} | mixed
    assert {trials for trials, _ in searches.values()} == {BUDGET.trials}
    assert set(trainings) == TRAINED and set(trials) == set(map(slug, TRAINED))
    assert all(training == TRAINING for training in trainings.values())
    short = dataclasses.replace(TRAINING, num_steps=BUDGET.trial_steps, seeds=1)
    assert all(training == short for training in trials.values())
    told = {arm: made.settings["trials"] for arm, made in arms.items() if arm in SEARCHED}
    assert set(told.values()) == {BUDGET.trials}, "and the table tells so"
    assert arms[mixture.A11].settings[boosting.A8_REDRAWN]["trials"] == BUDGET.trials


def test_the_mixtures_differ_in_one_arm(spent):
    arms, *_ = spent
    bases, trees, learner = (
        arms[name].settings["of"] for name in (mixture.A10, mixture.A11, mixture.MIXED)
    )
    assert trees - bases == {boosting.A8_REDRAWN} and learner - bases == {"A6 ridge head"}
    assert bases < trees and bases < learner and boosting.A8 in bases
    roles = [arms[name].role for name in (mixture.A10, mixture.A11, mixture.MIXED)]
    assert roles == [records.BASELINE, records.BASELINE, records.METHOD]


def test_no_search_begins_with_a_setting_found_by_hand(spent):
    _, searches, _, _ = spent
    assert all(in_the_middle for _, in_the_middle in searches.values())


def test_the_budget_of_the_tables_is_thirty_trials_five_seeds_and_a_plateau():
    config = tables.Config("T2")
    assert config.trials >= 30 and config.training.seeds >= 5
    assert 0 < config.training.patience < config.training.num_steps


def test_the_table_of_every_method_has_the_budget_of_the_tables():
    of = lambda path: importlib.import_module(f"experiments.methods.{path.stem}")
    texts = {path: path.read_text() for path in (HERE / "methods").glob("*.py")}
    single = [of(path) for path, text in texts.items() if "run_experiment(" in text]
    assert len(single) > 20
    for module in single:
        assert command.declared(module.Config).training == harness.EQUAL, module.__name__
    assert tables.Config("T2").training == harness.EQUAL


def test_ways_to_warm_up_have_the_budget_of_the_arms_beside_them(monkeypatch, tmp_path):
    asked = {}

    def run(settings, also):
        asked["ways"] = settings
        also(None, None)
        raise StopIteration

    monkeypatch.setattr(tables.metaemb, "run", run)
    monkeypatch.setattr(tables.clicks, "arms", lambda *given: asked.update(arms=given))
    config = tables.Config("T4")
    config = dataclasses.replace(config, output=dataclasses.replace(config.output, out=tmp_path))
    with pytest.raises(StopIteration):
        tables.run_clicks(config, tables.TABLES["T4"].parts[0])
    ways, (_, _, _, training, budget, _) = asked["ways"], asked["arms"]
    assert (ways.num_steps, ways.patience) == (training.num_steps, training.patience)
    assert (ways.trials, ways.trial_steps) == (budget.trials, budget.trial_steps)
    assert ways.seeds == training.seeds


def test_arms_that_rank_catalogues_have_equal_trials_seeds_and_a_plateau(monkeypatch, tmp_path):
    config = ranking.Config()
    assert config.trials >= 30 and config.seeds >= 5 and 0 < config.patience < config.num_steps
    searches, trainings, fits = [], [], []

    def tune(objective, space, num_trials, *, folder, name, first):
        searches.append((num_trials, first == search.middle(space)))
        objective(first, lambda *now: None)
        return search.Found(dict(first), -1.0, [search.Trial(dict(first), 1.0, "complete")], {})

    def fit(met, begin, head, rate, *, valid, seeds, num_steps, patience=0, **more):
        trainings.append((seeds, num_steps, patience, more["num_tasks"]))
        return meta.Trained([None] * seeds, np.ones(seeds), np.ones(seeds, int))

    monkeypatch.setattr(search, "tune", tune)
    monkeypatch.setattr(meta, "fit", fit)
    monkeypatch.setattr(lists, "quality", lambda *given: 0.5)
    arms = ranking_arms.RANKERS | ranking_arms.ABLATIONS
    spaces = {arm: space for arm, (_, space) in arms.items()}
    discounted = {arm for arm, space in spaces.items() if "discount" in space}
    plain = {"R0 popularity", "R2a EASE, no discount", "R7d K-shot EASE, no discount"}
    assert discounted == set(spaces) - plain
    prepare = lambda met: lambda **settings: fits.append(settings)
    counted = {arm: (prepare, space) for arm, space in spaces.items()}
    monkeypatch.setattr(ranking, "CLASSICS", counted)
    for arm in spaces:
        fits.clear()
        made = ranking.classic(arm, None, [], config, tmp_path)
        assert len(made.scorers) == (config.seeds if arm in ranking.SEEDED else 1)
        assert len({tuple(f.items()) for f in fits if "seed" in f}) == len(made.scorers) - 1
    assert {arm for arm, space in spaces.items() if not space} == {"R0 popularity"}
    for arm in ranking.HEADS:
        ranking.meta_learned(arm, None, sp.eye(3, format="csr"), [], config, tmp_path)
    assert searches == [(config.trials, True)] * (len(spaces) - 1 + len(ranking.HEADS))
    short, whole = set(trainings[::2]), set(trainings[1::2])
    assert short == {(1, config.trial_steps, 0, config.num_tasks)}
    assert whole == {(config.seeds, config.num_steps, config.patience, config.num_tasks)}
