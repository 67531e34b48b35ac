"""Starting from given parameters, and the click model of the item warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from metajax.learners.pooled import pooled
from metajax.models.ctr import content_net, deep_fm, table_rows, with_table
from metajax.models.modulated import centered_labels, over_features, with_fixed_code
from metajax.models.towers import vector_linear
from metajax.transforms.pretrained import starting_from
from metajax.types import Episode, Examples, Model, UserError

KEY = jax.random.key(0)
USERS, ITEMS = {"job": 4}, {"genre": 3}
INPUTS = {"item": np.array([0, 2]), "job": np.array([[1], [3]])}
CONTENT = {"genre": np.array([1, 2]), "index": np.asarray(1)}
ZEROS, ONES = np.zeros(3, np.float32), np.ones(3, np.float32)


def test_a_learner_starts_from_what_it_is_given():
    examples = Examples(np.ones((2, 3), np.float32), ONES[:2], ONES[:2])
    episode = Episode((), examples, examples)
    given = {"head": {"kernel": np.arange(3, dtype=np.float32)}}
    learner = compiled(starting_from(pooled(vector_linear()), model=given))
    params = learner.init(KEY, episode)
    np.testing.assert_array_equal(params["model"]["head"]["kernel"], [0, 1, 2])
    plain = jax.eval_shape(pooled(vector_linear()).init, KEY, episode)
    assert params.keys() == plain.keys()
    with pytest.raises(UserError, match="no parameters basis; there are model, rates"):
        starting_from(pooled(vector_linear()), basis=given).init(KEY, episode)


def test_deep_fm_in_numpy():
    """Fields: embedding, genre bag, user, job; pairwise products, then the perceptron."""
    model = compiled(deep_fm(3, USERS, ITEMS, 2, (5,)))
    embedding = np.array([0.3, -0.2], np.float32)
    params = model.init(KEY, (CONTENT, embedding), INPUTS)
    p = jax.tree.map(np.asarray, params)
    genre = p["item"]["genre"]["embedding"][[1, 2]].mean(axis=0)
    expected = []
    for user, job in ((0, 1), (2, 3)):
        own = [embedding, genre]
        fields = [*own, p["owner"]["embedding"][user], p["user"]["job"]["embedding"][job]]
        pairs = sum(fields[i] @ fields[j] for i in range(4) for j in range(i))
        x = np.concatenate(fields) @ p["deep"][0]["kernel"] + p["deep"][0]["bias"]
        deep = np.maximum(x, 0) @ p["deep"][1]["kernel"] + p["deep"][1]["bias"]
        expected.append(pairs + deep[0])
    got = model.apply(params, (CONTENT, embedding), INPUTS)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_table_gives_every_item_its_row():
    base = Model(lambda k, p, x: {}, lambda params, p, x: p[1].sum() * jnp.ones(len(x["item"])))
    model = compiled(with_table(base, 4, 2))
    params = model.init(KEY, CONTENT, INPUTS)
    expected = np.asarray(params["table"])[1].sum()
    np.testing.assert_allclose(model.apply(params, CONTENT, INPUTS), expected, rtol=1e-6)
    rows = jnp.asarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    found = compiled(table_rows(rows)).apply({}, (), INPUTS)
    np.testing.assert_array_equal(found, [[0, 1], [4, 5]])


def test_a_content_net_hears_content_and_a_vector():
    net = compiled(content_net(ITEMS, 2, center=1.0))
    params = net.init(KEY, CONTENT, ZEROS)
    at = lambda content, v: np.asarray(net.apply(params, content, v))
    other = {**CONTENT, "genre": np.array([2, 0])}
    assert np.abs(at(CONTENT, ZEROS) - 1.0).max() < 0.5
    assert np.abs(at(CONTENT, ZEROS) - at(other, ZEROS)).max() > 1e-4
    assert np.abs(at(CONTENT, ONES) - at(CONTENT, ZEROS)).max() > 1e-4
    alone = net.init(KEY, CONTENT, ())
    assert net.apply(alone, CONTENT, ()).shape == (2,)


def test_a_network_with_a_fixed_code_is_the_network_given_that_code():
    twice = Model(lambda k, p, x: {}, lambda params, p, x: 2.0 * x)
    net = Model(lambda k, p, x: {}, lambda params, p, x: x[:, 0] * p[1][0])
    offset = Model(
        lambda k, p, x: {"b": jnp.ones(())}, lambda params, p, x: params["b"] + p * x[:, 0]
    )
    model, five = compiled(over_features(twice, net, offset)), np.array([5.0], np.float32)
    x = np.array([[1.0], [2.0]], np.float32)
    params = model.init(KEY, (3.0, five), x)
    got = model.apply(params, (3.0, five), x)
    np.testing.assert_allclose(got, [1 + 3 + 10, 1 + 6 + 20])
    rest = compiled(with_fixed_code(model, five))
    np.testing.assert_array_equal(rest.apply(rest.init(KEY, 3.0, x), 3.0, x), got)


def test_an_encoder_sees_centered_labels():
    product = Model(lambda k, p, x: {}, lambda params, p, x: x[0] * x[1][:, None])
    encode = compiled(centered_labels(product, 3.5))
    pairs = (np.ones((2, 1), np.float32), np.array([3.5, 5.0], np.float32))
    np.testing.assert_allclose(encode.apply({}, (), pairs), [[0.0], [1.5]])
