"""The learners as published: what they see, how long they run, and what the table says of them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from experiments.field.as_published import as_published, parts, warm
from experiments.field.as_published import report as as_published_report
from experiments.field.as_published.rows import ROWS
from metajax.benchmark import command, problem
from metajax.data import episodes, split
from metajax.data.split import Tasks
from metajax.data.worlds import latent
from metajax.evaluation import evaluate, ordinal
from metajax.results import records
from metajax.settings import Output
from metajax.types import Episode, Examples, MetaLearner, UserError

fast = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@functools.cache
def log() -> problem.Problem:
    table = latent.rating_log(num_users=150, num_items=60)
    return problem.problem_of(table, split.melu(table, 0), num_support=16)


@functools.cache
def seen(name: str) -> problem.Problem:
    return ROWS[name].prepare(log())


def test_what_is_seen_are_categories_identifiers_and_ratings():
    mine = parts.with_ids(log())
    assert mine.mean == 0.0 and mine.table.item_features.sizes["id"] == 61
    for source in (mine.train, mine.valid[0]):
        for name in parts.ESTIMATES:
            assert not np.any(source.inputs[name]), name
    others = np.asarray(mine.train.tasks.other)
    item = np.asarray(mine.train.inputs["item"])[others]
    np.testing.assert_array_equal(np.asarray(mine.train.inputs["id"])[others, 0], item + 1)
    np.testing.assert_array_equal(mine.valid[0].inputs["id"][:, 0], np.arange(1, 61))
    assert np.any(log().train.inputs["factor"]), "the problem it was made of is as it was"


def test_training_tasks_are_the_warm_users_with_13_to_100_ratings():
    """Counted from the table: warm rows of a user, before ten of them are held out."""
    mine, given = seen("MeLU"), log()
    owners = np.asarray(mine.train.tasks.owner)
    rows = np.bincount(given.table.user[given.split.train_rows], minlength=150)
    assert set(owners) == {u for u in np.asarray(given.train.tasks.owner) if 3 <= rows[u] <= 90
                           and u in given.split.test["warm"].owner}  # fmt: skip
    tasks = mine.train.tasks
    np.testing.assert_array_equal(np.asarray(tasks.length), rows[owners])
    ends = np.asarray(tasks.start + tasks.length)
    assert np.all(np.diff(ends) > 0) and ends[-1] <= len(tasks.other)


def test_an_epoch_is_what_the_tasks_fill_and_whole_epochs_are_run():
    row, mine = ROWS["MeLU"], seen("MeLU")
    tasks = mine.train.tasks._replace(owner=np.zeros(2388))
    given = dataclasses.replace(mine, train=mine.train._replace(tasks=tasks))
    assert as_published.schedule(row, given, 1500) == (74, 20, 1480)
    assert as_published.schedule(row, given, 1000) == (74, 13, 1480)
    assert as_published.schedule(row, given, 5) == (74, 1, 1480)
    assert as_published.schedule(ROWS["MAMO"], given, 1500) == (1, 3, 3)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_builds_and_scores_one_number_per_item(name):
    mine = seen(name)
    learner, tx = ROWS[name].build(mine)

    def play(key, episode):
        params = learner.init(key, episode)
        loss, _ = learner.loss(params, episode, key)
        state = learner.adapt(params, learner.start(params, episode.profile), episode.support, key)
        return loss, learner.predict(params, state, episode.query.inputs), tx.init(params)

    loss, scores, _ = jax.eval_shape(play, jax.random.key(0), mine.example)
    assert loss.shape == () and scores.shape == mine.example.query.label.shape


def test_a_click_is_the_sigmoid_of_a_probability_put_through_a_softmax():
    """Probabilities .8 and .3 by SciPy's softmax, clicks 1 and 0, and a padded row."""
    p, label = np.array([0.8, 0.3, 0.5]), np.array([1.0, 0.0, 1.0])
    chosen = [scipy.special.log_softmax([1 - q, q])[int(y)] for q, y in zip(p, label, strict=True)]
    probability_twice = jax.jit(parts.probability_twice)
    found = probability_twice(scipy.special.logit(p), label, np.array([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(-(chosen[0] + chosen[1]) / 2, rel=1e-5)


def test_lwa_starts_from_normal_weights_and_keeps_its_embedding():
    learner, _ = ROWS["LWA (MetaRec)"].build(seen("LWA (MetaRec)"))
    params: Any = fast(learner.init)(jax.random.key(0), seen("LWA (MetaRec)").example)
    weights = np.asarray(params["weights"])
    assert weights.shape == (2, 8, 8) and abs(weights.std() - 1.0) < 0.25
    assert abs(weights[0] + np.eye(8)).max() > 1.0, "not minus the identity, where ours starts"
    assert params["embed"]["head"]["kernel"].std() < 0.1


def test_mamo_expects_a_rating_from_five_probabilities():
    """Of .1, .2, .3, .1, .3 for 1 to 5 stars: 3.3. The step is .05 times the sum of 100 users."""
    mine = seen("MAMO")
    learner, tx = ROWS["MAMO"].build(mine)

    def play(key, episode):
        params: Any = learner.init(key, episode)
        out = params["model"]["head"]["out"]
        out["kernel"] *= 0.0
        out["bias"] = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.1, 0.3]))
        steps, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        cold = learner.start(params, episode.profile)
        return learner.predict(params, cold, episode.query.inputs), steps

    scores, steps = fast(play)(jax.random.key(0), mine.example)
    np.testing.assert_allclose(scores, 0.1 + 0.4 + 0.9 + 0.4 + 1.5, rtol=1e-5)
    np.testing.assert_allclose(steps["model"]["head"]["out"]["bias"], -0.05 * 100, rtol=1e-6)
    for memory, rate in {"profile": 0.5, "gradient": 0.05, "task": 0.1}.items():
        for leaf in jax.tree.leaves(steps["memory"][memory]):
            np.testing.assert_allclose(leaf, -rate, rtol=1e-6)


