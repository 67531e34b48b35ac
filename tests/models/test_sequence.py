"""The sequence recommender and the learner that adapts by reading: losses, order, cold items."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.learners.in_context import in_batches, sequence_learner
from metajax.models import sequence
from metajax.training import loop
from metajax.types import Episode, Examples

V = 7
SETTINGS = sequence.Settings(V, sequence.small(8, 1, 2), dropout=0.0)
WINDOW = 4


def examples(items, mask=None) -> Examples:
    items = jnp.asarray(items, jnp.int32)
    mask = jnp.ones(len(items)) if mask is None else jnp.asarray(mask, float)
    return Examples(items, mask, mask)


def learner_and_params(settings=SETTINGS):
    learner = sequence_learner(settings, WINDOW)
    params = learner.init(jax.random.key(0), Episode((), examples([0]), examples([0])))
    return learner, jax.tree.map(lambda x: x * 5, params)


def scores_after(learner, params, *supports):
    state = learner.start(params, ())
    for support in supports:
        state = learner.adapt(params, state, support, jax.random.key(0))
    return learner.predict(params, state, jnp.arange(V)), state


def test_the_full_loss_of_equal_scores_is_log_of_the_catalogue():
    loss = sequence.full_cross_entropy(jnp.zeros((2, 3)), jnp.ones((V, 3)), jnp.array([0, 4]))
    np.testing.assert_allclose(loss, math.log(V), rtol=1e-6)


def test_the_sampled_loss_with_every_other_item_drawn_is_the_full_loss():
    hidden = jax.random.normal(jax.random.key(0), (2, 3))
    items = jax.random.normal(jax.random.key(1), (V, 3))
    target = jnp.array([2, 5])
    full = sequence.full_cross_entropy(hidden, items, target)
    twice = jnp.tile(jnp.arange(V), 2)  # the target's own draws do not count
    sampled = sequence.sampled_cross_entropy(hidden, items, target, twice)
    np.testing.assert_allclose(sampled, full, rtol=1e-5)


def test_the_sampled_sum_is_unbiased():
    hidden = jax.random.normal(jax.random.key(0), (1, 3))
    items = jax.random.normal(jax.random.key(1), (V, 3))
    target = jnp.array([2])
    chosen = jnp.sum(hidden * items[target], axis=1)
    draws = jax.random.randint(jax.random.key(2), (4000, 16), 0, V)
    loss = lambda drawn: sequence.sampled_cross_entropy(hidden, items, target, drawn) + chosen
    mean = jnp.exp(jax.vmap(loss)(draws)).mean()
    np.testing.assert_allclose(mean, jnp.exp(hidden @ items.T).sum(), rtol=0.02)


def test_no_prediction_sees_its_item_or_a_later_one():
    _, params = learner_and_params()
    embedded = sequence.item_embeddings(params)[jnp.array([1, 2, 3, 4])]

    def read(rows):
        return sequence.hidden_vectors(SETTINGS, params, rows, jnp.arange(4))

    jacobian = jax.jacobian(read)(embedded)  # (5, D, 4, D): states 0..4 by items 0..3
    moved = np.asarray(jnp.abs(jacobian).sum((1, 3)))
    assert (moved[np.triu_indices(5, 0, 4)] == 0).all()
    assert (moved[np.tril_indices(5, -1, 4)] > 1e-6).all()


def test_reading_one_by_one_or_at_once_or_with_padding_is_the_same():
    learner, params = learner_and_params()
    once, state = scores_after(learner, params, examples([1, 2, 3]))
    twice, _ = scores_after(learner, params, examples([1]), examples([2, 3]))
    padded, other = scores_after(learner, params, examples([1, 6, 2, 3, 5], [1, 0, 1, 1, 0]))
    chex.assert_trees_all_close(once, twice, atol=1e-6)
    chex.assert_trees_all_close(once, padded, atol=1e-6)
    np.testing.assert_array_equal(state.items, other.items)
    reordered, _ = scores_after(learner, params, examples([2, 1, 3]))
    assert jnp.abs(once - reordered).max() > 1e-3


def test_only_the_newest_items_are_kept():
    learner, params = learner_and_params()
    long, state = scores_after(learner, params, examples([5, 6, 1, 2]), examples([3, 4]))
    np.testing.assert_array_equal(state.items, [1, 2, 3, 4])
    short, _ = scores_after(learner, params, examples([1, 2, 3, 4]))
    chex.assert_trees_all_close(long, short, atol=1e-6)


def test_no_support_leaves_the_cold_start():
    learner, params = learner_and_params()
    cold, _ = scores_after(learner, params)
    nothing, _ = scores_after(learner, params, examples([3, 4], [0, 0]))
    chex.assert_trees_all_equal(cold, nothing)


def test_the_loss_is_that_of_each_item_given_those_before():
    learner, params = learner_and_params()
    row = [1, 2, 3]
    expected = 0.0
    for n, item in enumerate(row):
        scores, _ = scores_after(learner, params, *([examples(row[:n])] if n else []))
        expected += float(jax.nn.logsumexp(scores) - scores[item]) / 3
    episode = Episode((), examples([1, 2, 6], [1, 1, 0]), examples([3]))
    value, _ = learner.loss(params, episode, jax.random.key(0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    together = in_batches(learner, SETTINGS)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), episode)
    np.testing.assert_allclose(together.loss(params, stacked, jax.random.key(0))[0], expected, 1e-5)


@pytest.fixture(scope="module")
def cyclic():
    """A learner trained where item i is followed by i + 2 or, for half of the people, by i - 1."""
    learner = sequence_learner(SETTINGS, WINDOW)

    def sample(data, key):
        def one(key):
            key_step, key_start = jax.random.split(key)
            step = jnp.where(jax.random.bernoulli(key_step), 2, -1)
            row = (jax.random.randint(key_start, (), 0, V) + step * jnp.arange(WINDOW)) % V
            return Episode((), examples(row[:-1]), examples(row[-1:]))

        return jax.vmap(one)(jax.random.split(key, 32))

    keys = jax.random.split(jax.random.key(0), 1)
    found = loop.fit(loop.recipe(learner, optax.adam(1e-2)), sample, (), keys, 200)
    return learner, jax.tree.map(lambda x: x[0], found.params), found.history["loss"][0]


def test_training_finds_each_persons_rule_from_two_items(cyclic):
    learner, params, _ = cyclic
    for row, following in ([1, 3], 5), ([3, 2], 1), ([6, 1], 3):
        scores, _ = scores_after(learner, params, examples(row))
        assert int(jnp.argmax(scores)) == following


def test_no_learner_beats_the_entropy_of_the_world(cyclic):
    # First item ln 7, second ln 2 (which rule), the others certain: (ln 7 + ln 2) / 4.
    assert cyclic[2][-1] > (math.log(7) + math.log(2)) / 4 - 0.02
    assert cyclic[2][-1] < math.log(7) * 0.6


def test_an_item_without_a_row_is_read_and_found_by_its_content():
    content = np.eye(V, dtype=np.float32)
    content[6] = content[5]
    params = sequence.init(jax.random.key(0), SETTINGS, content)
    blind = {**params, "items": params["items"].at[5:].set(0.0)}
    shown = jnp.array([1.0] * 5 + [0.0] * 2)
    vectors = sequence.item_embeddings(params, shown)
    np.testing.assert_allclose(vectors, sequence.item_embeddings(blind), atol=1e-7)
    np.testing.assert_allclose(vectors[5], vectors[6], atol=1e-7)
    loss = functools.partial(sequence.next_loss, SETTINGS, key=None)
    rows = (jnp.array([[0, 1, 2]]), jnp.ones((1, 3)))
    grads = jax.grad(loss)(params, *rows)
    assert not jnp.any(grads["content"]) and jnp.abs(grads["content_kernel"]).max() > 1e-6


def test_the_model_of_all_items_scores_as_the_learner():
    learner, params = learner_and_params()
    scores, _ = scores_after(learner, params, examples([4, 2]))
    model = sequence.next_item(SETTINGS)
    rows = jnp.array([[4, 2, 0, 0], [4, 2, 6, 1]])
    logits = model.apply(params, (), (rows, jnp.array([2, 2])))
    np.testing.assert_allclose(logits, np.stack([scores] * 2), rtol=1e-5, atol=1e-6)
