"""The choices per platform: one table, equal results whichever platform's are taken."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import platforms
from metajax.data.worlds.latent import LatentUsers
from metajax.evaluation.trial import FAST_TO_COMPILE
from metajax.learners.gradient.maml import gradient
from metajax.models.towers import vector_mlp
from metajax.training import outer_gradient

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ASKS = {
    "metajax/platforms.py",
    "metajax/training/devices.py",  # messages, and a fault of old releases on few cores
    "experiments/speed/benchmark.py",  # a measurement of a card asks whether there is one
    "experiments/speed/device_worker.py",
    "experiments/speed/choices.py",
}
"""The files that ask for the platform."""


def small(way: platforms.Way) -> platforms.Way:
    """What concerns a gradient, for a batch of four tasks: chunks of a card would hold them all."""
    size = way.chunk_size and min(way.chunk_size, 2)
    return platforms.Way(size, way.lengths, reverse=way.reverse)


WAYS = list(
    dict.fromkeys(small(way) for kinds in platforms.WAYS.values() for way in kinds.values())
)


def learner(way: platforms.Way):
    return gradient(vector_mlp((6,)), optax.sgd(0.1), 2, reverse=way.reverse)


@pytest.fixture(scope="module")
def tasks():
    """Parameters, four tasks with up to 44 ratings each, and their keys."""
    users = LatentUsers(dim=3, num_support=44, num_query=4, random_shots=True)
    keys = jax.random.split(jax.random.key(0), 4)
    episodes = jax.jit(jax.vmap(users.sample))(keys)
    one = jax.tree.map(lambda x: x[0], episodes)
    return jax.jit(learner(platforms.Way()).init)(jax.random.key(1), one), episodes, keys


@pytest.fixture(scope="module")
def plain(tasks):
    """The gradient as one writes it first."""
    params, episodes, keys = tasks
    loss = learner(platforms.Way()).loss
    mean = lambda p: jnp.mean(jax.vmap(loss, (None, 0, 0))(p, episodes, keys)[0])
    return jax.jit(jax.grad(mean), compiler_options=FAST_TO_COMPILE)(params)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way[:4])))
def test_every_way_gives_the_gradient_that_one_writes_first(way, tasks, plain):
    found = jax.jit(outer_gradient.arranged(learner(way), way), compiler_options=FAST_TO_COMPILE)
    grads, _ = found(*tasks)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    jax.tree.map(same, grads, plain)


def test_every_platform_has_a_way_with_every_kind_of_tasks():
    kinds = {platform: set(ways) for platform, ways in platforms.WAYS.items()}
    assert kinds["cpu"] == kinds["gpu"] == set(platforms.Kind.__args__)
    assert platforms.way("images") == platforms.WAYS["cpu"]["images"]
    assert platforms.way("images", "cuda") == platforms.way("images", "tpu")
    assert platforms.way("images", "cuda") != platforms.way("images", "cpu")


def test_nobody_else_asks_for_the_platform_to_choose_by_it():
    asking = set()
    for top in ("metajax", "experiments"):
        for path in (ROOT / top).rglob("*.py"):
            if re.search(r"\.(default_backend|platform_dependent)\(", path.read_text()):
                asking.add(str(path.relative_to(ROOT)))
    kernels = {"experiments/speed/on_chip.py", "experiments/speed/one_kernel.py"}
    emulation = {"experiments/speed/precision.py"}  # a processor rounds no factors by itself
    assert asking == ASKS | kernels | emulation
