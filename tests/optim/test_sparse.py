"""Touched rows: the gradient is the dense one there, Adam's first step too, and the rest rests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.optim import touched_rows
from metajax.training import updates
from metajax.types import Episode, Examples

NUM_ROWS, WIDTH = 40, 3


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def problem():
    """Two tasks on rows of a table, a row used by both, and MAML's outer loss of looked-up rows."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(NUM_ROWS, WIDTH))
    index = np.array([[3, 5, 3, 39], [0, 5, 7, 8]])
    label = rng.normal(size=(2, 4))
    learner = gradient(vector_mlp((4,)), optax.sgd(0.1), 2)
    examples = lambda x, y: Examples(x, y, jnp.ones(y.shape))
    cut = lambda x, y: Episode((), examples(x[:2], y[:2]), examples(x[2:], y[2:]))
    params = jax.jit(learner.init)(jax.random.key(0), cut(table[index[0]], label[0]))
    params = jax.tree.map(lambda x: np.asarray(x, float), params)

    def loss(rows, params, place):
        one = lambda x, y: learner.loss(params, cut(x, y), jax.random.key(0))[0]
        return jnp.mean(jax.vmap(one)(rows[place], label))

    return table, index, params, loss


def touched(loss):
    """The gradient of a loss (rows, params, place) that looks up one table."""
    named = lambda rows, place, params, *_: (loss(rows["all"], params, place["all"]), {})
    return touched_rows.row_gradient(named, lambda index: {"all": index})


def test_the_gradient_is_the_dense_one_on_the_touched_rows():
    table, index, params, loss = problem()
    dense = jax.jit(jax.value_and_grad(lambda t, p: loss(t, p, index), (0, 1)))
    value, (to_table, to_params) = jax.device_get(dense(table, params))
    ours, info = jax.device_get(
        jax.jit(touched(loss))(
            touched_rows.Tabled({"all": table}, params), index, jax.random.key(0)
        )
    )
    rows, gradient = ours.tables["all"]
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    np.testing.assert_array_equal(rows[:6], [0, 3, 5, 7, 8, 39])
    np.testing.assert_allclose(gradient[:6], to_table[rows[:6]], rtol=1e-10)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
    jax.tree.map(close, ours.rest, to_params)
    assert np.count_nonzero(np.abs(to_table).sum(axis=1)) == 6


def test_distinct_rows_are_those_of_numpy():
    index = np.random.default_rng(0).integers(0, 20, (5, 7))
    expected, place = np.unique(index, return_inverse=True)
    for capacity in (35, len(expected)):
        found = jax.device_get(
            jax.jit(touched_rows.distinct, static_argnums=(1, 2))(index, capacity, 20)
        )
        np.testing.assert_array_equal(found.rows[: len(expected)], expected)
        assert np.all(found.rows[len(expected) :] == 20)
        np.testing.assert_array_equal(found.place, place.reshape(5, 7))


def test_the_first_step_is_adams_and_the_other_rows_rest():
    table, index, params, loss = problem()
    both = touched_rows.Tabled({"all": table}, params)
    grads, _ = jax.jit(touched(loss))(both, index, jax.random.key(0))
    update = updates.touched_rows(optax.scale_by_adam(), lambda count: 0.01)
    new, state = jax.device_get(jax.jit(update.apply)(both, jax.jit(update.init)(both), grads))
    after = touched_rows.Rows(new.tables["all"], state.memory["all"])
    dense = jax.jit(jax.grad(lambda t: loss(t, params, index)))(table)
    adam = updates.optimizer(optax.adam(0.01))
    plain, _ = jax.jit(adam.apply)(table, jax.jit(adam.init)(table), dense)
    np.testing.assert_allclose(after.value, plain, rtol=1e-10)
    untouched = np.setdiff1d(np.arange(NUM_ROWS), index)
    np.testing.assert_array_equal(after.value[untouched], table[untouched])
    np.testing.assert_array_equal(after.updates, np.isin(np.arange(NUM_ROWS), index).astype(int))


def test_rows_touched_in_each_step_move_as_with_adam_and_others_lag():
    """Row 1 in steps 1, 2 and 3; row 2 in steps 1 and 3 only, where the usual Adam differs."""
    table = np.zeros((4, 1))
    grads = np.array([[[0.5], [1.0]], [[-0.2], [0.0]], [[0.3], [-2.0]]])
    rows = [[1, 2], [1, 4], [1, 2]]
    state, lazy = touched_rows.Rows.of(table), jax.jit(touched_rows.lazy_adam)
    adam = optax.adam(0.1)
    plain, moments, usual = table, adam.init(table), jax.jit(adam.update)
    for touched, gradient_ in zip(rows, grads, strict=True):
        state = lazy(state, np.array(touched), gradient_, 0.1)
        dense = np.zeros((4, 1))
        dense[[1, 2]] = gradient_
        updates, moments = usual(dense, moments)
        plain = plain + np.asarray(updates)
    state = jax.device_get(state)
    np.testing.assert_allclose(state.value[1], plain[1], rtol=1e-7)
    assert abs(float(state.value[2, 0] - plain[2, 0])) > 1e-3
    np.testing.assert_array_equal(state.updates, [0, 3, 2, 0])
    np.testing.assert_array_equal(state.value[[0, 3]], 0)
