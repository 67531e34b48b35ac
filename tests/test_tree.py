"""Filters name leaves by path; partition and merge are inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metajax import tree

PARAMS = {
    "embed": {"item": np.arange(6.0).reshape(3, 2)},
    "head": [{"kernel": np.ones((2, 1)), "bias": np.zeros(1)}],
    "header": np.full(2, 3.0),
    "absent": None,
    "steps": np.array(4),
}
PATHS = ["embed/item", "head/0/bias", "head/0/kernel", "header", "steps"]


def kept_by(keep):
    kept, rest = tree.partition(PARAMS, keep)
    names = [
        {tree.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(part)}
        for part in (kept, rest)
    ]
    assert names[0] | names[1] == set(PATHS) and not names[0] & names[1]
    return sorted(names[0])


def identical(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a is b


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (tree.everything, PATHS),
        (tree.nothing, []),
        (tree.under("head"), ["head/0/bias", "head/0/kernel"]),
        (tree.under("head/0/bias", "steps"), ["head/0/bias", "steps"]),
        (tree.under("hea"), []),
        (tree.under(), []),
        (tree.matching("kernel$"), ["head/0/kernel"]),
        (tree.matching("^head"), ["head/0/bias", "head/0/kernel", "header"]),
        (tree.negate(tree.under("head")), ["embed/item", "header", "steps"]),
    ],
)
def test_filters_keep_the_leaves_they_name(keep, expected):
    assert kept_by(keep) == expected


@settings(deadline=None)
@given(chosen=st.sets(st.sampled_from(PATHS)))
def test_merge_is_the_inverse_of_partition_in_either_order(chosen):
    """A leaf that was None before stays None."""
    kept, rest = tree.partition(PARAMS, lambda path: path in chosen)
    identical(tree.merge(kept, rest), PARAMS)
    identical(tree.merge(rest, kept), PARAMS)


def test_a_leaf_of_value_zero_or_false_is_kept():
    """What is absent is None; what is falsy is not."""
    params = {"zero": 0.0, "no": False, "empty": ()}
    assert tree.merge(*tree.partition(params, tree.under("zero"))) == params


def test_gradients_and_optimizers_see_only_the_leaves_kept():
    params = {"adapts": jnp.array([1.0, 2.0]), "frozen": jnp.array([3.0, 4.0])}
    kept, rest = tree.partition(params, tree.under("adapts"))

    def loss(kept):
        whole = tree.merge(kept, rest)
        return jnp.sum(whole["adapts"] * whole["frozen"])

    gradient = jax.jit(jax.grad(loss))(kept)
    assert gradient["frozen"] is None
    np.testing.assert_array_equal(gradient["adapts"], [3.0, 4.0])
    tx = optax.adam(0.1)
    updates, state = tx.update(gradient, tx.init(kept), kept)
    assert tree.size(state) == 2 * 2 + 1  # two moments of the two adapting scalars, one counter
    moved = tree.merge(optax.apply_updates(kept, updates), rest)
    np.testing.assert_array_equal(moved["frozen"], params["frozen"])
    assert (moved["adapts"] < params["adapts"]).all()


def test_vmap_batches_only_the_leaves_kept():
    kept, rest = tree.partition({"a": jnp.ones(2), "b": jnp.ones(3)}, tree.under("a"))
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), kept)
    total = jax.vmap(lambda k: tree.squared_norm(tree.merge(k, rest)))(batch)
    np.testing.assert_array_equal(total, [2 + 3, 8 + 3])


def test_where_selects_the_whole_tree():
    yes, no = {"a": jnp.ones(2), "b": [jnp.zeros(3)]}, {"a": jnp.zeros(2), "b": [jnp.ones(3)]}
    for condition, expected in ((True, yes), (False, no)):
        found = jax.jit(tree.where)(jnp.asarray(condition), yes, no)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_size_and_squared_norm_by_hand():
    params = {
        "a": jnp.array([3.0, 4.0]),
        "b": [jnp.array(2.0)],
        "steps": jnp.array(7),
        "none": None,
    }
    assert tree.size(params) == 4
    assert float(tree.squared_norm(params)) == 9 + 16 + 4
    assert tree.size({}) == 0 and float(tree.squared_norm({})) == 0.0
