"""Evidence candidates: gradient norms and popularity by hand."""

import jax
import numpy as np
import pytest

from metajax import tree
from metajax.evaluation.evidence import evidence_candidates, evidence_scores, gradient_norms
from metajax.models.towers import vector_linear
from metajax.types import Episode, Examples, Model


def test_norm_of_a_linear_row_by_hand():
    """d (w.x - y)^2 / dw = 2 r x, so the norm over the loss r^2 is 2 |x| / |r|."""
    x = np.array([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    support = Examples(x, np.array([2.0, -0.5, 0.0, 9.0]), np.array([1.0, 1, 1, 0]))
    params = {"head": {"kernel": np.zeros(2)}}
    norms = jax.jit(gradient_norms(vector_linear(), params, tree.everything))
    got = norms(Episode((), support, support))
    np.testing.assert_allclose(got, [2 * 5 / 2, 2 * 1 / 0.5, 0.0, 0.0], rtol=1e-5)


def test_norms_are_summed_over_the_adapting_tensors_alone():
    two = Model(
        init=lambda key, profile, inputs: {},
        apply=lambda params, profile, x: params["a"] * x[:, 0] + params["b"] + params["c"],
    )
    params = {"a": np.zeros(()), "b": np.zeros(()), "c": np.zeros(())}
    support = Examples(np.array([[3.0]]), np.array([2.0]), np.ones(1))
    norms = jax.jit(gradient_norms(two, params, tree.under("a", "b")))
    assert float(norms(Episode((), support, support))[0]) == pytest.approx(2 * 3 / 2 + 2 / 2)


def test_scores_are_the_product_of_what_is_relative_to_the_best():
    """Items 0, 1, 2 with mean norms 4, 1, 8 and popularity 2, 4, 1; item 3 is unseen."""
    item = np.array([[0, 0, 1, 1], [1, 1, 2, 3]])
    norms = np.array([[3.0, 5.0, 1.0, 1.0], [1.0, 1.0, 8.0, 99.0]])
    mask = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0]])
    scores = np.array(jax.jit(evidence_scores, static_argnums=3)(norms, item, mask, 5))
    np.testing.assert_allclose(scores, [0.5 * 0.5, 0.125 * 1.0, 1.0 * 0.25, 0.0, 0.0])
    scores[0] = 0.3
    candidates = jax.jit(evidence_candidates, static_argnums=1)
    np.testing.assert_array_equal(candidates(scores, 2), [0, 2])


def test_runs_over_a_batch_of_tasks():
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    support = Examples(x, x[..., 0] + 1.0, np.ones((3, 4)))
    norms = gradient_norms(vector_linear(), {"head": {"kernel": np.ones(2)}}, tree.everything)
    got = jax.jit(jax.vmap(norms))(Episode((), support, support))
    residual = x.sum(-1) - support.label
    expected = 2 * np.linalg.norm(x, axis=-1) / np.abs(residual)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
