"""Search: hypergradients against exact optima, the budget curve against enumeration, TPE."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize_scalar

from experiments.tools import search as tuning
from metajax.data.worlds.latent import LatentUsers
from metajax.learners.gradient.maml import gradient
from metajax.models import towers
from metajax.results import records
from metajax.settings import Output, Training
from metajax.tuning import search
from metajax.types import UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)) @ np.diag([2.0, 1.5, 1.0, 0.5, 0.3, 0.2])
Y = X @ RNG.normal(size=6) + 1.5 * RNG.normal(size=24)


def leave_one_out(log_penalty: float) -> float:
    """The exact leave-one-out error of ridge: residuals divided by 1 - leverage (PRESS)."""
    hat = X @ np.linalg.solve(X.T @ X + np.exp(log_penalty) * np.eye(6), X.T)
    return float(np.mean(((Y - hat @ Y) / (1 - np.diag(hat))) ** 2))


@pytest.fixture(scope="module")
def exact() -> float:
    return float(minimize_scalar(leave_one_out, bounds=(-6, 8), method="bounded").x)


def fold_loss(make):
    """settings -> mean error over the 24 folds, each an inner problem of its own."""
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)

    def fold(i, log_penalty):
        keep = 1.0 - jax.nn.one_hot(i, 24)
        inner = lambda w, s: (
            0.5 * jnp.sum(keep * (x @ w - y) ** 2) + 0.5 * jnp.exp(s) * jnp.sum(w**2)
        )
        outer = lambda w, s: (x[i] @ w - y[i]) ** 2
        return make(inner, outer, x * keep[:, None], y)(log_penalty)

    return lambda s: jnp.mean(jax.vmap(fold, (0, None))(jnp.arange(24), s))


def by_implicit(inner, outer, x, y):
    solve = lambda s: jnp.linalg.solve(x.T @ x + jnp.exp(s) * jnp.eye(6), x.T @ y)
    return search.implicit(inner, outer, solve)


def by_unrolling(inner, outer, x, y):
    return search.unrolled(inner, outer, jnp.zeros(6), 3000, lambda s: 1.0 / (150.0 + jnp.exp(s)))


@pytest.mark.parametrize("make", [by_implicit, by_unrolling])
def test_the_hypergradient_is_the_slope_of_the_exact_leave_one_out_error(make):
    for log_penalty in (0.0, 2.0):
        slope = jax.grad(fold_loss(make))(jnp.float32(log_penalty))
        h = 1e-4
        exact = (leave_one_out(log_penalty + h) - leave_one_out(log_penalty - h)) / (2 * h)
        assert float(slope) == pytest.approx(exact, rel=0.02, abs=2e-3)


def test_descent_finds_the_penalty_of_ridge_to_one_per_cent(exact):
    starts = jnp.array([-3.0, 0.0, 5.0])
    found = search.descend(fold_loss(by_implicit), starts, 400)
    assert np.exp(float(found.settings)) == pytest.approx(np.exp(exact), rel=0.01)
    assert found.losses.shape == (3, 400)
    ends = np.asarray(
        [search.descend(fold_loss(by_implicit), starts[i : i + 1], 400).loss for i in range(3)]
    )
    np.testing.assert_allclose(ends, leave_one_out(exact), rtol=1e-3)


def test_descent_tunes_the_inner_rate_as_a_grid_does():
    """The knob is the size of a learner's own gradient steps, through adaptation."""
    world = LatentUsers(dim=3, num_support=8, num_query=8)
    tasks = jax.vmap(world.sample)(jax.random.split(jax.random.key(0), 64))
    params = gradient(towers.vector_linear(), optax.sgd(0.1), 3).init(
        jax.random.key(1), jax.tree.map(lambda x: x[0], tasks)
    )

    def loss(log_rate):
        learner = gradient(towers.vector_linear(), optax.sgd(jnp.exp(log_rate)), 3)
        keys = jax.random.split(jax.random.key(2), 64)
        return jnp.mean(jax.vmap(learner.loss, (None, 0, 0))(params, tasks, keys)[0])

    grid = jnp.linspace(-4.0, 1.0, 201)
    values = np.asarray(jax.jit(jax.vmap(loss))(grid))
    found = search.descend(loss, jnp.array([-3.0, -1.5]), 150)
    assert float(found.settings) == pytest.approx(float(grid[np.nanargmin(values)]), abs=0.03)


def test_a_start_that_diverges_is_left_behind():
    loss = lambda s: jnp.where(s > 5.0, jnp.nan, (s - 1.0) ** 2)
    found = search.descend(loss, jnp.array([9.0, 0.0]), 200)
    assert float(found.settings) == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(UserError, match="not finite from any start"):
        search.descend(loss, jnp.array([9.0]), 3)


