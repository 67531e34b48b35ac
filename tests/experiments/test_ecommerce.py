"""The large case: its recommenders against the formulas, its ranks against sorting, its rules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from experiments.shop import stream
from experiments.shop.ecommerce import case as ecommerce_case
from experiments.shop.ecommerce import ecommerce, judge, parts, runs
from experiments.shop.ecommerce import report as ecommerce_report
from experiments.speed import scaling
from metajax.data.histories import log as rows
from metajax.data.worlds import commerce
from metajax.optim import touched_rows
from metajax.results import records
from metajax.settings import Output
from metajax.types import Episode, Examples, UserError

SIZES = parts.Sizes(width=5, hidden=6, shots=4)
KEY = jax.random.key(0)


def events(seed: int, count: int, width: int = 4) -> Examples:
    """Embedded items, clicks and the mask of so many real rows of ``width``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(width, SIZES.width)).astype(np.float32)
    y = rng.integers(0, 2, width).astype(np.float32)
    return Examples(x, y, (np.arange(width) < count).astype(np.float32))


def started(learner, seed: int = 1):
    """Random parameters and the state before any event."""
    params = learner.init(jax.random.key(seed), Episode((), events(0, 1), events(0, 1)))
    rng = np.random.default_rng(seed + 1)
    moved = lambda a: np.asarray(a + 0.3 * rng.normal(size=a.shape), np.float32)
    params = jax.device_put(jax.tree.map(moved, jax.device_get(params)))
    return params, learner.start(params, ())


LEARNERS = {
    "ridge": parts.newton,
    "steps": parts.few_steps,
    "two-tower": parts.two_tower,
    "Transformer": parts.over_history,
    "mean user": parts.mean_user,
}


def test_the_ridge_head_is_one_newton_step_of_the_log_posterior():
    """In numpy: m - H^-1 g at m, of the sum of log losses plus the prior's quadratic."""
    learner = compiled(parts.newton(SIZES))
    params, state = started(learner)
    seen, asked = events(2, 3), events(3, 4)
    m = np.asarray(params["mean"], float)
    prior = np.diag(np.exp(np.asarray(params["log_precision"], float)))
    v, b = np.asarray(seen.inputs, float)[:3, :-1], np.asarray(seen.inputs, float)[:3, -1]
    p = 1 / (1 + np.exp(-(b + v @ m)))
    gradient = v.T @ (p - np.asarray(seen.label, float)[:3])
    hessian = prior + v.T @ np.diag(p * (1 - p)) @ v
    w = m - np.linalg.solve(hessian, gradient)
    x = np.asarray(asked.inputs, float)
    found = learner.predict(params, learner.adapt(params, state, seen, KEY), asked.inputs)
    np.testing.assert_allclose(found, x[:, -1] + x[:, :-1] @ w, rtol=2e-5, atol=1e-5)


