"""What a task has of its own does not grow with what all tasks share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import pytest
from learner_rows import embedded

from metajax import tree
from metajax.adapters.conditions import last_layer
from metajax.adapters.lora import lora
from metajax.benchmark.baselines import state_bytes
from metajax.learners.amortized import neural_process
from metajax.learners.closed_form import ridge
from metajax.learners.ensemble import blended
from metajax.learners.gradient.context import cavia
from metajax.learners.gradient.maml import gradient
from metajax.learners.metric import prototypes
from metajax.learners.pooled import pooled
from metajax.models.features import conditioned_mlp, labeled_features, vector_features
from metajax.models.towers import vector_mlp
from metajax.optim.inner import learned_rates
from metajax.transforms.attenuate import attenuate
from metajax.transforms.committee import committee
from metajax.transforms.regularize import noisy
from metajax.types import Episode, Examples, MetaLearner

KEY, HEAD, D = jax.random.key(0), tree.under("head"), 5
ROWS = Examples(jnp.ones((4, D)), jnp.ones(4), jnp.ones(4))
EPISODE = Episode(jnp.ones(2), ROWS, ROWS)


def anil(width: int) -> MetaLearner:
    """A head of 12 numbers and a bias adapts, over an embedding of a given width."""
    return gradient(embedded(width, 12), learned_rates(0.1), 2, adapts=HEAD)


def by_ridge(width: int) -> MetaLearner:
    """Three features of a network of a given width."""
    return ridge(vector_features((width, 3)), vector_mlp((width,)), 3)


OWN: dict[str, tuple[Callable[[int], MetaLearner], int]] = {
    "anil": (anil, 12 + 1),
    "last layer": (
        lambda w: gradient(
            last_layer(vector_features((w, 6))), optax.sgd(0.1), 2, adapts=tree.under("adapter")
        ),
        6 + 1,
    ),
    "lora": (
        lambda w: gradient(
            lora(embedded(w, 12), 2, tree.matching("body/kernel"), formed=True),
            optax.sgd(0.1, momentum=0.9),
            2,
            adapts=tree.matching("adapter/.*/b"),
        ),
        2 * 2 * 12,  # B, and its momentum
    ),
    "ridge": (by_ridge, 3 * 3 + 3),
    "cavia": (lambda w: cavia(conditioned_mlp((w,)), 4, optax.sgd(0.1), 2), 4),
    "process": (
        lambda w: neural_process(labeled_features((w, 4)), conditioned_mlp((w,)), 4),
        4 + 1,
    ),
    "prototypes": (lambda w: prototypes(vector_features((w, 3)), 2, 3), 2 * 3 + 2),
    "pooled": (lambda w: pooled(vector_mlp((w,))), 0),
    "attenuated": (lambda w: attenuate(anil(w)), 12 + 1 + 1),
    "noisy": (lambda w: noisy(anil(w), 0.1, tree.under("model")), 12 + 1),
    "committee": (lambda w: committee(anil(w), 3), 3 * (12 + 1)),
    "blend": (lambda w: blended([by_ridge(w), pooled(vector_mlp((w,)))]), 12 + 2 + 1),
}
"""Learner -> how it is made over a backbone of a width, and the numbers that are a task's own."""

PROFILES = {"committee": 3, "blend": 3}
"""How many copies of the profile a state keeps, where it is not one."""


@pytest.mark.parametrize("name", OWN)
def test_a_state_does_not_grow_with_the_backbone(name: str):
    make, own = OWN[name]
    for width in (8, 800):
        learner = make(width)
        params = jax.eval_shape(learner.init, KEY, EPISODE)
        size = state_bytes(learner, params, EPISODE.profile)
        assert size == 4 * (own + 2 * PROFILES.get(name, 1))


def test_a_thousand_states_hold_nothing_of_the_backbone():
    """Mapped over users, a state grows by what is a user's own: no copy of the parameters."""
    learner = anil(800)
    params = jax.eval_shape(learner.init, KEY, EPISODE)
    profiles = jax.ShapeDtypeStruct((1000, 2), jnp.float32)
    states = jax.eval_shape(jax.vmap(learner.start, (None, 0)), params, profiles)
    assert sum(4 * x.size for x in jax.tree.leaves(states)) == 1000 * 4 * (13 + 2)
    assert sum(x.size for x in jax.tree.leaves(params)) > 13_000
