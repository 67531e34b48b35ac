"""Mixed rows and tasks lie between those they are made of; a contrastive loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.data.histories import views
from metajax.data.worlds.latent import LatentUsers
from metajax.learners import in_context
from metajax.learners.gradient.maml import gradient
from metajax.models import sequence
from metajax.models.towers import vector_linear
from metajax.transforms import mix
from metajax.transforms.contrastive import contrastive, info_nce
from metajax.types import Episode, Examples, UserError

ONE = Examples(np.zeros((4, 2)), np.zeros(4), np.array([1.0, 1, 1, 0]))
TWO = Examples(np.ones((4, 2)), np.ones(4), np.ones(4))
between_tasks = jax.jit(mix.between_tasks)


def test_a_mixed_task_lies_between_two_and_labels_go_with_inputs():
    batch = jax.tree.map(lambda a, b: np.stack([a, b]), ONE, TWO)
    episodes = Episode((), batch, batch)
    found = [jax.device_get(between_tasks(episodes, jax.random.key(i))) for i in range(12)]
    shares = np.array([float(e.support.label[0, 0]) for e in found])
    assert shares.min() == 0.0 and 0.05 < shares.max() <= 0.5  # the larger share is the task's own
    for each in found:
        np.testing.assert_allclose(each.support.inputs[..., 0], each.support.label, atol=1e-6)
        assert each.support.label[0, 3] == 0.0 and each.support.label[1, 3] == 1.0  # padding of one
        np.testing.assert_allclose(each.query.label, each.support.label)


def test_the_outer_loss_is_on_mixed_query_rows():
    """A learner that predicts the first input: mixed with labels it has no error, else it has."""
    plain = gradient(vector_linear(), optax.sgd(0.0), 1)
    x, z = np.random.default_rng(0).normal(size=(2, 30, 2))
    rows = lambda x: Examples(x, x[:, 0], np.ones(30))
    task = jax.device_put(Episode((), rows(x), rows(z)))
    params = jax.jit(plain.init)(jax.random.key(0), task)
    set_to = lambda leaf: np.array([1.0, 0.0]) if leaf.shape == (2,) else np.zeros_like(leaf)
    params = jax.device_put(jax.tree.map(set_to, params))
    loss = lambda learner: float(learner.loss(params, task, jax.random.key(2))[0])
    assert loss(plain) == pytest.approx(0.0, abs=1e-9)
    for transform in (mix.meta_mix, mix.mixup):
        assert loss(transform(plain)) == pytest.approx(0.0, abs=1e-9)
        assert loss(transform(plain, labels=False)) > 0.01
    empty = task._replace(support=task.support._replace(mask=jnp.zeros(30)))
    value = mix.meta_mix(plain, labels=False).loss(params, empty, jax.random.key(2))[0]
    assert float(value) == pytest.approx(0.0, abs=1e-9)  # without a support nothing is mixed


def test_indices_cannot_be_mixed():
    index = Examples(np.arange(4), np.zeros(4), np.ones(4))
    learner = mix.meta_mix(gradient(vector_linear(), optax.sgd(0.1), 1))
    with pytest.raises(UserError, match="whole numbers"):
        jax.jit(learner.loss)({}, Episode((), index, index), jax.random.key(0))


def test_info_nce_by_hand():
    """Two rows, their views equal and orthogonal to the other: -log e^2 / (e^2 + 2) at t = .5."""
    eye, nce = np.eye(2), jax.jit(info_nce)
    expected = np.log(np.exp(2) + 2) - 2
    assert float(nce(3 * eye, eye, 0.5)) == pytest.approx(expected, rel=1e-5)
    assert float(nce(eye, eye[::-1], 0.5)) == pytest.approx(np.log(np.exp(2) + 2), rel=1e-5)


def test_the_contrastive_loss_is_added_and_nothing_else_changes():
    settings = sequence.Settings(9, sequence.small(8, 1, 1), dropout=0.0)
    plain = in_context.in_batches(in_context.sequence_learner(settings, 4), settings)
    row = lambda *shape: np.arange(np.prod(shape)).reshape(shape) % 9
    support = Examples(row(3, 3), np.ones((3, 3)), np.ones((3, 3)))
    batch = Episode((), support, Examples(row(3, 1) + 3, np.ones((3, 1)), np.ones((3, 1))))
    view = views.one_of((views.crop(), views.mask(9), views.reorder()))
    both = contrastive(plain, settings, view, weight=0.5)
    key = jax.random.key(0)
    params = jax.jit(both.init)(key, jax.tree.map(lambda x: x[0], batch))
    value, info = jax.device_get(jax.jit(both.loss)(params, batch, key))
    assert float(value) == pytest.approx(
        float(info["query_loss"] + 0.5 * info["contrast"]), rel=1e-5
    )
    same = contrastive(plain, settings, lambda items, n, key: (items, n))
    other = contrastive(plain, settings, lambda items, n, key: (items, n), related=False)
    close, far = (float(jax.jit(c.loss)(params, batch, key)[1]["contrast"]) for c in (same, other))
    assert close < far
    first = jax.tree.map(lambda x: x[0], support)
    adapted = lambda c: jax.jit(lambda p: c.adapt(p, c.start(p, ()), first, key))
    ours, theirs = adapted(both)(params), adapted(plain)(params["base"])
    np.testing.assert_array_equal(ours.items, theirs.items)


def test_a_mixed_task_of_a_world_keeps_its_shapes():
    world = LatentUsers(dim=3, num_support=5, num_query=4, random_shots=True)
    episodes = jax.jit(jax.vmap(world.sample))(jax.random.split(jax.random.key(0), 6))
    mixed = between_tasks(episodes, jax.random.key(1))
    assert jax.tree.map(jnp.shape, mixed) == jax.tree.map(jnp.shape, episodes)
    np.testing.assert_array_equal(mixed.support.mask, episodes.support.mask)