def test_few_steps_descend_the_summed_loss():
    learner = compiled(parts.few_steps(SIZES, 2))
    params, state = started(learner)
    seen, asked = events(2, 3), events(3, 4)
    x = np.asarray(seen.inputs, float)[:3]
    w, rate = (np.asarray(params[a]["mean"], float) for a in ("model", "rates"))
    for _ in range(2):
        p = 1 / (1 + np.exp(-(x[:, -1] + x[:, :-1] @ w)))
        w = w - np.exp(rate) * (x[:, :-1].T @ (p - np.asarray(seen.label, float)[:3])) / 4
    asked_x = np.asarray(asked.inputs, float)
    found = learner.predict(params, learner.adapt(params, state, seen, KEY), asked.inputs)
    np.testing.assert_allclose(found, asked_x[:, -1] + asked_x[:, :-1] @ w, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_recommenders_see_no_padding_and_are_linear_in_the_item(name):
    learner = compiled(LEARNERS[name](SIZES))
    params, state = started(learner)
    seen, asked = events(2, 3), events(3, 4)
    padding = np.arange(4) == 3
    junk = seen._replace(
        inputs=np.where(padding[:, None], 99.0, seen.inputs),
        label=np.where(padding, 1.0 - seen.label, seen.label),
    )
    after = lambda s, e: learner.adapt(params, s, e, KEY)
    predict = lambda s, x: learner.predict(params, s, x)
    scores = predict(after(state, seen), asked.inputs)
    np.testing.assert_allclose(predict(after(state, junk), asked.inputs), scores, atol=1e-5)
    w = parts.user_vector(learner, params, after(state, seen), 5)
    np.testing.assert_allclose(np.asarray(asked.inputs) @ np.asarray(w), scores, atol=1e-5)
    gap = np.asarray(scores) - np.asarray(predict(state, asked.inputs))
    assert (np.abs(gap).max() > 1e-4) == (name != "mean user")


def test_the_history_keeps_the_newest_events_in_their_order():
    learner = compiled(parts.over_history(SIZES))
    params, state = started(learner)
    first, second = events(4, 3), events(5, 2)
    adapt = lambda s, e: learner.adapt(params, s, e, KEY)
    once = jax.device_get(adapt(adapt(state, first), second))
    together = np.concatenate([first.inputs[1:3], second.inputs[:2]])
    np.testing.assert_array_equal(once.events.inputs, together)
    other = adapt(state, Examples(together[::-1], once.events.label[::-1], np.ones(4)))
    basis = events(3, 4).inputs
    told = lambda s: np.asarray(learner.predict(params, s, basis))
    assert float(np.abs(told(once) - told(other)).max()) > 1e-4


def test_recall_counts_what_was_liked_among_the_best_not_met(monkeypatch):
    """Against a loop over users: sort, strike out what is known, look at the first ten."""
    monkeypatch.setattr(judge, "BEST", 10)
    rng = np.random.default_rng(0)
    items, shown = rng.normal(size=(60, 3)).astype(np.float32), rng.normal(size=60)
    w = rng.normal(size=(5, 3)).astype(np.float32)
    drawn = np.stack([rng.permutation(60)[:10] for _ in range(5)])
    known = Examples(drawn[:, :4], np.ones((5, 4)), np.tile([1.0, 1, 1, 0], (5, 1)))
    liked = np.array([[1, 0, 1, 1, 0, 1]] * 4 + [[0] * 6], float)
    query = Examples(drawn[:, 4:], liked, np.ones((5, 6)))
    episodes = Episode((), known, query)
    run = jax.jit(judge.recall_of_best.__wrapped__, static_argnames="batch_size")
    found = run(items, shown, w, episodes, 2)
    expected = []
    for u in range(5):
        score = -np.log1p(np.exp(-(items @ w[u]).astype(float))) + shown
        order = [i for i in np.argsort(-score) if i not in drawn[u, :3]][:10]
        mine = drawn[u, 4:][liked[u] > 0]
        expected.append(np.mean(np.isin(mine, order)) if len(mine) else np.nan)
    assert 0 < np.nanmean(expected) < 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=(6, 7)), rng.integers(0, 2, (6, 7))
    cutoff = judge.threshold(score, label)
    right = lambda c: np.mean((score > c) == (label > 0))
    every = [right(c) for c in np.concatenate([[-9.0], score.ravel()])]
    assert right(cutoff) == max(every)
    assert judge.threshold(score, np.ones((6, 7))) < score.min()


def small_log() -> tuple[rows.Log, jax.Array]:
    """60 people, 40 items; the first feature decides what is liked."""
    rng = np.random.default_rng(0)
    length = rng.integers(4, 9, 60)
    content = rng.normal(size=(40, 3)).astype(np.float32)
    item = rng.integers(0, 40, length.sum())
    label = (content[item, 0] > 0).astype(np.int8)
    log = rows.Log.of(np.concatenate([[0], np.cumsum(length)]), item, label)
    return log, jax.device_put(content)


def data_of() -> runs.Data:
    log, content = small_log()
    count = np.bincount(log.items, minlength=40).astype(np.float32)
    return runs.Data(log, content, jax.device_put(count))


@pytest.mark.slow
def test_training_keeps_the_step_that_validates_best(monkeypatch):
    """It finds what everyone likes, and of three looks keeps the one that is told to be best."""
    monkeypatch.setattr(runs, "CHECK", 100)
    plan, data = runs.adapted(parts.newton(SIZES), 40, 3, SIZES), data_of()
    size = lambda params: jnp.linalg.norm(params.tables["item"])
    fit = lambda validate: runs.fit(
        plan, runs.sampler(plan, 16, SIZES), data, KEY, 1e-2, 300, validate
    )
    grown = [valid for *_, valid in fit(size).history]
    assert min(abs(grown[1] - grown[0]), abs(grown[1] - grown[2])) > 1e-3
    fitted = fit(lambda params: jnp.abs(size(params) - grown[1]))
    assert fitted.step == 200 and fitted.valid_loss < 1e-4
    assert [step for step, *_ in fitted.history] == [100, 200, 300]
    assert fitted.history[-1][1] < fitted.history[0][1] < np.log(2)
    tower, table = fitted.params.rest["tower"], fitted.params.tables["item"]
    items = runs.catalogue(tower, table, data.content)
    np.testing.assert_array_equal(items[:, -1] > 0, data.content[:, 0] > 0)