def test_the_budget_curve_is_the_mean_over_all_draws():
    scores = [0.3, 0.1, 0.4, 0.2]
    for n in (1, 2, 3):
        draws = [min(draw) for draw in itertools.product(scores, repeat=n)]
        assert search.expected_best(scores)[n - 1] == pytest.approx(np.mean(draws))


SPACE = {"x": search.Real(-2.0, 2.0), "k": search.Whole(1, 5), "c": search.Choice(("a", "b"))}


def bowl(settings, watch) -> float:
    watch(1, {"valid": 9.0})
    return (settings["x"] - 0.5) ** 2 + 0.1 * (settings["k"] - 3) ** 2 + (settings["c"] == "b")


def test_tpe_finds_the_bowl_and_names_what_matters():
    pytest.importorskip("optuna")
    found = search.tune(bowl, SPACE, 40)
    assert found.best["c"] == "a" and abs(found.best["x"] - 0.5) < 0.4 and found.score < 0.3
    assert len(found.trials) == 40 and set(found.importance) == set(SPACE)
    assert sum(found.importance.values()) == pytest.approx(1.0)


def test_a_search_goes_on_where_it_stood_and_stops_when_done(tmp_path):
    pytest.importorskip("optuna")
    calls = []

    def counted(settings, watch):
        calls.append(settings)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return bowl(settings, watch)

    with pytest.raises(KeyboardInterrupt):
        search.tune(counted, SPACE, 6, folder=tmp_path)
    found = search.tune(counted, SPACE, 6, folder=tmp_path)
    done = [t for t in found.trials if t.state == "complete"]
    assert len(done) == 5 and len(calls) == 6, "the interrupted trial counts as a failed one"
    again = search.tune(counted, SPACE, 6, folder=tmp_path)
    assert len(calls) == 6 and again.best == found.best


def test_hopeless_trials_are_pruned_and_diverged_ones_survived():
    pytest.importorskip("optuna")
    steps = []

    def objective(settings, watch):
        if settings["x"] < -1.0:
            raise UserError("the loss is not finite")
        for step in range(1, 11):
            watch(step, {"valid": settings["x"] + 10.0 / step})
            steps.append(step)
        return settings["x"]

    found = search.tune(objective, {"x": search.Real(-2.0, 2.0)}, 25)
    states = {t.state for t in found.trials}
    assert {"complete", "pruned"} <= states and len(steps) < 250
    assert found.score >= -1.0
    nothing = {"x": search.Real(-2.0, -1.5)}
    with pytest.raises(UserError, match="every run diverged"):
        search.tune(objective, nothing, 2)


def test_ranges_are_read_and_mistakes_told():
    space = tuning.parse_space(["a=log:0.1:1", "b=real:0:2", "c=int:1:4", "d=of:x,y"])
    assert space == {
        "a": search.Real(0.1, 1.0, True),
        "b": search.Real(0.0, 2.0),
        "c": search.Whole(1, 4),
        "d": search.Choice(("x", "y")),
    }
    for wrong in ("a", "a=log:1", "a=int:0.5:2", "a=maybe:1:2"):
        with pytest.raises(UserError, match="is no setting with its range"):
            tuning.parse_space([wrong])


@pytest.mark.slow
def test_the_command_tunes_an_experiment_and_goes_on(tmp_path):
    pytest.importorskip("optuna")
    config = tuning.Config(
        "maml",
        ("inner_rate=log:0.01:0.5", "inner_steps=int:1:2"),
        output=Output(tmp_path),
        training=Training(seeds=1, num_steps=8, num_tasks=4),
        trials=2,
    )
    tuning.main(config)
    tuning.main(dataclasses.replace(config, trials=3))
    made = records.stored("search-maml-synthetic", tmp_path)
    assert len(made.extra["trials"]) == 3 and set(made.extra["best"]) == {
        "inner_rate",
        "inner_steps",
    }
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "budget.png",
        "importance.png",
        "parallel.png",
    }
    assert "opened" not in str(made.extra)


@pytest.mark.parametrize(
    ("experiment", "space", "said"),
    [
        ("nothing", "a=int:1:2", "experiment 'nothing' cannot be tuned"),
        ("maml", "inner_speed=log:1:2", "no setting 'inner_speed'; there are inner_rate"),
        ("maml", "hidden=of:a,b", "'hidden' is no number and no word"),
    ],
)
def test_a_search_that_cannot_be_made_is_told_before_any_work(experiment, space, said):
    with pytest.raises(UserError, match=said):
        tuning.main(tuning.Config(experiment, (space,)))
