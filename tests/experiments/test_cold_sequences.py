"""New items in a sequence model: what is hidden stays hidden, and each arm is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.large.cold_sequences import arms, events
from metajax.data.histories import sequences as histories
from metajax.types import Episode, Examples, UserError


def walkers(num_people: int = 40, num_items: int = 12, length: int = 8) -> histories.Sequences:
    """People who walk around a circle of items, one step at a time."""
    place = np.arange(num_people)[:, None] * 5 + np.arange(length)[None, :]
    owner = np.repeat(np.arange(num_people), length)
    return histories.assemble("circle", owner, (place % num_items).reshape(-1))


def test_hidden_items_are_in_no_history():
    data, rng = walkers(), np.random.default_rng(0)
    known = events.without(data, np.array([3, 7]))
    assert not np.isin(known.items, [3, 7]).any() and known.num_items == 12
    assert (known.length == np.diff([*known.start, len(known.items)])).all()
    found = events.events_of(data, np.array([7]), np.array([3, 7]), 3, 30, rng)
    for row, n, real in zip(found.history[0], found.length[0], found.mask[0], strict=True):
        expected = [4, 5, 6][3 - n :]  # what stands before 7 on the circle, 3 left out
        assert not real or row[:n].tolist() == expected
    assert found.mask.sum() == (data.items == 7).sum()


def test_groups_of_hidden_items_are_disjoint_and_too_few_are_refused():
    data = walkers(60, 60, 20)
    groups = events.divided(data, (0.2, 0.2, 0.3), 5, np.random.default_rng(0))
    assert len(set(np.concatenate(groups).tolist())) == sum(map(len, groups)) == 42
    with pytest.raises(UserError, match="too few to hide some"):
        events.divided(data, (0.2, 0.1, 0.1), 1000, np.random.default_rng(0))


HIDDEN = jnp.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0.5], [9, 9, 9]])
OTHERS = jnp.array([0.5, -1.0, 3.0, 0.0])
SUPPORT = Examples(
    {"hidden": HIDDEN, "others": OTHERS}, jnp.array([1.0, 1, 0, 1]), jnp.array([1.0, 1, 1, 0])
)
CONTENT = jnp.array([0.0, 0.0, 4.0])


def embedding(learner, params=None):
    task = Episode(CONTENT, SUPPORT, SUPPORT)
    params = learner.init(jax.random.key(0), task) if params is None else params
    cold = learner.start(params, task.profile)
    return cold.embedding, learner.adapt(params, cold, SUPPORT, jax.random.key(0)).embedding


def test_matching_by_hand():
    cold, warm = embedding(arms.mean(9.0, 0.5, jnp.zeros(3)))
    np.testing.assert_allclose(cold, [0, 0, 0])
    np.testing.assert_allclose(warm, [0.25, 0.5, 0])  # half the mean of two; padding is not seen
    less = jnp.array([0.0, 0.0, -1.0])
    cold, warm = embedding(arms.matching(9.0, 0.5, less))  # it starts as the mean
    np.testing.assert_allclose(cold, [0, 0, -1])
    np.testing.assert_allclose(warm, [0.25, 0.5, -1])
    cold, warm = embedding(arms.matching(9.0, 0.5, less, content=True, histories=False))
    np.testing.assert_allclose(warm, [0, 0, 3])
    number = lambda a, b: {"kernel": jnp.eye(3), "a": jnp.log(a), "b": jnp.asarray(b)}
    params = {"matched": number(2.0, 1.0), "content": number(1.0, -1.0), "constant": jnp.zeros(3)}
    _, warm = embedding(arms.matching(9.0, 0.5, less, content=True), params)
    np.testing.assert_allclose(warm, [3, 6, 4 / 3], rtol=1e-6)  # 2 (1 + 2) of the mean, a third


def test_gradient_steps_lower_the_loss_and_start_where_they_say():
    cold, one = embedding(arms.descent(9.0, 0.1, 1, from_content=True))
    np.testing.assert_allclose(cold, CONTENT)
    p = np.asarray(jax.nn.sigmoid(HIDDEN @ CONTENT - OTHERS))[:3, None]
    h = np.asarray(HIDDEN)
    slope = -((1 - p[:2]) * h[:2]).mean(axis=0) + 9 * p[2] * h[2]  # the last row is padding
    np.testing.assert_allclose(one - cold, -0.1 * slope, rtol=1e-5)
    cold, _ = embedding(arms.descent(9.0, 0.1, 1, from_content=False))
    np.testing.assert_allclose(cold, 0.0)


def test_shared_items_are_a_cosine():
    support = np.array([[[0, 1]], [[2, 3]]]), np.array([[2], [2]])
    query = np.array([[[1, 0]], [[2, 0]]]), np.array([[1], [1]])
    found = arms.overlap(support, query, 4)
    assert found.shape == (2, 1, 2)
    np.testing.assert_allclose(found[:, 0], [[1 / 1.64**0.5, 0], [0, 0.8 / 1.64**0.5]], rtol=1e-5)