@pytest.mark.slow
def test_arms_begin_from_the_common_tower_and_may_stay_there(monkeypatch):
    """The start knows what everyone likes; the step before the first one is a choice too."""
    monkeypatch.setattr(runs, "CHECK", 100)
    data, alike = data_of(), runs.alike(40, 3, SIZES)
    offsets = lambda tower, table: runs.catalogue(tower, table, data.content)[:, -1]
    wrong = lambda p: -jnp.mean(offsets(p.rest["tower"], p.tables["item"]) * data.content[:, 0])
    found = runs.fit(alike, runs.sampler(alike, 16, SIZES), data, KEY, 1e-2, 300, wrong).params
    start = runs.Start(found.rest["tower"], found.tables["item"])
    np.testing.assert_array_equal(offsets(*start) > 0, data.content[:, 0] > 0)
    np.testing.assert_array_equal(start.rows[:, :-1], 0.0)
    plan, data = runs.adapted(parts.newton(SIZES), 40, 3, SIZES), data._replace(start=start)
    sample = runs.sampler(plan, 16, SIZES)
    moved = lambda params: jnp.linalg.norm(params.tables["item"] - start.rows)
    fitted = runs.fit(plan, sample, data, KEY, 1e-2, 100, moved)
    assert (fitted.step, fitted.valid_loss, len(fitted.history)) == (0, 0.0, 1)
    kept = (fitted.params.rest["tower"], fitted.params.tables["item"])
    jax.tree.map(np.testing.assert_array_equal, kept, tuple(start))
    away = lambda params: -moved(params)
    assert runs.fit(plan, sample, data, KEY, 1e-2, 100, away).step == 100


@pytest.mark.slow
def test_the_joint_plan_moves_the_rows_of_its_batch_alone():
    plan, data = runs.joint(60, 40, 3, SIZES), data_of()
    always = lambda params: jnp.zeros(())
    fitted = runs.fit(plan, runs.sampler(plan, 8, SIZES), data, KEY, 1e-2, 1, always)
    tables, params = jax.device_get(fitted.params)
    offsets, bought = (np.asarray(x) for x in data.log[:2])
    moved = np.any(tables["user"] != 0, axis=1)
    assert 1 <= moved.sum() <= 8
    items = np.flatnonzero(np.any(tables["item"] != 0, axis=1))
    theirs = [bought[offsets[u] : offsets[u + 1]] for u in np.flatnonzero(moved)]
    assert set(items.tolist()) <= set(np.concatenate(theirs).tolist())
    assert params["learner"]["mean"].shape == (4,)


def test_the_price_of_rows_adds_up_to_the_prior():
    """Over all events once: half the precision times the squares of every item's row, once."""
    own = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    item = np.array([[0, 1, 1, 2], [1, 0, 2, 2]])
    count = np.array([2.0, 3.0, 3.0])[item]
    mask = np.ones((2, 4))
    price = jax.jit(runs.price)(own[item], mask, count)
    assert float(price) * 8 == pytest.approx(0.5 * runs.PRECISION * np.sum(own**2), rel=1e-5)


def test_gradients_of_touched_rows_are_those_of_the_dense_table():
    data = data_of()
    plan = runs.adapted(parts.newton(SIZES), 40, 3, SIZES)
    params = jax.jit(plan.init)(KEY)
    table = 0.1 * np.random.default_rng(0).normal(size=(40, SIZES.width))

    @jax.jit
    def both(table):
        draw = lambda key: rows.draw(data.log, key, SIZES.shots, runs.QUERY)
        batch = jax.vmap(draw)(jax.random.split(KEY, 3))
        index = plan.index(batch)["item"]
        about = (data.content[index], data.count[index])
        touched = touched_rows.distinct(index, index.size, 40)
        loss = lambda rows, place: plan.loss({"item": rows}, params, {"item": place}, batch, *about)
        padded = jnp.concatenate([table, jnp.zeros((1, SIZES.width))])
        by_rows = jax.grad(loss)(touched_rows.gather(table, touched.rows), touched.place)
        return touched.rows, by_rows, jax.grad(loss)(padded, index)

    touched, by_rows, dense = jax.device_get(both(table))
    real = touched < 40
    np.testing.assert_allclose(by_rows[real], dense[touched[real]], atol=1e-6)
    others = np.setdiff1d(np.arange(40), touched)
    assert len(others) and not dense[others].any() and np.abs(by_rows).max() > 1e-3


def test_what_an_arm_learned_is_read_as_it_was_stored(tmp_path):
    own = jax.device_put({"model": {"mean": np.arange(3.0)}, "rates": {"mean": np.ones(3)}})
    ecommerce_case.save(tmp_path / "a" / "arm.npz", own, jax.device_put(np.ones((4, 2))))
    back, items = ecommerce_case.read(tmp_path / "a" / "arm.npz")
    jax.tree.map(np.testing.assert_array_equal, back, own)
    assert items.shape == (4, 2)


