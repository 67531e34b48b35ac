"""Samplers of tasks: the determinantal mode against brute force, what each prefers, the worlds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data import diversity
from metajax.data.worlds.modes import UserModes
from metajax.types import UserError

GROUPS = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0) * 10
POOL = diversity.Pool(np.arange(100), GROUPS, np.arange(100, dtype=np.float32))
POOL = jax.tree.map(jnp.asarray, POOL)
KEYS = jax.random.split(jax.random.key(0), 200)


def drawn(pick) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(lambda k: pick(POOL, k)))(KEYS))


def test_the_greedy_mode_adds_what_raises_the_determinant_most():
    z = np.random.default_rng(0).normal(size=(9, 3))
    kernel, chosen = np.eye(9) + z @ z.T, []
    for _ in range(5):
        volume = [
            -np.inf if i in chosen else np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])
            for i in range(9)
        ]
        chosen.append(int(np.argmax(volume)))
    found = jax.jit(diversity.greedy_mode, static_argnums=1)(kernel.astype(np.float32), 5)
    assert found.tolist() == chosen
    best = max(
        np.linalg.det(kernel[np.ix_(s, s)]) for s in itertools.combinations(range(9), 5)
    )  # the greedy one is not the best, and is near it
    assert np.linalg.det(kernel[np.ix_(chosen, chosen)]) > 0.5 * best


def test_spread_out_batches_hold_all_groups_and_alike_ones_hold_one():
    groups = lambda pick: np.array([len(set(batch // 25)) for batch in drawn(pick)])
    assert (groups(diversity.spread_out(4, 40)) == 4).all()
    assert (groups(diversity.alike(4, 60)) == 1).mean() > 0.95
    assert 2.4 < groups(diversity.uniform(4)).mean() < 3.1  # 4 (1 - .75^4) = 2.73


def test_hard_tasks_come_more_often_and_no_sharpness_is_uniform():
    assert drawn(diversity.hard(4, 1.0)).mean() > 60
    assert abs(drawn(diversity.hard(4, 0.0)).mean() - 49.5) < 4


def test_too_few_candidates_get_one_line():
    with pytest.raises(UserError, match="8 tasks cannot be picked of 4 candidates"):
        diversity.spread_out(8, 4)


def test_a_batch_is_an_episode_of_each_task_picked():
    pick = lambda pool, key: jnp.array([3, 5])
    draw = lambda source, key, task: source[task]
    batch = jax.jit(diversity.batches(pick, draw))
    assert batch(POOL, jax.random.key(0)).tolist() == [3, 5]


def test_users_lie_around_the_center_of_their_kind():
    world = UserModes(num_support=200, sigma=0.01, tau=0.01)
    one = jax.jit(lambda key: world.of_kind(key, 2))(jax.random.key(1))
    w = np.linalg.lstsq(one.support.inputs, one.support.label)[0]
    np.testing.assert_allclose(w, world.centers[2], atol=0.1)
    kinds = jax.jit(jax.vmap(world.kind))(jax.random.split(jax.random.key(2), 2000))
    np.testing.assert_allclose(np.bincount(kinds) / 2000, world.shares, atol=0.03)
    np.testing.assert_allclose(jax.jit(world.bayes)(one), one.query.label, atol=0.1)
