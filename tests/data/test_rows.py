"""Compressed rows give the same tasks as plain slices of the log."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.histories import log as rows
from metajax.types import UserError

LENGTH = np.array([4, 1, 7, 12])
OFFSETS = np.concatenate([[0], np.cumsum(LENGTH)])
ITEMS = np.arange(100, 124)
LABELS = (np.arange(24) % 3 == 0).astype(np.int8)
LOG = rows.Log.of(OFFSETS, ITEMS, LABELS)


def real(examples):
    """Items and labels of the real rows, in order; padding must be 0."""
    mask = np.asarray(examples.mask) > 0
    assert not np.asarray(examples.inputs)[~mask].any()
    assert not np.asarray(examples.label)[~mask].any()
    assert not (np.diff(mask.astype(int)) > 0).any()
    return np.asarray(examples.inputs)[mask].tolist(), np.asarray(examples.label)[mask].tolist()


@pytest.mark.parametrize("person", range(4))
@pytest.mark.parametrize("shots", [0, 2, 5])
def test_windows_are_slices(person, shots):
    take = jax.jit(functools.partial(rows.window, num_support=5, num_query=3))
    begin, end = OFFSETS[person], OFFSETS[person + 1]
    for cut in range(LENGTH[person]):
        task = take(LOG, person, cut, shots)
        known = slice(max(begin, begin + cut - shots), begin + cut)
        after = slice(begin + cut, min(end, begin + cut + 3))
        assert real(task.support) == (ITEMS[known].tolist(), LABELS[known].tolist())
        assert real(task.query) == (ITEMS[after].tolist(), LABELS[after].tolist())
        assert task.profile == person


def test_drawn_tasks_stay_within_a_person_and_know_only_what_came_before():
    draw = jax.jit(jax.vmap(lambda key: rows.draw(LOG, key, 5, 3)))
    tasks = jax.device_get(draw(jax.random.split(jax.random.key(0), 500)))
    seen = np.zeros((4, 6), int)
    for i in range(500):
        task = jax.tree.map(lambda x, i=i: x[i], tasks)
        known, after = real(task.support)[0], real(task.query)[0]
        assert 1 <= len(after) <= 3
        together = known + after
        assert together == list(range(together[0], together[0] + len(together)))
        place = np.searchsorted(OFFSETS, np.array(together) - 100, side="right") - 1
        assert set(place) == {int(task.profile)}
        seen[int(task.profile), len(known)] += 1
    assert (seen.sum(axis=1) > 90).all()
    assert (seen[3] > 0).all() and (seen[1] > 0).tolist() == [True] + [False] * 5


def test_the_latest_queries_are_the_same_at_every_shot():
    latest = jax.jit(rows.latest, static_argnums=(3, 4))
    few, many = jax.device_get([latest(LOG, np.array([2, 3]), k, 5, 3) for k in (1, 5)])
    np.testing.assert_array_equal(few.query.inputs, many.query.inputs)
    np.testing.assert_array_equal(few.query.inputs, [[109, 110, 111], [121, 122, 123]])
    assert real(jax.tree.map(lambda x: x[0], few.support))[0] == [108]
    assert real(jax.tree.map(lambda x: x[0], many.support))[0] == [105, 106, 107, 108]
    assert real(jax.tree.map(lambda x: x[1], many.support))[0] == [116, 117, 118, 119, 120]


def test_a_slice_is_a_log_of_its_own():
    part = rows.slice_of(LOG, 1, 3)
    assert part.num_people == 2
    np.testing.assert_array_equal(part.offsets, [0, 1, 8])
    whole, own = (rows.window(log, p, 2, 2, 3, 3) for log, p in ((LOG, 2), (part, 1)))
    jax.tree.map(np.testing.assert_array_equal, whole.support, own.support)


def test_a_program_does_not_grow_or_retrace_with_the_log():
    """Two logs of equal sizes and unlike lengths share a program; its gathers are as small."""
    other = rows.Log.of(np.array([0, 20, 21, 22, 24]), ITEMS, LABELS)
    take = jax.jit(chex.assert_max_traces(lambda log, k: rows.draw(log, k, 5, 3), n=1))
    take(LOG, jax.random.key(0))
    take(other, jax.random.key(1))


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="offsets must run from 0"):
        rows.Log.of(OFFSETS, ITEMS[:-1], LABELS)
    with pytest.raises(UserError, match="offsets must run from 0"):
        rows.Log.of(OFFSETS + 1, ITEMS, LABELS)
    assert LOG.labels.dtype == jnp.int8 and LOG.items.dtype == jnp.int32
