"""Sampled negatives of an implicit log must tell nothing of what a user will be asked."""

import dataclasses

import numpy as np

from experiments.field.datasets import with_negatives
from metajax.data.table import Interactions
from metajax.data.worlds import latent


def events(change_of: np.ndarray | None = None) -> Interactions:
    """Events of 60 users with 30 items; those of some rows are with other items."""
    log = latent.rating_log(num_users=60, num_items=30)
    item = log.item.copy()
    if change_of is not None:
        item[change_of] = (item[change_of] + 7) % 30
    return dataclasses.replace(log, item=item, label=np.ones_like(log.label), state=None)


def drawn(log: Interactions) -> tuple[np.ndarray, np.ndarray]:
    made = with_negatives(log)
    assert (made.label[len(log) :] == 0).all() and (made.label[: len(log)] == 1).all()
    return made.user[len(log) :], made.item[len(log) :]


def test_draws_are_the_same_whatever_the_held_out_events_are_with():
    some = np.random.default_rng(0).random(len(events())) < 0.3
    for a, b in zip(drawn(events()), drawn(events(some)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_items_that_a_user_met_are_drawn_as_often_as_others():
    log = events()
    user, item = drawn(log)
    pair = lambda u, i: u.astype(np.int64) * log.num_items + i
    met = np.unique(pair(log.user, log.item))
    share = np.isin(pair(user, item), met).mean()
    expected = np.mean(np.bincount(met // log.num_items, minlength=60)[user]) / log.num_items
    assert abs(share - expected) < 0.05 and share > 0.1
    assert len(np.unique(pair(user, item))) == len(item), "nothing is drawn twice"