def sum_of_labels() -> MetaLearner:
    """A learner that scores every item by the sum of the labels it has seen, times its place."""
    seen = lambda e: jnp.sum(e.label * e.mask * (1.0 + jnp.arange(e.label.shape[0])))
    return MetaLearner(
        init=lambda key, episode: {},
        start=lambda params, profile: jnp.zeros(()),
        adapt=lambda params, state, e, key: state + seen(e),
        predict=lambda params, state, inputs: jnp.full(inputs["item"].shape, 1.0) * state,
        loss=lambda params, episode, key: (jnp.zeros(()), {}),
    )


def test_adapted_unadapted_and_what_adapting_changes_by_pencil():
    """Labels 1, 2 and a padded 9 in the support: the score is 1 + 4 = 5; shuffled 5 or 2 + 2 = 4.

    The query has the label 3: errors of 2, of 3 without support, of 2 or 1 shuffled. A prediction
    changes by 5.
    """
    rows = Examples(np.zeros((1, 3), int), np.array([[1.0, 2.0, 9.0]]), np.array([[1.0, 1, 0]]))
    query = Examples(np.zeros((1, 2), int), np.array([[3.0, 3.0]]), np.array([[1.0, 0.0]]))
    tasks = jax.device_put(Episode(np.zeros(1, int), rows, query))
    nobody = Tasks(*[np.zeros(1, np.int32)] * 5)
    source = episodes.Source(nobody, {}, {"bias": jnp.zeros(1)})
    found = as_published.scores_of(
        sum_of_labels(), {"a": jnp.zeros(1)}, source, {"cold": tasks}, evaluate.rating_metrics
    )
    assert {k[1:]: v.item() for k, v in found.items() if k[2] in ("mae", "change")} == {
        ("all", "mae"): 2.0,
        ("k=0", "mae"): 3.0,
        ("shuffled", "mae"): pytest.approx(1.5, abs=0.5),
        ("all", "change"): 5.0,
        ("k=0", "change"): 0.0,
        ("shuffled", "change"): pytest.approx(4.5, abs=0.5),
    }
    assert {k[0] for k in found} == {"cold"} and all(v.shape == (1, 1) for v in found.values())


def test_scenarios_of_different_widths_are_judged_in_one_program():
    """Supports of one label and of two, a query of 4: errors of 4 - 1 and of 1 + 2 x 2 - 4."""
    wide = Examples(np.zeros((1, 2), int), np.array([[1.0, 2.0]]), np.ones((1, 2)))
    narrow = Examples(np.zeros((1, 1), int), np.array([[1.0]]), np.ones((1, 1)))
    query = Examples(np.zeros((1, 1), int), np.array([[4.0]]), np.ones((1, 1)))
    tasks = {n: Episode(np.zeros(1, int), s, query) for n, s in (("one", narrow), ("two", wide))}
    nobody = Tasks(*[np.zeros(1, np.int32)] * 5)
    source = episodes.Source(nobody, {}, {"bias": jnp.zeros(1)})
    found = as_published.scores_of(
        sum_of_labels(),
        {"a": jnp.zeros(1)},
        source,
        jax.device_put(tasks),
        evaluate.rating_metrics,
    )
    assert found["one", "all", "mae"].tolist() == [[3.0]]
    assert found["two", "all", "mae"].tolist() == [[1.0]]


