"""The outer gradient of a batch: chunks, cut supports and prepared features change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import tree
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.training import loop, outer_gradient
from metajax.types import Episode, Examples

KEY = jax.random.key(3)
SIZES = np.array([3, 9, 0, 5])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def batch() -> Episode:
    """Four tasks on rows of a table of 20, with supports of 0 to 9 rows in 12."""
    rng = np.random.default_rng(1)

    def examples(width: int, count: np.ndarray) -> Examples:
        mask = (np.arange(width)[None, :] < count[:, None]).astype(float)
        return Examples(
            jnp.asarray(rng.integers(0, 20, (4, width))),
            jnp.asarray(rng.normal(size=(4, width))),
            jnp.asarray(mask),
        )

    return Episode((), examples(12, SIZES), examples(4, np.full(4, 4)))


def parameters(num_steps: int):
    """A learner on rows, and parameters in double precision with a table of the rows beside."""
    learner = gradient(vector_mlp((6,)), optax.sgd(0.1), num_steps)
    one = Episode((), *[Examples(np.zeros((2, 3)), np.zeros(2), np.ones(2))] * 2)
    params = jax.device_get(quick(learner.init)(jax.random.key(0), one))
    params["table"] = np.random.default_rng(2).normal(size=(20, 3))
    return learner, jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


def look_up(params, episodes: Episode) -> Episode:
    rows = lambda e: e._replace(inputs=params["table"][e.inputs])
    return Episode((), rows(episodes.support), rows(episodes.query))


PREPARE = outer_gradient.Prepare(tree.under("table"), look_up)


def gradient_fn(learner, chunk_size=None, lengths=(), prepare=None) -> outer_gradient.GradientFn:
    """The outer gradient, put together from its parts."""
    tasks = outer_gradient.of_tasks(learner)
    tasks = outer_gradient.cut_to_length(tasks, lengths) if lengths else tasks
    tasks = outer_gradient.in_chunks(tasks, chunk_size) if chunk_size else tasks
    whole = outer_gradient.prepared(tasks, prepare) if prepare else outer_gradient.of_batch(tasks)
    return outer_gradient.sorted_by_length(whole) if lengths else whole


def by_hand(learner, params, episodes: Episode):
    """Task after task, each looked up on its own and cut to its own size: no mask is at work."""

    def one(params, i: int):
        cut = lambda e, n: jax.tree.map(lambda x: x[i, :n], e)
        task = Episode((), cut(episodes.support, SIZES[i]), cut(episodes.query, 4))
        return learner.loss(params, look_up(params, task), KEY)[0]

    total = lambda params: sum(one(params, i) for i in range(4)) / 4
    return quick(jax.value_and_grad(total))(params)


def close(ours, theirs, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), ours, theirs)


@pytest.mark.parametrize("num_steps", [2, 6], ids=["unrolled", "scanned"])
def test_every_way_is_the_gradient_task_by_task(num_steps):
    learner, params = parameters(num_steps)
    loss, expected = by_hand(learner, params, batch())
    for size, lengths in ((None, ()), (2, (2, 30))):
        run = quick(
            lambda p, e, size=size, lengths=lengths: gradient_fn(learner, size, lengths, PREPARE)(
                p, e, KEY
            )
        )
        grads, info = run(params, batch())
        close(grads, expected)
        np.testing.assert_allclose(info["loss"], loss, rtol=1e-12)


def test_cut_supports_without_preparation():
    learner, params = parameters(1)
    episodes = quick(look_up)(params, batch())
    del params["table"]
    run = lambda *how: quick(lambda p: gradient_fn(learner, *how)(p, episodes, KEY))(params)
    close(run(4, (1, 3)), run())


def test_a_chunk_is_computed_at_the_size_that_it_needs():
    """A learner whose loss is the width of its support shows which size was chosen."""
    learner, params = parameters(1)
    width = lambda params, episode, key: (
        params["table"][0, 0] * episode.support.mask.shape[0],
        {"width": jnp.asarray(float(episode.support.mask.shape[0]))},
    )
    learner = learner._replace(loss=width)
    run = lambda *how: quick(gradient_fn(learner, *how))(params, batch(), KEY)[1]["width"]
    # Sorted: 0 3 | 5 9, cut to 4 and 12.
    assert run(2, (2, 4)) == (4 + 12) / 2
    assert run(4, (2, 9)) == 9 and run(None, ()) == 12


def test_sizes_are_up_to_the_last_real_row():
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1.0]])
    episodes = Episode((), Examples(mask, mask, mask), Examples(mask, mask, mask))
    np.testing.assert_array_equal(quick(outer_gradient.support_sizes)(episodes), [3, 0, 4])


def test_training_on_cut_supports_is_training_on_whole_ones_and_compiles_once():
    learner, params = parameters(1)
    keys = jax.random.split(KEY, 2)
    traces = []

    def sample(data, key):
        traces.append(1)
        chosen = jax.random.randint(key, (4,), 0, 4)
        return jax.tree.map(lambda x: x[chosen], data)

    learner = learner._replace(init=lambda key, episode: params)
    fit = lambda lengths: loop.fit(
        loop.recipe(learner, optax.adam(0.01), gradient_fn(learner, 2, lengths, PREPARE)),
        sample,
        batch(),
        keys,
        6,
        block=2,
    )
    cut = fit((2, 5))
    assert len(traces) <= 4  # the first parameters and the block, at most twice each; three blocks
    close(cut.params, fit(()).params, rtol=1e-8)
    assert not np.allclose(cut.params["table"][0], params["table"])
