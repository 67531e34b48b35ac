"""The sequence recommender and the learner that adapts by reading: losses, order, cold items."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled

from metajax.learners.in_context import in_batches, sequence_learner
from metajax.models import sequence, transformer
from metajax.training import loop
from metajax.types import Episode, Examples

V = 7
SETTINGS = sequence.Settings(V, sequence.small(8, 1, 2), dropout=0.0)
WINDOW = 4
full_cross_entropy = jax.jit(sequence.full_cross_entropy)
forward = jax.jit(transformer.forward, static_argnums=0)


def init(key: jax.Array, shape: transformer.Shape):
    return jax.device_get(jax.jit(transformer.init, static_argnums=1)(key, shape))


def examples(items, mask=None) -> Examples:
    mask = jnp.asarray([1] * len(items) if mask is None else mask, jnp.float32)
    return Examples(jnp.asarray(items), mask, mask)


@functools.cache
def learner_and_params():
    learner = compiled(sequence_learner(SETTINGS, WINDOW))
    params = learner.init(jax.random.key(0), Episode((), examples([0]), examples([0])))
    return learner, jax.tree.map(lambda x: np.asarray(x) * 5, params)


def scores_after(learner, params, *supports):
    state = learner.start(params, ())
    for support in supports:
        state = learner.adapt(params, state, support, jax.random.key(0))
    return np.asarray(learner.predict(params, state, np.arange(V))), state


def test_the_full_loss_of_equal_scores_is_log_of_the_catalogue():
    loss = full_cross_entropy(np.zeros((2, 3)), np.ones((V, 3)), np.array([0, 4]))
    np.testing.assert_allclose(loss, math.log(V), rtol=1e-6)


def hidden_and_items(num_rows: int):
    """Hidden vectors (num_rows, 3) and the vectors (V, 3) of all items.

    Arrays of JAX: those of NumPy cannot be indexed by draws that are traced.
    """
    rng = np.random.default_rng(0)
    rows = lambda n: jax.device_put(rng.normal(size=(n, 3)))
    return rows(num_rows), rows(V)


def test_the_sampled_loss_with_every_other_item_drawn_is_the_full_loss():
    hidden, items = hidden_and_items(2)
    target = np.array([2, 5])
    full = full_cross_entropy(hidden, items, target)
    twice = np.tile(np.arange(V), 2)  # the target's own draws do not count
    sampled = jax.jit(sequence.sampled_cross_entropy)(hidden, items, target, twice)
    np.testing.assert_allclose(sampled, full, rtol=1e-5)


def test_the_sampled_sum_is_unbiased():
    hidden, items = hidden_and_items(1)
    target = np.array([2])
    chosen = np.sum(np.asarray(hidden) * np.asarray(items)[target], axis=1)
    draws = np.random.default_rng(2).integers(0, V, (4000, 16))
    loss = lambda drawn: sequence.sampled_cross_entropy(hidden, items, target, drawn) + chosen
    mean = np.exp(jax.jit(jax.vmap(loss))(draws)).mean()
    np.testing.assert_allclose(
        mean, np.exp(np.asarray(hidden) @ np.asarray(items).T).sum(), rtol=0.02
    )


def drawn_by(items, q) -> sequence.Drawn:
    """Items drawn with probabilities q (V,).

    ``log q`` is an array of JAX: one of NumPy cannot be indexed by items that are traced.
    """
    return sequence.Drawn(items, jax.device_put(np.log(q)))


def test_the_corrected_softmax_is_unbiased_for_draws_of_any_probability():
    hidden, target = np.ones((1, 1)), np.array([2])
    items = jax.device_put(np.array([[1.5], [-1.0], [0.2], [0.0], [-0.5], [0.3], [0.0]]))
    q = np.array([0.4, 0.05, 0.15, 0.1, 0.1, 0.15, 0.05])  # what scores high is drawn often
    draws = np.random.default_rng(2).choice(V, (6000, 8), p=q)

    def mean_of(q: np.ndarray) -> float:
        loss = lambda row: sequence.logq_softmax(hidden, items, target, drawn_by(row, q))
        found = np.asarray(jax.jit(jax.vmap(loss))(draws))
        return float(np.exp(found + 0.2).mean() / np.exp(items).sum())

    assert mean_of(q) == pytest.approx(1.0, abs=0.02)
    assert mean_of(np.full(V, 1 / V)) > 1.2  # popular draws taken for uniform ones


def test_each_item_drawn_once_gives_the_full_softmax():
    hidden, items = hidden_and_items(2)
    target, every = np.array([2, 5]), drawn_by(np.arange(V), np.full(V, 1 / V))
    found = jax.jit(sequence.logq_softmax)(hidden, items, target, every)
    full = full_cross_entropy(hidden, items, target)
    np.testing.assert_allclose(found, full, rtol=1e-5)


def test_draws_of_a_batch_have_the_probabilities_that_they_say():
    settings = dataclasses.replace(SETTINGS, num_negatives=20_000, popular=0.5)
    target, mask = np.array([3, 3, 1, 6]), np.array([1.0, 1.0, 1.0, 0.0])
    drawn = jax.jit(sequence.draw_items, static_argnums=1)(
        jax.random.key(0), settings, target, mask
    )
    expected = np.full(V, 0.5 / V)
    expected[[3, 1]] += [1 / 3, 1 / 6]
    np.testing.assert_allclose(np.exp(drawn.log_q), expected, rtol=1e-5)
    share = np.bincount(drawn.items, minlength=V) / 20_000
    np.testing.assert_allclose(share, expected, atol=0.015)


def test_gbce_without_calibration_is_binary_cross_entropy_and_with_it_tells_the_truth():
    """Enumerated: targets of probability P, two uniform draws; one score per item."""
    truth = np.array([0.5, 0.2, 0.2, 0.1])
    pairs = np.array([(i, j) for i in range(4) for j in range(4)])

    def expected(score: jax.Array, calibration: float) -> jax.Array:
        loss = lambda pair: sequence.gbce(
            jnp.ones((4, 1)), score[:, None], jnp.arange(4),
            drawn_by(pair, np.full(4, 0.25)), calibration,
        )  # fmt: skip
        return jnp.sum(jax.vmap(loss)(pairs).mean(axis=0) * truth)

    honest = np.log(truth / (1 - truth))
    shift = {1.0: math.log(0.5 / 2), 0.0: math.log(1.0 / 2)}  # of the power over two draws
    slope = jax.jit(jax.grad(expected), static_argnums=1)
    np.testing.assert_allclose(slope(honest - shift[1.0], 1.0), np.zeros(4), atol=1e-6)
    rate = 2 / 4
    above = truth / (truth + rate * (1 - truth))  # what plain cross-entropy says instead
    np.testing.assert_allclose(
        slope(np.log(above / (1 - above)) - shift[0.0], 0.0), np.zeros(4), atol=1e-6
    )
    one = jax.jit(sequence.gbce, static_argnums=4)(
        np.ones((1, 1)), honest[:, None] - shift[0.0], np.array([0]),
        drawn_by(np.array([1, 0]), truth), 0.0,
    )  # fmt: skip
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    plain = -(math.log(sigmoid(honest[0])) + math.log(1 - sigmoid(honest[1]))) / 3
    np.testing.assert_allclose(one, [plain], rtol=1e-5)


@pytest.mark.parametrize("change", [{"gated_residual": True}, {"pointwise": True}])
def test_other_layers_see_no_later_item_and_no_padding(change):
    shape = dataclasses.replace(sequence.small(8, 2, 2), **change)
    params = jax.tree.map(lambda x: 5 * x, init(jax.random.key(0), shape))
    x = np.random.default_rng(1).normal(size=(5, 8))
    read = lambda x: np.asarray(forward(shape, params, x))
    whole = read(x)
    for n in (1, 3):
        other = np.concatenate([x[:n], np.full((5 - n, 8), 7.0)])
        np.testing.assert_allclose(read(other)[:n], whole[:n], rtol=1e-4, atol=1e-5)
    moved = x + (np.arange(5) == 0)[:, None]
    assert np.abs(read(moved)[4] - whole[4]).max() > 1e-3
    longer = read(np.concatenate([x, np.zeros((3, 8))]))
    np.testing.assert_allclose(longer[:5], whole, rtol=1e-4, atol=1e-5)


def test_a_pointwise_layer_is_its_formula_on_one_position_and_a_closed_gate_writes_nothing():
    shape = dataclasses.replace(sequence.small(8, 1, 2), pointwise=True)
    params = jax.tree.map(lambda x: 9 * x, init(jax.random.key(0), shape))
    x = np.random.default_rng(1).normal(size=(1, 8))
    w = {k: np.asarray(v["kernel"][0], np.float64)
         for k, v in params["blocks"]["attention"].items() if "kernel" in v}  # fmt: skip
    norm = lambda x: 9 * x / np.sqrt((x**2).mean(-1, keepdims=True) + shape.norm_eps)
    silu = lambda x: x / (1 + np.exp(-x))
    h = norm(x)
    q, k, v, u = (silu(h @ w[name]) for name in ("query", "key", "value", "gate"))
    weight = silu((q * k).reshape(2, 4).sum(1) / 2.0)  # position 0 is not turned
    read = (weight[:, None] * v.reshape(2, 4)).reshape(1, 8)
    expected = norm(x + (norm(read) * u) @ w["output"])
    found = forward(shape, params, x)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    shape = dataclasses.replace(sequence.small(8, 1, 2), gated_residual=True)
    params = init(jax.random.key(0), shape)
    for part in params["blocks"].values():
        part["skip"]["bias"] = part["skip"]["bias"] - 100.0
    found = forward(shape, params, x)
    np.testing.assert_allclose(found, norm(x) / 9, rtol=1e-4)


def test_no_prediction_sees_its_item_or_a_later_one():
    _, params = learner_and_params()
    embedded = sequence.item_embeddings(params)[np.array([1, 2, 3, 4])]

    def read(rows):
        return sequence.hidden_vectors(SETTINGS, params, rows, jnp.arange(4))

    jacobian = jax.jit(jax.jacobian(read))(embedded)  # (5, D, 4, D): states 0..4 by items 0..3
    moved = np.abs(jacobian).sum((1, 3))
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
    assert np.abs(once - reordered).max() > 1e-3


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
        expected += float(np.log(np.exp(scores).sum()) - scores[item]) / 3
    episode = Episode((), examples([1, 2, 6], [1, 1, 0]), examples([3]))
    value, _ = learner.loss(params, episode, jax.random.key(0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    together = compiled(in_batches(learner, SETTINGS))
    stacked = jax.tree.map(lambda x: np.stack([x, x]), episode)
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
    learner = compiled(learner)
    return learner, jax.tree.map(lambda x: x[0], found.params), found.history["loss"][0]


def test_training_finds_each_persons_rule_from_two_items(cyclic):
    learner, params, _ = cyclic
    for row, following in ([1, 3], 5), ([3, 2], 1), ([6, 1], 3):
        scores, _ = scores_after(learner, params, examples(row))
        assert np.argmax(scores) == following


def test_no_learner_beats_the_entropy_of_the_world(cyclic):
    # First item ln 7, second ln 2 (which rule), the others certain: (ln 7 + ln 2) / 4.
    assert cyclic[2][-1] > (math.log(7) + math.log(2)) / 4 - 0.02
    assert cyclic[2][-1] < math.log(7) * 0.6


def test_an_item_without_a_row_is_read_and_found_by_its_content():
    content = np.eye(V, dtype=np.float32)
    content[6] = content[5]
    params = jax.jit(sequence.init, static_argnums=1)(jax.random.key(0), SETTINGS, content)
    params = jax.device_get(params)
    shown = np.array([1.0] * 5 + [0.0] * 2)
    blind = {**params, "items": np.concatenate([params["items"][:5], np.zeros((2, 8))])}
    item_embeddings = jax.jit(sequence.item_embeddings)
    vectors = np.asarray(item_embeddings(params, shown))
    np.testing.assert_allclose(vectors, item_embeddings(blind), atol=1e-7)
    np.testing.assert_allclose(vectors[5], vectors[6], atol=1e-7)
    loss = functools.partial(sequence.next_loss, SETTINGS, key=None)
    rows = (np.array([[0, 1, 2]]), np.ones((1, 3)))
    grads = jax.device_get(jax.jit(jax.grad(loss))(params, *rows))
    assert not np.any(grads["content"]) and np.abs(grads["content_kernel"]).max() > 1e-6


def test_the_model_of_all_items_scores_as_the_learner():
    learner, params = learner_and_params()
    scores, _ = scores_after(learner, params, examples([4, 2]))
    model = sequence.next_item(SETTINGS)
    rows = np.array([[4, 2, 0, 0], [4, 2, 6, 1]])
    logits = jax.jit(model.apply)(params, (), (rows, np.array([2, 2])))
    np.testing.assert_allclose(logits, np.stack([scores] * 2), rtol=1e-5, atol=1e-6)