def test_ties_are_broken_alike_in_every_condition():
    """Who never adapts has the same nDCG adapted, unadapted and shuffled, though all is a tie."""
    ten = np.tile(np.arange(10)[None], (40, 1))
    label = 1.0 + np.random.default_rng(1).integers(0, 5, (40, 10))
    rows = Examples(ten, label, np.ones((40, 10)))
    tasks = jax.device_put(Episode(np.zeros(40, int), rows, rows))
    still = sum_of_labels()._replace(adapt=lambda params, state, e, key: state)
    nobody = Tasks(*[np.zeros(1, np.int32)] * 5)
    source = episodes.Source(nobody, {}, {"bias": jnp.zeros(10)})
    found = as_published.scores_of(
        still, {"a": jnp.zeros(1)}, source, {"cold": tasks}, evaluate.rating_metrics
    )
    for condition in ("k=0", "shuffled"):
        same = found["cold", condition, "ndcg@5"]
        np.testing.assert_array_equal(found["cold", "all", "ndcg@5"], same)
    assert found["cold", "all", "ndcg@5"].std() > 0.05


def test_links_of_validation_judge_the_distributions_of_every_scenario():
    """Of a planted level: who repeats the mean of the support is surer than who says nothing."""
    given = log()
    tests = {name: problem.laid_out(t, given.split.num_query)
             for name, t in given.split.test.items()}  # fmt: skip
    mean = lambda e: jnp.sum(e.label * e.mask) / jnp.maximum(jnp.sum(e.mask), 1.0)
    tells = sum_of_labels()._replace(adapt=lambda params, state, e, key: mean(e))
    silent = tells._replace(adapt=lambda params, state, e, key: state)
    params = {"a": jnp.zeros(2)}
    one, other = (as_published.believed((x, params), given, tests) for x in (tells, silent))
    assert set(one) == {(s, "all", m) for s in tests for m in ordinal.PROPER}
    assert all(v.shape[0] == 2 and np.isfinite(v).all() for v in one.values())
    gain = [other[s, "all", "crps"].mean() - one[s, "all", "crps"].mean() for s in tests]
    assert np.mean(gain) > 0


def test_distributions_stand_in_a_table_of_their_own():
    record = made()
    key = records.Key("log user_cold", "A", "all", "mae")
    told = {key._replace(metric=m): np.full((1, 30), 0.5) for m in ordinal.PROPER}
    record.extra["rows"]["A"]["ordinal"] = {"levels": 5, "even": False, "step": 1.0}
    grid = as_published_report.distributions(
        dataclasses.replace(record, scores={**record.scores, **told})
    )
    (row,) = grid.rows
    assert row[:3] == ["A", "log user_cold", "5"] and row[3].startswith("0.5000 [")


def made() -> records.Record:
    """Two learners: one gains .5 of its MAE from adapting on each of 30 tasks, one .1 of AUC."""
    tasks = np.arange(30) / 100
    values = {
        records.Key("log user_cold", "A", "all", "mae"): 1.0 + tasks,
        records.Key("log user_cold", "A", "k=0", "mae"): 1.5 + tasks,
        records.Key("log user_cold", "A", "shuffled", "mae"): 1.0 + tasks,
        records.Key("log user_cold", "A", "all", "change"): np.full(30, 2e-4),
        records.Key("log item_cold", "B", "all", "auc"): [0.7],
        records.Key("log item_cold", "B", "k=0", "auc"): [0.6],
        records.Key("log item_cold", "B", "shuffled", "auc"): [0.7],
        records.Key("log item_cold", "B", "all", "auc_draws"): np.linspace(0.6, 0.8, 201),
        records.Key("log item_cold", "B", "k=0", "auc_draws"): np.full(201, 0.6),
        records.Key("log item_cold", "B", "shuffled", "auc_draws"): np.linspace(0.6, 0.8, 201),
        records.Key("log item_cold", "B", "all", "change"): np.full(30, 0.25),
    }
    shared: dict[str, Any] = {"steps": 10, "given": "a step", "differs": ""}
    rows = {
        "A": {**shared, "published_steps": 20, "metric": "mae", "scenarios": ["log user_cold"]},
        "B": {**shared, "published_steps": 10, "metric": "auc", "scenarios": ["log item_cold"]},
    }
    rows["A"]["published"], rows["B"]["published"] = {"log user_cold": 0.79}, {}
    scores = {k: np.asarray(v, np.float64)[None] for k, v in values.items()}
    return records.Record("x", (), scores, {"seeds": 1}, extra={"rows": rows})


