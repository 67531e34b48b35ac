"""Regimes: the worlds and the protocols by independent derivations; no training."""

import jax
import numpy as np
import pytest
from compiled import compiled

from experiments.large.regimes import drift, history, regimes, shelves, window
from experiments.large.regimes.world import World, forgetting, one_by_one, reader
from metajax.data.histories import sequences as histories
from metajax.learners.closed_form import ridge
from metajax.models import sequence, transformer
from metajax.models.towers import identity, vector_linear
from metajax.results import records
from metajax.settings import Output
from metajax.types import Episode, Examples, UserError

WORLD = World(dim=3, num_support=6, num_query=4)
drawn, kalman = jax.jit(WORLD.sample), jax.jit(WORLD.kalman)


def sample(keep: float, seed: int) -> Episode:
    return jax.device_get(drawn(keep, jax.random.key(seed)))


def ridge_around(world: World, episode: Episode) -> np.ndarray:
    """The Bayes predictor of a user who does not drift, by the normal equations."""
    x, y, _ = episode.support
    mean = np.asarray(world.mean)
    normal = x.T @ x + world.sigma**2 / world.tau**2 * np.eye(world.dim)
    w = mean + np.linalg.solve(normal, x.T @ (y - x @ mean))
    return episode.query.inputs @ w


def test_another_seed_is_another_world_and_every_group_has_its_own_people():
    first, second = (World(seed=seed, dim=3) for seed in (0, 1))
    assert float(np.abs(np.asarray(first.mean) - np.asarray(second.mean)).max()) > 0.1
    label_of = jax.jit(lambda w, n: w.sample(1.0, w.group(n)).support.label, static_argnums=0)
    people = [np.asarray(label_of(w, n)) for w in (first, second) for n in (1, 2)]
    apart = [float(np.abs(a - b).max()) for i, a in enumerate(people) for b in people[:i]]
    assert min(apart) > 0.1


def test_clipped_descent_takes_steps_of_the_rate_at_most():
    tx = drift.clipped(0.5)
    for gradient, expected in (([30.0, 40.0], [-0.3, -0.4]), ([0.3, 0.4], [-0.15, -0.2])):
        grads = {"a": np.array(gradient)}
        found, _ = jax.jit(tx.update)(grads, tx.init(grads))
        np.testing.assert_allclose(jax.tree.leaves(found)[0], expected, rtol=1e-6)


def test_the_filter_of_who_does_not_drift_is_ridge_regression():
    episode = sample(1.0, 0)
    found = kalman(1.0, episode)
    np.testing.assert_allclose(found, ridge_around(WORLD, episode), rtol=1e-4, atol=1e-4)


def test_the_filter_of_who_forgets_all_at_once_is_the_mean():
    episode = sample(0.0, 1)
    found = kalman(0.0, episode)
    expected = episode.query.inputs @ np.asarray(WORLD.mean)
    np.testing.assert_allclose(np.asarray(found)[1:], expected[1:], rtol=1e-5, atol=1e-5)


def test_tastes_keep_their_variance_and_correlation():
    world = World(dim=2, sigma=0.0, num_support=2, num_query=1)
    draw = jax.jit(jax.vmap(lambda key: world.sample(0.8, key)))
    episodes = jax.device_get(draw(jax.random.split(jax.random.key(0), 4000)))
    x = episodes.support.inputs
    y = episodes.support.label - x @ np.asarray(world.mean)
    # E[y_0 y_1 (x_0 . x_1)] = keep tau^2 E[(x_0 . x_1)^2], and E[y^2] = tau^2 E[x . x] = tau^2.
    inner = np.sum(x[:, 0] * x[:, 1], axis=1)
    kept = np.mean(y[:, 0] * y[:, 1] * inner) / np.mean(inner**2)
    assert abs(float(kept) - 0.8) < 0.12
    assert abs(float(np.mean(y[:, 1] ** 2)) - 1.0) < 0.1


