"""Updaters, anchors, buffers and the drifting world against laws and pencil arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_linear
from metajax.online import anchor, buffers, leaders, updaters
from metajax.online.buffers import Kept
from metajax.online.drift import DriftStream, tracker
from metajax.online.meta import asked_of, meta
from metajax.online.prequential import prequential
from metajax.types import Episode, Examples, MetaLearner

KEY = jax.random.key(0)


def bowl() -> MetaLearner:
    """A learner whose outer loss is (theta - label)^2 / 2: its gradient is known."""

    def loss(params, episode, key):
        value = 0.5 * (params["w"] - episode.query.label[0]) ** 2
        return value, {"query_loss": value}

    nothing = lambda *args: jnp.zeros(())
    return MetaLearner(nothing, nothing, nothing, nothing, loss)


def told(*labels: float) -> tuple[Episode, jax.Array]:
    """Tasks of the bowl, one for each label, and their mask."""
    n = len(labels)
    rows = Examples(np.zeros((n, 1, 1)), np.array(labels)[:, None], np.ones((n, 1)))
    return jax.device_put((Episode((), rows, rows), np.ones(n)))


def one_task() -> Episode:
    """A task of the bowl, whose shapes a state begins with."""
    return jax.tree.map(lambda x: np.asarray(x)[0], told(0.0)[0])


def after(updater, params, rounds) -> list[float]:
    """The parameter after each round."""
    updater = compiled(updater)
    state = updater.init(params, one_task())
    found = []
    for labels in rounds:
        state, params = updater.update(state, params, *told(*labels), KEY)
        found.append(float(params["w"]))
    return found


def test_the_pull_alone_obeys_its_law_to_rounding():
    """theta_t - theta_0 = (1 - alpha)^t (theta_start - theta_0), in both readings."""
    begin, base = {"w": np.array([4.0, -1.0])}, {"w": np.array([1.0, 1.0])}
    for make in (anchor.decay_to, anchor.average_with):
        for alpha in (0.0, 0.01, 0.1, 1.0):
            tx, params = make(base, alpha), begin
            state, update = tx.init(params), jax.jit(tx.update)
            for _ in range(20):
                updates, state = update({"w": np.zeros(2)}, state, params)
                params = {"w": params["w"] + np.asarray(updates["w"])}
            want = base["w"] + (1 - alpha) ** 20 * (begin["w"] - base["w"])
            np.testing.assert_allclose(params["w"], want, rtol=1e-5)


def test_behind_a_step_the_average_shrinks_it_and_the_decay_does_not():
    base, params = {"w": jnp.array(0.0)}, {"w": jnp.array(2.0)}
    updates = {"w": jnp.array(1.0)}
    for make, want in ((anchor.decay_to, 1.0 - 0.2), (anchor.average_with, 1.0 - 0.3)):
        tx = make(base, 0.1)
        assert float(tx.update(updates, tx.init(params), params)[0]["w"]) == pytest.approx(want)


def test_a_random_anchor_has_the_norm_of_the_other():
    base = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    drawn = jax.jit(anchor.random_anchor)(KEY, base)
    assert float(jax.jit(optax.tree.norm)(drawn)) == pytest.approx(5.0, rel=1e-5)


def test_one_outer_step_is_that_of_the_optimizer():
    found = after(updaters.newest(bowl(), optax.sgd(0.5)), {"w": jnp.array(0.0)}, [[2.0], [4.0]])
    assert found == [1.0, 2.5]


def test_the_leader_over_everything_comes_to_the_mean_and_the_buffer_of_one_to_the_last():
    start, rounds = {"w": jnp.array(0.0)}, [[1.0], [2.0], [6.0]] * 20
    every = updaters.leader(bowl(), optax.sgd(0.05), buffers.reservoir(100), 20, 8)
    last = updaters.leader(bowl(), optax.sgd(0.2), buffers.newest(1), 20, 1)
    assert after(every, start, rounds)[-1] == pytest.approx(3.0, abs=0.5)
    assert after(last, start, rounds)[-3:] == pytest.approx([1.0, 2.0, 6.0], abs=0.1)


def test_a_retrain_begins_anew_and_only_when_it_is_due():
    window = updaters.retrained(bowl(), optax.sgd(0.5), buffers.newest(1), 2, 1, 1)
    found = after(window, {"w": jnp.array(0.0)}, [[8.0], [4.0], [8.0], [6.0]])
    assert found == [0.0, 2.0, 2.0, 3.0]  # half of the newest label, from 0 each time


def test_moml_is_its_recursion_and_comes_to_where_the_mean_gradient_is_zero():
    """Labels 1 and 3 in turn; each minimum is known: (y + c + weight w) / (1 + weight)."""
    start, rounds = {"w": jnp.array(0.0)}, [[1.0], [3.0]] * 100
    for weight in (1.0, 10.0):
        w, c, want = 0.0, 0.0, []
        for (y,) in rounds:
            theta = (y + c + weight * w) / (1 + weight)
            c = c - weight * (theta - w)
            w = (w + theta) / 2 - c / (2 * weight)
            want.append(w)
        found = after(leaders.balanced(bowl(), weight, 0.5 / (1 + weight), 30), start, rounds)
        np.testing.assert_allclose(found, want, atol=1e-3)
        assert np.mean(found[-2:]) == pytest.approx(2.0, abs=0.02)
    updater = leaders.balanced(bowl(), 1.0, 0.25, 200)
    state = updater.init(start, one_task())
    state, _ = jax.jit(updater.update)(state, start, *told(2.0), KEY)
    # theta minimizes (x - 2)^2 / 2 + x^2 / 2: 1, where the gradient of the first is -1
    assert float(state.correction["w"]) == pytest.approx(-1.0, abs=1e-4)
    assert float(state.average["w"]) == pytest.approx(0.5 + 0.5, abs=1e-4)


def test_form_is_ftrl_over_meta_gradients():
    """The same as the row optimizer, whose oracle is an explicit minimum."""
    from metajax.online import rows

    optimizer = compiled(rows.ftrl(0.3, 1.0, 0.0, 0.2))
    slots, index = optimizer.init(np.zeros((1, 1))), np.zeros(1, np.int32)
    w, want = 0.0, []
    for label in (2.0, -1.0, 4.0, 4.0):
        slots = optimizer.step(slots, index, np.full((1, 1), w - label))
        w = float(np.asarray(optimizer.read(slots, index))[0, 0])
        want.append(w)
    updater = leaders.regularized_leader(bowl(), 0.3, l2=0.2)
    found = after(updater, {"w": jnp.array(0.0)}, [[2.0], [-1.0], [4.0], [4.0]])
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_la_maml_learns_its_rates_first_and_stops_at_negative_ones():
    """Loss w^2 / 2 + 3 a: the rate goes down by 0.1 * 3, then w by max(a, 0) w."""

    def loss(params, episode, key):
        value = 0.5 * params["model"]["w"] ** 2 + 3.0 * params["rates"]["w"]
        return value, {"query_loss": value}

    learner = bowl()._replace(loss=loss)
    params = {"model": {"w": jnp.array(2.0)}, "rates": {"w": jnp.array(0.5)}}
    update = jax.jit(leaders.la_maml(learner, 0.1).update)
    _, params = update((), params, *told(0.0), KEY)
    assert float(params["rates"]["w"]) == pytest.approx(0.2)
    assert float(params["model"]["w"]) == pytest.approx(2.0 - 0.2 * 2.0)
    _, params = update((), params, *told(0.0), KEY)
    assert float(params["rates"]["w"]) == pytest.approx(-0.1)
    assert float(params["model"]["w"]) == pytest.approx(1.6)


def kept_after(buffer: buffers.Buffer, count: int) -> list[float]:
    kept, add = jax.jit(buffer.init)(one_task()), jax.jit(buffer.add)
    for i in range(count):
        kept = add(kept, *told(float(i)))
    return np.asarray(kept.tasks.query.label)[:, 0].tolist()


def test_buffers_keep_the_newest_or_an_even_sample():
    assert sorted(kept_after(buffers.newest(3), 10)) == [7.0, 8.0, 9.0]
    two = buffers.newest(2)
    many = jax.jit(two.add)(jax.jit(two.init)(one_task()), *told(1.0, 2.0, 3.0))
    assert sorted(np.asarray(many.tasks.query.label)[:, 0].tolist()) == [2.0, 3.0]
    assert sorted(kept_after(buffers.reservoir(20), 10))[-10:] == list(map(float, range(10)))


def test_a_reservoir_has_the_old_and_the_new_alike():
    """A sample of 60 of the numbers below 1200: its mean is 600 +- 45, no third is short."""
    buffer = buffers.reservoir(60)
    kept = jax.jit(buffer.init)(one_task())
    kept = jax.jit(buffer.add)(kept, *told(*map(float, range(1200))))
    sample = np.asarray(kept.tasks.query.label)[:, 0]
    assert len(set(sample.tolist())) == 60 and abs(sample.mean() - 600) < 120
    assert np.histogram(sample, 3, (0, 1200))[0].min() >= 8


def test_without_drift_one_hypothesis_is_bayes_by_direct_conditioning():
    """All labels of two tasks are jointly Gaussian: condition on what was seen."""
    world = DriftStream(dim=2, tau=0.7, sigma=0.5, walk=0.3, num_support=2, num_query=2)
    stream = jax.jit(world.stream, static_argnums=1)(jax.random.key(3), 2)
    online = tracker(world, 1)
    run = jax.jit(lambda rounds: prequential(online, online.init(KEY), rounds)[1])
    found = run(stream.rounds)
    tasks = jax.tree.map(lambda x: np.asarray(x, np.float64)[:, 0], stream.rounds.told.tasks)
    x = np.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)
    y = np.concatenate([tasks.support.label, tasks.query.label], axis=1)
    between = lambda s, t: (
        np.eye(2) * (1.0 + world.walk**2 * min(s, t))
        + (np.eye(2) * world.tau**2 if s == t else 0.0)
    )
    cover = np.block([[x[s] @ between(s, t) @ x[t].T for t in (0, 1)] for s in (0, 1)])
    seen, asked = np.arange(6), np.array([6, 7])
    known = cover[np.ix_(seen, seen)] + world.sigma**2 * np.eye(6)
    want = cover[np.ix_(asked, seen)] @ np.linalg.solve(known, y.reshape(-1)[seen])
    np.testing.assert_allclose(np.asarray(found)[1, 0], want, atol=1e-4)


def test_no_learner_beats_the_tracker_and_it_finds_jumps():
    world = DriftStream(dim=3, tau=0.2, sigma=0.3, jump=0.05)
    streams = jax.jit(jax.vmap(lambda key: world.stream(key, 60)))
    stream = jax.device_get(streams(jax.random.split(KEY, 8)))
    loss = lambda found: float(np.mean((np.asarray(found) - stream.rounds.label) ** 2))
    run = lambda online: jax.jit(
        jax.vmap(lambda rounds: prequential(online, online.init(KEY), rounds)[1])
    )(stream.rounds)
    best = loss(run(tracker(world, 40)))
    blind = loss(run(tracker(DriftStream(dim=3, tau=0.2, sigma=0.3), 1)))
    learner = gradient(vector_linear(), optax.sgd(0.3), 3)
    task = jax.tree.map(lambda x: x[0, 0, 0], stream.rounds.told.tasks)
    start = jax.jit(learner.init)(KEY, task)
    rival = loss(run(meta(learner, updaters.newest(learner, optax.sgd(0.3)), start, task)))
    assert best < blind and best < rival


def test_independent_tasks_make_ftml_the_offline_learner():
    """No drift: the same steps on the same number of tasks, in any order, come to one place."""
    world = DriftStream(dim=3, tau=0.3, num_query=5)
    stream = jax.jit(world.stream, static_argnums=1)(jax.random.key(5), 200)
    stream = jax.device_get(stream)
    learner = gradient(vector_linear(), optax.sgd(0.1), 1)
    tasks = jax.device_put(jax.tree.map(lambda x: x[:, 0], stream.rounds.told.tasks))
    task = jax.tree.map(lambda x: x[0], tasks)
    start = jax.jit(learner.init)(KEY, task)
    ftml = updaters.leader(learner, optax.adam(0.02), buffers.reservoir(256), 2, 8)
    online = meta(learner, ftml, start, task)
    state, _ = jax.jit(lambda s, r: prequential(online, s, r))(online.init(KEY), stream.rounds)
    descend = updaters.descend(learner, optax.adam(0.02), 400, 8)
    kept = Kept(tasks, np.asarray(200))
    offline, _ = jax.jit(descend)(start, optax.adam(0.02).init(start), kept, KEY)
    asked = asked_of(tasks)

    @jax.jit
    def answers(params):
        one = lambda a: learner.predict(
            params, learner.adapt(params, learner.start(params, ()), a.support, KEY), a.inputs
        )
        return jax.vmap(one)(asked)

    errors = [
        ((np.asarray(answers(p)) - tasks.query.label) ** 2).mean(axis=1)
        for p in (state.params, offline)
    ]
    gap = errors[0] - errors[1]
    assert abs(gap.mean()) < 2 * gap.std() / len(gap) ** 0.5 + 0.02