def test_the_table_tells_the_gap_the_change_and_the_steps():
    grid = as_published_report.grid(made())
    first, second = grid.rows
    assert first[3:6] == ["10 / 20", "1.1450", "1.6450"]
    assert first[6] == "-0.5000*[-0.5000, -0.5000]" and first[7].startswith("+0.0000 ")
    assert (first[8], first[9]) == ("2.0e-04", "0.79")
    assert second[4:6] == ["0.7000", "0.6000"] and second[9] == ""
    assert second[6] == "+0.1000*[+0.0050, +0.1950]"  # quantiles of an even grid
    assert any("20" in note or "As given: a step." in note for note in grid.notes[1:])


def test_gains_are_positive_where_adapting_helps(tmp_path):
    gains = dict(as_published_report.gains(made()))
    assert gains["A, MAE"].mean == pytest.approx(0.5) and gains["A, MAE"].low > 0
    assert gains["B, AUC"].mean == pytest.approx(0.1)
    as_published_report.plot(made(), tmp_path / "gains.png")
    assert (tmp_path / "gains.png").stat().st_size > 1000


def test_rows_are_chosen_by_words_of_their_names():
    config = as_published.Config(rows=("melu", "cvar"))
    assert as_published.chosen(config) == ["MeLU", "MELU_pytorch", "FOMeLU (MetaRec)", "CVAR"]
    assert len(as_published.chosen(as_published.Config())) == len(ROWS) + 4
    with pytest.raises(UserError, match="no such learner") as error:
        as_published.chosen(as_published.Config(rows=("nobody",)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", warm.WAYS)
def test_every_way_to_warm_up_builds_and_a_new_item_changes_with_its_clicks(name):
    """By shapes: what is trained and what meets a new item have the same parameters."""
    data = warm.with_base(warm_data(), warm.WAYS[name])
    model = warm.click_model(data, warm.WAYS[name].dim)
    draw = jax.jit(episodes.draw, static_argnums=(2, 3))
    example = draw(jax.random.key(0), data.source, 8, 4)
    of = lambda: model.init(jax.random.key(0), example)
    empty: Any = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(of))
    trained = jax.device_put(empty["model"])
    learner, judged, _ = warm.build(warm.WAYS[name], data, trained)

    def play(key, episode):
        params = learner.init(key, episode)
        loss, _ = learner.loss(params, episode, key)
        state = judged.adapt(params, judged.start(params, episode.profile), episode.support, key)
        return loss, judged.predict(params, state, episode.query.inputs)

    loss, scores = jax.eval_shape(play, jax.random.key(0), example)
    assert loss.shape == () and scores.shape == (4,)


def test_what_is_frozen_rests_and_the_rest_decays():
    """Without a gradient Adam makes a full step of .001 of the decay alone, where it may."""
    tx = warm.resting(optax.chain(optax.add_decayed_weights(1e-6), optax.adam(1e-3)), ("base",))
    params = {"base": {"w": np.ones(2)}, "net": {"w": np.ones(2)}}
    grads = jax.tree.map(np.zeros_like, params)
    updates: Any = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)[0]
    np.testing.assert_array_equal(updates["base"]["w"], 0.0)
    np.testing.assert_allclose(updates["net"]["w"], -1e-3, rtol=0.02)  # eps is 1e-8


@functools.cache
def warm_data():
    return warm.load("synthetic", None)


def test_finished_rows_are_kept_and_others_settings_are_not(tmp_path):
    config = as_published.Config(output=Output(tmp_path), rows=("melu",))
    scores = {records.Key("s", "a", "all", "mae"): np.ones((1, 2))}
    row = records.Record("x", (), scores, config_hash=as_published.settled(config))
    records.write(tmp_path / "rows", "MeLU", row)
    assert list(as_published.kept(config, ["MeLU", "MAMO"])) == ["MeLU"]
    assert list(as_published.kept(dataclasses.replace(config, rows=()), ["MeLU"])) == ["MeLU"]
    assert not as_published.kept(dataclasses.replace(config, max_steps=7), ["MeLU"])


def test_it_has_presets_and_help(capsys):
    quick = command.parse(as_published.Config, ["--preset", "quick", "--seeds", "2"])
    assert (quick.dataset, quick.max_steps, quick.seeds) == ("synthetic", 20, 2)
    known = {field.name for field in dataclasses.fields(as_published.Config)}
    assert set(as_published.Config.PRESETS) == {"quick", "gpu"}
    assert all(set(settings) <= known for settings in as_published.Config.PRESETS.values())
    with pytest.raises(SystemExit):
        command.parse(as_published.Config, ["--help"])
    said = capsys.readouterr().out
    assert "--preset {quick,paper,gpu}" in said and "--out" in said and "--from-records" in said