def test_what_fades_slowly_is_ridge_and_what_fades_at_once_is_the_last_event():
    episode = sample(1.0, 2)
    learner = compiled(forgetting(3))
    params = {"mean": WORLD.mean, "log_precision": np.log(0.25), "log_fade": np.array(-30.0)}
    state = learner.adapt(params, learner.start(params, ()), episode.support, jax.random.key(0))
    found = learner.predict(params, state, episode.query.inputs)
    np.testing.assert_allclose(found, ridge_around(WORLD, episode), rtol=1e-4, atol=1e-4)
    params = {**params, "log_fade": np.log(40.0)}
    state = learner.adapt(params, learner.start(params, ()), episode.support, jax.random.key(0))
    last = jax.tree.map(lambda x: x[-1:], episode.support)
    expected = ridge_around(WORLD, episode._replace(support=last))
    found = learner.predict(params, state, episode.query.inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_fading_in_two_parts_is_fading_at_once():
    episode = sample(0.9, 3)
    learner, key = compiled(forgetting(3)), jax.random.key(0)
    params = learner.init(key, episode)
    whole = learner.adapt(params, learner.start(params, ()), episode.support, key)
    cut = lambda s: jax.tree.map(lambda x: x[s], episode.support)
    parts = learner.adapt(params, learner.start(params, ()), cut(slice(0, 2)), key)
    parts = learner.adapt(params, parts, cut(slice(2, None)), key)
    np.testing.assert_allclose(whole.precision, parts.precision, rtol=1e-5)
    np.testing.assert_allclose(whole.moment, parts.moment, rtol=1e-4, atol=1e-6)


def test_one_by_one_is_a_loop_over_the_events():
    episode = sample(0.9, 4)
    learner = compiled(ridge(identity(), vector_linear(), 3))
    key = jax.random.key(0)
    params = learner.init(key, episode)
    state = learner.start(params, ())
    together = learner.adapt(params, state, episode.support, key)
    streamed = compiled(one_by_one(learner)).adapt(params, state, episode.support, key)
    np.testing.assert_allclose(together.moment, streamed.moment, rtol=1e-5, atol=1e-6)


def test_a_reader_does_not_see_padding():
    learner = compiled(reader(WORLD, transformer.Shape(1, 8, 2, 2, 16)))
    episode = sample(1.0, 5)
    params = learner.init(jax.random.key(0), episode)
    x, y, mask = episode.support
    late = np.arange(6) >= 3
    half = Examples(x, y, np.where(late, 0.0, mask))
    other = Examples(np.where(late[:, None], 9.0, x), np.where(late, 9.0, y), half.mask)
    key, start = jax.random.key(0), learner.start(params, ())
    inputs = episode.query.inputs
    read = lambda e: learner.predict(params, learner.adapt(params, start, e, key), inputs)
    found = [read(e) for e in (half, other)]
    np.testing.assert_array_equal(*found)


draw_shelf = jax.jit(shelves.draw, static_argnames=("num_support", "num_query", "random"))


def small_pair() -> shelves.Domain:
    rng = np.random.default_rng(0)
    groups = lambda n: rng.permutation(np.searchsorted([0.6, 0.75], (np.arange(n) + 0.5) / n))
    vectors = rng.normal(size=(400, shelves.WIDTH)).astype(np.float32)
    taken = (rng.random((400, 200)) < 0.1).astype(np.float32)
    return shelves.Domain(vectors, taken, groups(400), groups(200))


def test_a_shelf_keeps_support_and_query_apart_and_tells_who_took_what():
    pair = small_pair()
    data = shelves.shelves(pair, 0)
    assert data.taken.shape == (240, 120)
    episode, who = jax.device_get(draw_shelf(data, jax.random.key(0), 30, 20, random=False))
    place = {tuple(v): i for i, v in enumerate(np.asarray(data.vectors).tolist())}
    support = {place[tuple(v)] for v in episode.support.inputs.tolist()}
    assert len(support) == 30 and not support & set(who.tolist())
    assert np.all(np.any(episode.query.label > 0, axis=1) == (episode.query.mask > 0))
    size = episode.query.label.sum(axis=0)
    assert episode.query.label.shape == (20, shelves.SHELF) and float(size.sum()) > 0


def test_a_ridge_head_without_evidence_is_popularity():
    pair = small_pair()
    data = shelves.shelves(pair, 2)
    episode, _ = jax.device_get(draw_shelf(data, jax.random.key(1), 30, 20, random=False))
    learner = compiled(shelves.ridge_head(shelves.trunk(), penalty=1e12))
    params = learner.init(jax.random.key(0), episode)
    state = learner.adapt(params, learner.start(params, ()), episode.support, jax.random.key(0))
    found = learner.predict(params, state, episode.query.inputs)
    taken = episode.support.label.sum(axis=0)
    expected = np.log((taken + 1) / 32)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-4, atol=1e-4)


