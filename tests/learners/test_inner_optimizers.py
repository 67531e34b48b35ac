"""A support without rows leaves finite outer gradients, whatever the inner optimizer."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.data.worlds.latent import LatentUsers
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp

EPISODE = jax.jit(LatentUsers(dim=3, num_support=8, num_query=10).sample)(jax.random.key(3))
LEFT_OUT = {"lbfgs", "polyak_sgd", "optimistic_adam"}
"""Their update takes the value of the loss, too; the last is deprecated."""


def _named() -> dict[str, optax.GradientTransformation]:
    """Every optimizer that optax exports by a function of a learning rate."""
    found = {}
    for name in sorted(set(dir(optax)) - LEFT_OUT):
        make = getattr(optax, name)
        if not inspect.isfunction(make) or make.__module__ != "optax._src.alias":
            continue
        given = {"learning_rate": 0.1}
        if "key" in inspect.signature(make).parameters:
            given["key"] = jax.random.key(0)
        found[name] = make(**given)
    return found


NAMED = _named()
CHAINED = {
    "clip_by_global_norm": optax.clip_by_global_norm(1.0),
    "clip_by_block_rms": optax.clip_by_block_rms(1.0),
    "normalize_by_update_norm": optax.normalize_by_update_norm(),
    "scale_by_trust_ratio": optax.scale_by_trust_ratio(),
    "centralize": optax.centralize(),
}
INNER = NAMED | {name: optax.chain(tx, optax.sgd(0.1)) for name, tx in CHAINED.items()}


def test_optax_still_has_the_optimizers_that_were_known():
    assert {"adam", "adamw", "lamb", "lion", "novograd", "radam", "rmsprop", "sgd"} <= set(NAMED)
    assert len(NAMED) > 20 and set(INNER) >= FAST


FAST = {
    *("sgd", "adam", "adafactor", "lamb", "lion", "novograd", "rmsprop", "sm3"),
    *("normalize_by_update_norm", "scale_by_trust_ratio"),
}
"""One of each kind of accumulator, norm and root; the slow tests try all."""


@pytest.mark.parametrize(
    "name", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in INNER]
)
def test_an_empty_support_gives_finite_outer_gradients(name):
    learner = gradient(vector_mlp((4,)), INNER[name], 2)
    params = learner.init(jax.random.key(0), EPISODE)
    support = EPISODE.support._replace(mask=jnp.zeros_like(EPISODE.support.mask))
    empty = EPISODE._replace(support=support)
    grads, _ = jax.jit(jax.grad(learner.loss, has_aux=True))(params, empty, jax.random.key(0))
    leaves = jax.tree.leaves(grads)
    assert all(np.isfinite(x).all() for x in leaves)
    assert any((x != 0).any() for x in leaves)
