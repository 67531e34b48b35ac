"""Training: gradients in chunks, several seeds in one program, the guard and the choice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners.test_gradient import in_double
from rich.console import Console

from metajax import losses
from metajax.data.worlds.latent import LatentUsers, SineTasks
from metajax.learners.gradient.maml import gradient
from metajax.learners.pooled import pooled
from metajax.models.towers import vector_linear, vector_mlp
from metajax.training import loop, progress, updates
from metajax.types import Episode, Examples, MetaLearner, UserError

WORLD = LatentUsers(dim=3, num_support=4, num_query=4, random_shots=True)
MAML = gradient(vector_linear(), optax.sgd(0.3), 2)
KEY = jax.random.key(2)


@functools.cache
def pool() -> Episode:
    """Thirty-two tasks to draw from: cheaper to compile than their world."""
    with jax.enable_x64(False):
        return jax.jit(jax.vmap(WORLD.sample))(jax.random.split(jax.random.key(0), 32))


def four(data: Episode, key: jax.Array) -> Episode:
    """Four tasks of a pool."""
    chosen = jax.random.randint(key, (4,), 0, 32)
    return jax.tree.map(lambda x: x[chosen], data)


def start(kernel: jax.Array) -> dict:
    """Parameters of `MAML`."""
    return {"model": {"head": {"kernel": kernel}}, "rates": ()}


def test_a_gradient_in_chunks_is_the_gradient_at_once():
    with jax.enable_x64(True):
        learner = gradient(vector_mlp((4,)), optax.sgd(0.1), 1)
        episodes = in_double(jax.tree.map(lambda x: x[:6], pool()))
        one = jax.tree.map(lambda x: x[0], episodes)
        params = in_double(learner.init(jax.random.key(1), one))
        run = lambda size: loop.outer_gradient(learner, size)(params, episodes, KEY)
        at_once, in_chunks = jax.jit(lambda: (run(None), run(2)))()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            in_chunks,
            at_once,
        )


def test_the_batch_gradient_is_the_mean_of_the_tasks_gradients():
    episodes = jax.tree.map(lambda x: x[:3], pool())
    params = start(jnp.asarray([0.1, 0.2, -0.3]))
    grads, info = jax.jit(lambda: loop.outer_gradient(MAML)(params, episodes, KEY))()
    alone = jax.jit(lambda task: jax.value_and_grad(MAML.loss, has_aux=True)(params, task, KEY))
    single = [alone(jax.tree.map(lambda x, i=i: x[i], episodes)) for i in range(3)]
    expected = np.mean([g["model"]["head"]["kernel"] for _, g in single], axis=0)
    np.testing.assert_allclose(grads["model"]["head"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(info["loss"], np.mean([v for (v, _), _ in single]), rtol=1e-5)


def test_chunks_that_do_not_divide_the_batch_are_refused_in_one_line():
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UserError, match="chunks of 3 tasks do not divide a batch of 4"):
        loop.fit(
            loop.recipe(MAML, optax.sgd(0.1), loop.outer_gradient(MAML, 3)),
            four,
            pool(),
            keys,
            1,
            block=1,
        )


def test_two_seeds_in_one_program_are_each_seed_alone():
    keys = jax.random.split(jax.random.key(5), 2)
    learner = MAML._replace(init=lambda key, episode: start(jax.random.normal(key, (3,))))
    fit = lambda keys: loop.fit(
        loop.recipe(learner, optax.adam(0.01)), four, pool(), keys, 6, block=3
    )
    both, alone = fit(keys), [fit(keys[i : i + 1]) for i in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.concatenate(x), *[one.params for one in alone])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), both.params, stacked
    )
    loss = np.concatenate([one.history["loss"] for one in alone])
    np.testing.assert_allclose(both.history["loss"], loss, rtol=1e-4)
    assert not np.allclose(loss[0], loss[1])


def counter(breaks_at: float = np.inf) -> MetaLearner:
    """A learner whose parameter is the number of steps taken, if the outer rate is 1.

    Its loss is not a number once the parameter has reached ``breaks_at``.
    """

    def loss(params, episode: Episode, key: jax.Array):
        del episode, key
        value = jnp.where(params["steps"] >= breaks_at, jnp.nan, -params["steps"])
        return value, {}

    return MAML._replace(init=lambda key, episode: {"steps": jnp.zeros(())}, loss=loss)


def count(num_steps: int, block: int, breaks_at: float = np.inf, num_seeds: int = 2, **options):
    keys = jax.random.split(jax.random.key(0), num_seeds)
    learner, tx = counter(breaks_at), optax.sgd(1.0)
    return loop.fit(loop.recipe(learner, tx), four, pool(), keys, num_steps, block=block, **options)


@pytest.mark.parametrize(("breaks_at", "step"), [(0, 1), (3, 4), (5, 6)])
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(breaks_at, step):
    """The parameter is s - 1 in step s, so that it reaches b in step b + 1."""
    with pytest.raises(UserError, match=rf"not finite at outer step {step}; lower the inner"):
        count(8, block=4, breaks_at=breaks_at)


def test_the_parameters_that_were_best_on_validation_are_kept():
    """After block i the parameter is 2 i; the validation score has its minimum at 6 and 7."""
    fitted = count(12, block=2, validate=lambda params: (params["steps"] - 6.4) ** 2)
    np.testing.assert_array_equal(fitted.params["steps"], [6.0, 6.0])
    np.testing.assert_array_equal(fitted.best_step, [6, 6])
    np.testing.assert_array_equal(fitted.state.params["steps"], [12.0, 12.0])
    expected = (np.arange(2, 14, 2) - 6.4) ** 2
    np.testing.assert_allclose(fitted.history["valid"], np.stack([expected] * 2), rtol=1e-5)


@pytest.mark.parametrize(("patience", "end"), [(0, 12), (2, 10), (4, 12), (1000, 12)])
def test_training_ends_at_the_plateau_of_the_last_seed(patience, end):
    """A seed is best at 4 or at 8, by its key; the validation score is checked every 2 steps."""
    best = lambda key, _: {"steps": 0.0, "best": jnp.where(jax.random.bernoulli(key), 4.0, 8.0)}
    fitted = loop.fit(
        loop.recipe(counter()._replace(init=best), optax.sgd(1.0)),
        four,
        pool(),
        jax.random.split(jax.random.key(0), 8),
        12,
        block=2,
        validate=lambda params: (params["steps"] - params["best"]) ** 2,
        patience=patience,
    )
    assert set(fitted.best_step) == {4, 8}
    np.testing.assert_array_equal(fitted.best_step, fitted.params["best"])
    np.testing.assert_array_equal(fitted.state.params["steps"], 8 * [end])
    assert fitted.history["valid"].shape == (8, end // 2)


def test_without_validation_the_last_parameters_are_kept():
    fitted = count(6, block=3)
    np.testing.assert_array_equal(fitted.params["steps"], [6.0, 6.0])
    np.testing.assert_array_equal(fitted.best_step, [6, 6])
    # Losses 0, -1, -2 and -3, -4, -5.
    np.testing.assert_allclose(fitted.history["loss"], [[-1.0, -4.0]] * 2)


def test_steps_that_blocks_do_not_divide_are_all_done_and_no_more():
    """Seven steps in blocks of three: the last block is one step."""
    calls = []
    fitted = count(7, block=3, report=lambda done, metrics: calls.append(done))
    assert calls == [3, 6, 7]
    np.testing.assert_array_equal(fitted.state.step, [7, 7])
    np.testing.assert_array_equal(fitted.params["steps"], [7.0, 7.0])
    np.testing.assert_allclose(fitted.history["loss"], [[-1.0, -4.0, -6.0]] * 2)
    straight = count(7, block=7)
    np.testing.assert_array_equal(
        jax.random.key_data(straight.state.key), jax.random.key_data(fitted.state.key)
    )


def test_a_block_is_no_longer_than_the_run():
    fitted = count(5, block=100)
    np.testing.assert_array_equal(fitted.state.step, [5, 5])
    assert fitted.history["loss"].shape == (2, 1)


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="0 outer steps train nothing"):
        count(0, block=2)


def broken_recipe(what: str, step: int, only_seed: int | None = None) -> loop.Recipe:
    """A recipe that counts its steps and breaks one thing in one step, of one seed or of all.

    Seeds are told apart by a parameter that stays as it is.
    """

    def init(key, batch):
        del batch
        return {"steps": jnp.zeros(()), "seed": jax.random.key_data(key)[-1].astype(float)}

    first = jax.random.split(jax.random.split(jax.random.key(0), 2)[0])[0]
    seed_0 = jax.random.key_data(first)[-1].astype(float)

    def hit(params, name):
        of_seed = jnp.bool_(True)
        if only_seed is not None:
            of_seed = (params["seed"] == seed_0) == (only_seed == 0)
        return (name == what) & (params["steps"] == step - 1) & of_seed

    def gradient_fn(params, batch, key):
        del batch, key
        loss = jnp.where(hit(params, "loss"), jnp.inf, -params["steps"])
        slope = jnp.where(hit(params, "gradient"), jnp.nan, -1.0)
        return {"steps": slope, "seed": jnp.zeros(())}, {"loss": loss}

    def apply(params, state, grads):
        moved = params["steps"] - grads["steps"]
        moved = jnp.where(hit(params, "parameters"), -jnp.inf, moved)
        return {"steps": moved, "seed": params["seed"]}, state

    return loop.Recipe(init, gradient_fn, updates.Update(lambda params: (), apply))


def fit_broken(what: str, step: int, only_seed: int | None = None, **options) -> loop.Fitted:
    keys = jax.random.split(jax.random.key(0), 2)
    return loop.fit(broken_recipe(what, step, only_seed), four, pool(), keys, 8, block=3, **options)


SAID = {
    "loss": "the loss of seed 0 is not finite at outer step {}; lower the inner or outer rate",
    "gradient": "the gradient of seed 0 is not finite at outer step {}, and the loss is",
    "parameters": "the parameters of seed 0 are not finite after outer step {}, and loss and",
}


@pytest.mark.parametrize("step", [1, 3, 5, 8])
@pytest.mark.parametrize("what", list(SAID))
def test_the_first_thing_that_is_not_finite_is_named_with_its_step(what, step):
    """In the first and the last step of a block, within one, and in the last of the run."""
    with pytest.raises(UserError) as refusal:
        fit_broken(what, step)
    assert str(refusal.value).startswith(SAID[what].format(step))


def test_a_validation_score_that_is_not_finite_is_named_too():
    validate = lambda params: jnp.where(params["steps"] > 5, jnp.nan, -params["steps"])
    with pytest.raises(UserError, match="validation score of seed 0 is not finite after outer ste"):
        count(8, block=2, validate=validate)


def test_first_parameters_that_are_not_finite_are_refused():
    recipe = broken_recipe("nothing", 1)
    recipe = recipe._replace(init=lambda key, batch: {"steps": jnp.nan, "seed": jnp.zeros(())})
    with pytest.raises(UserError, match="the first parameters are not finite"):
        loop.fit(recipe, four, pool(), jax.random.split(KEY, 2), 2)


@pytest.mark.parametrize("what", list(SAID))
def test_a_seed_that_diverges_keeps_its_best_and_the_others_go_on(what):
    """Seed 1 breaks in step 5 of 8, in the second block of three: step 3 is its last good one."""
    fitted = fit_broken(what, 5, 1, go_on=True)
    assert [(d.seed, d.step) for d in fitted.diverged] == [(1, 5)]
    assert str(fitted.diverged[0]).startswith(SAID[what].format(5).replace("seed 0", "seed 1"))
    np.testing.assert_array_equal(fitted.params["steps"], [8.0, 3.0])
    np.testing.assert_array_equal(fitted.best_step, [8, 3])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(fitted.state.params))


def test_a_seed_that_diverges_keeps_what_was_best_on_validation():
    best_at_three = lambda params: (params["steps"] - 3.0) ** 2
    fitted = fit_broken("loss", 8, 1, go_on=True, validate=best_at_three)
    np.testing.assert_array_equal(fitted.params["steps"], [3.0, 3.0])
    assert [(d.seed, d.step) for d in fitted.diverged] == [(1, 8)]


def test_a_seed_that_diverges_at_once_keeps_its_first_parameters():
    fitted = fit_broken("gradient", 1, go_on=True)
    np.testing.assert_array_equal(fitted.params["steps"], [0.0, 0.0])
    assert [d.step for d in fitted.diverged] == [1, 1]


def test_parameters_that_are_returned_are_finite():
    """The gradient of a square root at 0, met at step 2, is infinite where the loss is fine."""
    learner = gradient(vector_linear(), optax.sgd(0.01), 2)

    def rooted(params, episode, key):
        value, info = learner.loss(params, episode, key)
        few = episode.support.mask.sum() == 0
        return value + jnp.sqrt(jnp.where(few, 0.0, 1.0) * value), info

    recipe = loop.recipe(learner._replace(loss=rooted), optax.adam(1e-3))
    tasks = loop.world_sampler(LatentUsers(random_shots=True), num_tasks=8)
    fit = lambda **options: loop.fit(
        recipe, tasks, (), jax.random.split(jax.random.key(0), 1), 2, block=2, **options
    )
    with pytest.raises(UserError, match="gradient of seed 0 is not finite at outer step 2"):
        fit()
    fitted = fit(go_on=True)
    assert fitted.diverged and np.isfinite(fitted.params["model"]["head"]["kernel"]).all()


def test_a_title_shows_a_bar_on_a_terminal(monkeypatch, capfd):
    made = lambda stderr: Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", made)
    count(6, block=2, title="counting")
    assert "counting" in (shown := capfd.readouterr().err) and "6/6" in shown


def test_a_report_comes_after_every_block():
    calls = []
    count(6, block=2, report=lambda steps, metrics: calls.append((steps, metrics["loss"])))
    assert calls == [(2, -0.5), (4, -2.5), (6, -4.5)]


def sine_losses(learner: MetaLearner, num_steps: int) -> dict[str, float]:
    """Query MSE over 600 tasks of 100 query points and 3 seeds, before and after training."""
    world = SineTasks(num_support=10, num_query=10)
    keys = jax.random.split(jax.random.key(0), 3)
    fitted = loop.fit(
        loop.recipe(learner, optax.adam(1e-3)),
        loop.world_sampler(world, 25),
        (),
        keys,
        num_steps,
        block=num_steps,
    )
    test = SineTasks(num_support=10, num_query=100)

    def judge(params, key):
        episode = test.sample(key)
        state = learner.adapt(params, learner.start(params, ()), episode.support, key)
        query: Examples = episode.query
        return losses.squared_error(
            learner.predict(params, state, query.inputs), query.label, query.mask
        )

    run = jax.jit(jax.vmap(judge, (None, 0)))
    tasks = jax.random.split(jax.random.key(77), 600)
    first = learner.init(jax.random.key(0), test.sample(jax.random.key(0)))
    after = jax.lax.map(lambda params: run(params, tasks).mean(), fitted.params).mean()
    return {"before": float(run(first, tasks).mean()), "after": float(after)}


def test_a_short_run_on_sines_learns():
    measured = sine_losses(gradient(vector_mlp((20,)), optax.sgd(0.01), 1), 300)
    assert measured["after"] < 0.9 * measured["before"]


@pytest.mark.slow
@pytest.mark.parametrize(("second_order", "most"), [(True, 0.70), (False, 0.80)])
def test_sines_reach_the_published_neighborhood(second_order, most):
    """15,000 steps at K = 10: 0.650 +- 0.054 with MAML, 0.740 +- 0.065 with FOMAML."""
    learner = gradient(vector_mlp(), optax.sgd(0.01), 1, second_order=second_order)
    assert sine_losses(learner, 15_000)["after"] <= most


def test_joint_training_does_not_see_tasks():
    """On sines the pooled learner cannot do better than the mean of all sines, which is near 0."""
    learner = pooled(vector_mlp((20,)))
    measured = sine_losses(learner, 300)
    # The label's mean square is E a^2 / 2 = (5^3 - .1^3) / (3 * 4.9) / 2 = 4.25, of which a mean
    # sine of amplitude (2 / pi) E a = 1.62 explains 1.62^2 / 2 = 1.32.
    assert measured["after"] > 2.5