def record(gain: dict[str, float], rise: float = 0.0) -> records.Record:
    """Accuracies of 200 users whose ridge head is ahead of each arm by so much."""
    rng = np.random.default_rng(0)
    base = 0.7 + 0.05 * rng.normal(size=(1, 200))
    scores = {}
    for arm in ecommerce_case.ARMS:
        noise = 0.01 * rng.normal(size=(1, 200))
        for k in judge.SHOTS:
            value = base + noise - gain.get(arm, 0.0) + rise * (k == 20)
            scores[records.Key("tau=1", arm, f"K={k}", "accuracy")] = value
    return records.Record("ecommerce", records.arms_of(ecommerce_case.ARMS), scores)


def test_the_registered_rules():
    case = ecommerce_case
    large = {case.JOINT: 0.1, case.TUNED: 0.02, case.HISTORY: 0.05, case.TOWERS: 0.05}
    told = ecommerce_report.verdicts(record(large), "tau=1")
    assert told == {"H1": True, "H2": True, "H3": True}
    told = ecommerce_report.verdicts(record(large | {case.HISTORY: 0.04}), "tau=1")
    assert told == {"H1": True, "H2": True, "H3": False}
    told = ecommerce_report.verdicts(record({case.JOINT: -0.1}), "tau=1")
    assert told == {"H1": False, "H2": False, "H3": False}
    assert ecommerce_report.control(record({}), "tau=1") == []
    found = ecommerce_report.control(record({case.TUNED: 0.02}), "tau=1")
    assert len(found) == 1 and "ridge head minus joint, fine-tuned: +0.0" in found[0]
    gains = ecommerce_report.control(record({}, rise=0.01), "tau=1")
    assert len(gains) == len(case.ARMS)


def test_what_the_events_add_leaves_out_what_was_ahead_before():
    """A lead of .1 at every K adds nothing; one of .03 more at K = 10 adds .03."""
    case, made = ecommerce_case, record({ecommerce_case.JOINT: 0.1})
    assert dict(ecommerce_report.gained(made, "tau=1"))[case.JOINT].mean == pytest.approx(0.0)
    made.scores[records.Key("tau=1", case.RIDGE, "K=10", "accuracy")] += 0.03
    for _, gap in ecommerce_report.gained(made, "tau=1"):
        assert gap.mean == pytest.approx(0.03) and gap.low > 0.029


def test_the_registration_keeps_its_first_date(tmp_path):
    config = ecommerce.Config(output=Output(tmp_path))
    first = ecommerce.registered(config)
    assert first["text"] == ecommerce.REGISTRATION
    assert ecommerce.registered(dataclasses.replace(config, seeds=3)) == first


@pytest.mark.slow
def test_a_small_case_runs_from_shop_to_tables(tmp_path, capsys):
    config = ecommerce.Config(
        num_users=600, num_items=3_000, start_steps=50, num_steps=50, trial_steps=50,
        rates=(3e-3,), batch=32, num_test=20, num_ranked=10, output=Output(tmp_path),
    )  # fmt: skip
    made = ecommerce.main(config)
    assert "control:" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.png"))) == 4
    truth = made.of("tau=1", ecommerce_case.TRUTH, "K=10", "log_loss")
    for arm in ecommerce_case.ARMS[:-1]:
        assert made.of("tau=1", arm, "K=10", "log_loss").mean() > truth.mean()
    again = ecommerce.run(config)
    for name, values in made.scores.items():
        np.testing.assert_allclose(again.scores[name], values, atol=1e-6)
    world = commerce.World(600, 3_000, seed=config.world_seed)
    assert made.extra["data"]["tau=1"]["events"] == commerce.offsets(world)[-1]


@pytest.mark.parametrize("experiment", [ecommerce, scaling, stream])
def test_a_missing_record_gets_one_line(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record .*; run the experiment first"):
        experiment.main(experiment.Config(output=Output(from_records=True)))


def test_the_stored_record_of_the_stream_says_what_streaming_costs(capsys):
    """The ratio printed is the median of the pairs in the file, worked out here."""
    stream.main(stream.Config(output=Output(from_records=True)))
    said = " ".join(capsys.readouterr().out.split())
    record = records.stored("stream-paper")
    arms = [record.of("stream", a, "50 steps", stream.PROCESSOR)[0] for a in record.names()]
    pairs = sorted(b / a for a, b in zip(*arms, strict=True))
    middle = (pairs[5] + pairs[6]) / 2
    assert len(pairs) == 12 and f"streamed over resident {middle:.3f}" in said
    assert "50,051,181 events" in said
