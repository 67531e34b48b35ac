"""Views of a history: what each may change, and what it must leave."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.histories import views

ITEMS = jnp.array([5, 6, 7, 8, 9, 10, 0, 0])
KEYS = jax.random.split(jax.random.key(0), 50)


def seen(view):
    items, length = jax.jit(jax.vmap(lambda key: view(ITEMS, jnp.array(6), key)))(KEYS)
    return np.asarray(items), np.asarray(length)


def test_a_crop_is_a_stretch_of_the_share():
    items, length = seen(views.crop(0.5))
    assert (length == 3).all() and (items[:, 3:] == 0).all()
    assert {tuple(row[:3]) for row in items} == {(5, 6, 7), (6, 7, 8), (7, 8, 9), (8, 9, 10)}
    whole, one = views.crop(0.5)(ITEMS, jnp.array(1), KEYS[0])
    assert one == 1 and whole.tolist() == [5, 0, 0, 0, 0, 0, 0, 0]
    assert views.crop(0.5)(ITEMS, jnp.array(0), KEYS[0])[1] == 0


def test_a_mask_replaces_a_share_of_the_real_items():
    items, length = seen(views.mask(99, 0.3))
    assert (length == 6).all() and (items[:, 6:] == 0).all()
    hidden = items[:, :6] == 99
    assert 0.2 < hidden.mean() < 0.4
    assert ((items[:, :6] == np.asarray(ITEMS[:6])) | hidden).all()


def test_reordering_moves_items_within_one_stretch_alone():
    items, length = seen(views.reorder(0.5))
    assert (length == 6).all() and (np.sort(items, 1) == np.sort(np.asarray(ITEMS))).all()
    moved = items[:, :6] != np.asarray(ITEMS[:6])
    assert moved.any() and all(np.ptp(np.flatnonzero(row)) <= 2 for row in moved if row.any())


def test_one_of_several_views():
    items, length = seen(views.one_of((views.crop(0.5), views.mask(99, 1.0))))
    assert set(length.tolist()) == {3, 6}
    assert (items[length == 6][:, :6] == 99).all()
