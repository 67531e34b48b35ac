"""Constrained decoding: real items alone, in the order of their likelihood; semantic codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.features import codes
from metajax.models.language import constrained, decoder
from metajax.models.transformer import Shape
from metajax.types import UserError

DECODER = decoder.Decoder(Shape(1, 8, 2, 1, 12), 9)
PARAMS = jax.jit(lambda key: jax.tree.map(lambda x: 20 * x, decoder.init(key, DECODER)))(
    jax.random.key(0)
)
ROWS = [[1, 2, 8], [1, 3, 4, 8], [5, 8], [1, 3, 6, 8], [7, 7, 7, 8]]
PROMPT = jnp.array([3, 1, 4, 0, 0])
log_likelihood = jax.jit(constrained.log_likelihood, static_argnums=0)


def likelihood_of(row):
    whole = np.array([3, 1, 4, *row])
    judged = np.array([0, 0, 0] + [1] * len(row))
    return float(log_likelihood(DECODER, PARAMS, whole, judged))


TREE = constrained.prefix_tree(ROWS)
SEARCH = jax.jit(  # parameters and tree are arguments
    lambda params, tree, allowed, length: constrained.best_items(
        DECODER, params, PROMPT, length, tree, 8, allowed
    )
)


def searched(allowed):
    return [np.asarray(x) for x in SEARCH(PARAMS, TREE, np.asarray(allowed), 3)]


@pytest.fixture(scope="module")
def found():
    return searched([True] * 5)


def test_a_wide_beam_orders_all_items_by_their_likelihood(found):
    items, scores = found
    expected = np.array([likelihood_of(row) for row in ROWS])
    np.testing.assert_array_equal(items[:5], np.argsort(-expected))
    np.testing.assert_allclose(scores[:5], np.sort(expected)[::-1], rtol=1e-4)


def test_nothing_but_items_comes_out(found):
    items, scores = found
    assert sorted(items[:5].tolist()) == [0, 1, 2, 3, 4]
    assert (items[5:] == -1).all() and np.isneginf(scores[5:]).all()


def test_what_is_not_allowed_is_not_found_and_takes_no_place(found):
    items, scores = searched([True, False, True, False, True])
    kept = [i for i in found[0][:5] if i not in (1, 3)]
    assert items.tolist() == [*kept, -1, -1, -1, -1, -1]
    of = dict(zip(*(x.tolist() for x in found), strict=True))
    np.testing.assert_allclose(scores[:3], [of[i] for i in kept], rtol=1e-5)
    assert searched([False] * 5)[0].tolist() == [-1] * 8


def test_rows_after_a_shared_prompt_have_the_likelihoods_of_whole_texts():
    @jax.jit
    def scored(params, rows):
        prompt = constrained.prompt_cache(DECODER, params, PROMPT, 3)
        return constrained.log_likelihoods(DECODER, params, prompt, rows, block=4)

    expected = np.array([likelihood_of(row) for row in ROWS])
    for size in (5, 16):  # with padding and without
        found = scored(PARAMS, constrained.packed(ROWS, size))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_rows_in_one_do_not_see_each_other_and_a_cut_prompt_is_a_shorter_one():
    @jax.jit
    def hidden(params, rows):
        long = constrained.prompt_cache(DECODER, params, jnp.array([3, 1, 4, 1, 5]), 5)
        return constrained.after(DECODER, params, constrained.cut(long, 2), rows)

    found = np.asarray(hidden(PARAMS, constrained.packed([[5, 8], [7, 2, 6]], 8)))
    plain = jax.jit(lambda params, row: decoder.logits(DECODER, params, row))
    for row, at in (([5, 8], slice(0, 2)), ([7, 2, 6], slice(2, 5))):
        told = decoder.to_logits(DECODER, PARAMS, found[at])
        expected = np.asarray(plain(PARAMS, np.array([3, 1, *row])))[2:]
        np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-4)


def test_a_likelihood_is_a_product_of_softmaxes():
    told = jax.jit(lambda row: jax.nn.log_softmax(decoder.logits(DECODER, PARAMS, row), axis=-1))
    log_p = np.asarray(told(np.array([3, 1, 4, 5])))
    np.testing.assert_allclose(likelihood_of([5, 8]), log_p[2, 5] + log_p[3, 8], rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[1, 2], [1, 2]], "item 1 has no tokens of its own"),
        ([[1], [1, 2]], "item 0 begins item 1"),
        ([[1, 2], [1]], "item 1 has no tokens of its own"),
        ([[1], []], "item 1 has no tokens"),
    ],
)
def test_items_that_cannot_be_told_apart_are_refused(rows, sentence):
    with pytest.raises(UserError, match=sentence):
        constrained.prefix_tree(rows)


def test_codes_put_like_items_together_and_tell_all_apart():
    rng = np.random.default_rng(0)
    centers = 10 * rng.normal(size=(4, 3))
    group = np.repeat(np.arange(4), 10)
    vectors = centers[group] + 0.1 * rng.normal(size=(40, 3))
    found = codes.residual_codes(vectors, 4, levels=2)
    assert len(np.unique(found, axis=0)) == 40
    firsts = [np.unique(found[group == g, 0]) for g in range(4)]
    assert all(len(f) == 1 for f in firsts) and len(np.unique(firsts)) == 4
    twins = codes.residual_codes(np.zeros((3, 2)), 2, levels=2)
    assert twins[:, -1].tolist() == [0, 1, 2]
