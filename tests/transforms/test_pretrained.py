"""Starting from given parameters, and the click model of the item warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learners.pooled import pooled
from metajax.models.ctr import content_net, deep_fm, table_rows, with_table
from metajax.models.modulated import centered_labels, over_features, with_fixed_code
from metajax.models.towers import vector_linear
from metajax.transforms.pretrained import starting_from
from metajax.types import Episode, Examples, Model, UserError

KEY = jax.random.key(0)
USERS, ITEMS = {"job": 4}, {"genre": 3}
INPUTS = {"item": jnp.array([0, 2]), "job": jnp.array([[1], [3]])}
CONTENT = {"genre": jnp.array([1, 2]), "index": jnp.asarray(1)}


def test_a_learner_starts_from_what_it_is_given():
    examples = Examples(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2))
    episode = Episode((), examples, examples)
    given = {"head": {"kernel": jnp.arange(3.0)}}
    learner = starting_from(pooled(vector_linear()), model=given)
    params = learner.init(KEY, episode)
    np.testing.assert_array_equal(params["model"]["head"]["kernel"], [0, 1, 2])
    assert params.keys() == pooled(vector_linear()).init(KEY, episode).keys()
    with pytest.raises(UserError, match="no parameters basis; there are model, rates"):
        starting_from(pooled(vector_linear()), basis=given).init(KEY, episode)


def test_deep_fm_in_numpy():
    """Fields: embedding, genre bag, user, job; pairwise products, then the perceptron."""
    model = deep_fm(3, USERS, ITEMS, 2, (5,))
    embedding = jnp.array([0.3, -0.2])
    params = model.init(KEY, (CONTENT, embedding), INPUTS)
    p = jax.tree.map(np.asarray, params)
    genre = p["item"]["genre"]["embedding"][[1, 2]].mean(axis=0)
    expected = []
    for user, job in ((0, 1), (2, 3)):
        own = [np.asarray(embedding), genre]
        fields = [*own, p["owner"]["embedding"][user], p["user"]["job"]["embedding"][job]]
        pairs = sum(fields[i] @ fields[j] for i in range(4) for j in range(i))
        x = np.concatenate(fields) @ p["deep"][0]["kernel"] + p["deep"][0]["bias"]
        deep = np.maximum(x, 0) @ p["deep"][1]["kernel"] + p["deep"][1]["bias"]
        expected.append(pairs + deep[0])
    got = model.apply(params, (CONTENT, embedding), INPUTS)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_table_gives_every_item_its_row():
    base = Model(lambda k, p, x: {}, lambda params, p, x: p[1].sum() * jnp.ones(len(x["item"])))
    model = with_table(base, 4, 2)
    params = model.init(KEY, CONTENT, INPUTS)
    expected = float(params["table"][1].sum())
    np.testing.assert_allclose(model.apply(params, CONTENT, INPUTS), expected, rtol=1e-6)
    rows = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(table_rows(rows).apply({}, (), INPUTS), [[0, 1], [4, 5]])


def test_a_content_net_hears_content_and_a_vector():
    net = content_net(ITEMS, 2, center=1.0)
    params = net.init(KEY, CONTENT, jnp.zeros(3))
    at = lambda content, v: np.asarray(net.apply(params, content, v))
    other = {**CONTENT, "genre": jnp.array([2, 0])}
    assert np.abs(at(CONTENT, jnp.zeros(3)) - 1.0).max() < 0.5
    assert np.abs(at(CONTENT, jnp.zeros(3)) - at(other, jnp.zeros(3))).max() > 1e-4
    assert np.abs(at(CONTENT, jnp.ones(3)) - at(CONTENT, jnp.zeros(3))).max() > 1e-4
    alone = net.init(KEY, CONTENT, ())
    assert net.apply(alone, CONTENT, ()).shape == (2,)


def test_a_network_with_a_fixed_code_is_the_network_given_that_code():
    twice = Model(lambda k, p, x: {}, lambda params, p, x: 2.0 * x)
    net = Model(lambda k, p, x: {}, lambda params, p, x: x[:, 0] * p[1][0])
    offset = Model(
        lambda k, p, x: {"b": jnp.ones(())}, lambda params, p, x: params["b"] + p * x[:, 0]
    )
    model = over_features(twice, net, offset)
    x = jnp.array([[1.0], [2.0]])
    params = model.init(KEY, (3.0, jnp.array([5.0])), x)
    got = model.apply(params, (3.0, jnp.array([5.0])), x)
    np.testing.assert_allclose(got, [1 + 3 + 10, 1 + 6 + 20])
    rest = with_fixed_code(model, jnp.array([5.0]))
    np.testing.assert_array_equal(rest.apply(rest.init(KEY, 3.0, x), 3.0, x), got)


def test_an_encoder_sees_centered_labels():
    encode = centered_labels(
        Model(lambda k, p, x: {}, lambda params, p, x: x[0] * x[1][:, None]), 3.5
    )
    pairs = (jnp.ones((2, 1)), jnp.array([3.5, 5.0]))
    np.testing.assert_allclose(encode.apply({}, (), pairs), [[0.0], [1.5]])
