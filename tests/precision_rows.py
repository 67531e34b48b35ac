"""One small learner of each family, as it computes in float32 and in bfloat16, and what that costs.

The families are those of the workloads that are measured for speed, with the same networks at small
widths, and the ridge head. The rows are the cases of `test_tf32`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.speed import ours, problems
from metajax import losses, tree
from metajax.adapters.mixed import mixed
from metajax.learners.closed_form import ridge
from metajax.learners.gradient.fast_perceptron import fast_maml
from metajax.learners.gradient.maml import gradient
from metajax.models import conv
from metajax.models.features import vector_features
from metajax.models.towers import vector_linear, vector_mlp
from metajax.types import Episode, Examples, MetaLearner, Model, PyTree

TASKS = 32


class Row(NamedTuple):
    """A learner in both types of activations, tasks to take its meta-gradient on, and bounds.

    Attributes:
      name: the id of the test.
      wide: the learner in float32.
      narrow: the same learner with bfloat16 activations.
      params: meta-parameters.
      episodes: tasks, leaves (`TASKS`, ...).
      bound: type of activations -> the largest error of the median task's meta-gradient against
        float64, relative to its norm; two to three times what was measured.
    """

    name: str
    wide: MetaLearner
    narrow: MetaLearner
    params: PyTree
    episodes: Episode
    bound: dict[str, float]


def _episodes(inputs: jax.Array, label: jax.Array) -> Episode:
    """Tasks whose rows (T, 2 N, ...) are half support and half query."""
    half = label.shape[1] // 2
    mask = jnp.ones((len(label), half))
    part = lambda rows: Examples(inputs[:, rows], label[:, rows], mask)
    return Episode((), part(slice(half)), part(slice(half, None)))


@functools.cache
def _ratings() -> Episode:
    """Linear tastes of four features, five ratings each in support and query."""
    key_x, key_w = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (TASKS, 10, 4))
    w = jax.random.normal(key_w, (TASKS, 4))
    return _episodes(x, jnp.sum(x * w[:, None], axis=-1))


def _bound(bf16: float) -> dict[str, float]:
    """With float32 and TF32 the bound is the same for all."""
    return {"float32": 1e-6, "tf32": 2e-3, "bfloat16": bf16}


def _one_step(model: Model, adapts: tree.Filter = tree.everything) -> MetaLearner:
    """MAML of one step on a network that tells classes."""
    loss = losses.class_cross_entropy
    return gradient(model, optax.sgd(0.1), 1, adapts=adapts, loss=loss)


def rating_mlp() -> Row:
    """The perceptron of W1 and W3 in its dual form."""
    episodes = _ratings()
    of = lambda compute: fast_maml(vector_mlp((12,)), 0.05, 2, compute=compute)
    params = of(None).init(jax.random.key(1), jax.tree.map(lambda x: x[0], episodes))
    return Row("rating MLP", of(None), of(jnp.bfloat16), params, episodes, _bound(0.015))


def conv4() -> Row:
    """Two of the four convolutions of W2: a program of four takes long to compile."""
    images = jax.random.normal(jax.random.key(2), (TASKS, 6, 12, 12, 1))
    label = jnp.tile(jnp.arange(3), (TASKS, 2))
    model = conv.conv4(3, filters=6)
    params = model.init(jax.random.key(3), (), images[0])
    params["body"] = {name: params["body"][name] for name in ("0", "1")}
    learners = _one_step(model), _one_step(mixed(model))
    whole = {"model": params, "rates": ()}
    return Row("conv4", *learners, whole, _episodes(images, label), _bound(0.15))


def ridge_head() -> Row:
    """Features of a network, and a ridge regression on them, which stays exact."""
    episodes = _ratings()
    features, offset = vector_features((8, 6)), vector_linear()
    wide, narrow = ridge(features, offset, 6), ridge(mixed(features), mixed(offset), 6)
    params = wide.init(jax.random.key(4), jax.tree.map(lambda x: x[0], episodes))
    return Row("ridge head", wide, narrow, params, episodes, _bound(0.02))


def sequences() -> Row:
    """The Transformer of W4 with low-rank updates, of one layer."""
    sizes = {"NUM_ITEMS": 20, "WIDTH": 8, "LENGTH": 5, "LAYERS": 1, "RANK": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(problems, name, size)
        problem = problems.sequences(num_tasks=TASKS)
    model = Model(lambda *_: {}, ours.transformer)
    part = lambda p: Examples(*map(jnp.asarray, p))
    episodes = Episode((), part(problem.support), part(problem.query))
    params = {"model": jax.tree.map(jnp.asarray, problem.weights), "rates": ()}
    learners = _one_step(model, problem.adapts), _one_step(mixed(model), problem.adapts)
    return Row("W4", *learners, params, episodes, _bound(0.04))


ROWS = (rating_mlp, conv4, ridge_head, sequences)