def walkers(num_people: int = 8, length: int = 130, num_items: int = 160) -> histories.Sequences:
    item = np.arange(num_people)[:, None] * 7 + np.arange(length)[None, :]
    user = np.repeat(np.arange(num_people), length)
    return histories.assemble("walk", user, (item % num_items).reshape(-1))


def test_stretches_are_the_newest_items_in_order():
    data = walkers()
    rows = history.stretches(data, data.length)
    np.testing.assert_array_equal(rows.reshape(8, -1)[3], data.items[4 * 130 - 120 : 4 * 130])
    some = history.of_people(data, np.array([5, 2]))
    np.testing.assert_array_equal(some.items[:130], data.items[5 * 130 : 6 * 130])
    parts = history.groups(103)
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))


def test_places_are_those_of_a_loop():
    data = walkers(3)
    settings = sequence.Settings(data.num_items, sequence.small(8, 1, 2), dropout=0.0)
    base = jax.jit(sequence.init, static_argnums=1)(jax.random.key(0), settings)
    learner = window.implicit_head()
    params = {"base": base, "weight": np.asarray(0.0), "penalty": np.asarray(1.0)}
    read = history.window(settings, history.ROW)
    both = lambda params, state, tail: (
        read(params["base"], tail),
        sequence.item_embeddings(params["base"]),
    )
    found = history.places(settings.num_items, learner, both, params, data)
    apply = jax.jit(sequence.next_item(settings).apply)
    for j in (0, 4, 9):
        items = data.items[130 * 2 - 10 + j - (10 + j) : 130 * 2 - 10 + j]
        padded = np.zeros(20, np.int32)
        padded[: len(items)] = items
        scores = np.array(apply(base, (), (padded[None], np.array([len(items)]))))[0]
        seen = data.items[130 : 130 * 2 - 10 + j]
        target = data.items[130 * 2 - 10 + j]
        scores[np.setdiff1d(seen, [target])] = -np.inf
        assert found[1, j] == np.sum(scores > scores[target])


def test_reading_exactly_one_item_is_the_model_on_one_item():
    data = walkers(1)
    settings = sequence.Settings(data.num_items, sequence.small(8, 1, 2), dropout=0.0)
    base = jax.jit(sequence.init, static_argnums=1)(jax.random.key(0), settings)
    tail = data.items[-120:]
    found = (
        np.asarray(jax.jit(history.exactly(settings, 1))(base, tail)) @ np.asarray(base["items"]).T
    )
    rows = tail[-11:-1][:, None]
    expected = jax.jit(sequence.next_item(settings).apply)(base, (), (rows, np.ones(10, np.int32)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_tables_are_printed_from_the_record_and_a_missing_one_gets_one_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no record"):
        regimes.main(regimes.Config(output=Output(from_records=True)))

    def trained(seeds: int, steps: int, world: World, devices: int):
        return {}, {"ridge head": 3.0}, {"ridge head": {"trials": 1}}

    def judged(ready: dict, world: World, people: int):
        return {
            ("no adaptation", "still"): np.full((2, people), 4.0),
            ("ridge head", "still"): np.ones((2, people)),
        }

    monkeypatch.setattr(drift, "trained", trained)
    monkeypatch.setattr(drift, "judged", judged)
    monkeypatch.setattr(records, "require_clean", lambda changed: None)
    config = regimes.Config(output=Output(tmp_path, publish=True), window=False, domains=False)
    regimes.main(config)
    regimes.main(regimes.Config(output=Output(tmp_path, from_records=True)))
    shown = capsys.readouterr().out
    assert shown.count("ridge head - no adaptation: -3.0000 [-3.0000, -3.0000]") == 2
    assert "1.0000 [1.0000, 1.0000]" in shown and "2.0000 [2.0000, 2.0000]" in shown
    assert (tmp_path / "people-who-drift.png").stat().st_size > 5_000
