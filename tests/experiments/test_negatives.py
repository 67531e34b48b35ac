"""Sampled negatives of an implicit log must tell nothing of what a user will be asked."""

import dataclasses

import numpy as np
from proper import assert_proper

from experiments.field import datasets
from experiments.field.datasets import with_negatives
from metajax.data import negatives, split
from metajax.data.table import Interactions
from metajax.data.worlds import latent
from metajax.results import records


def test_every_arm_of_a_log_has_proper_scores_where_it_has_squared_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_HOME", str(tmp_path / "home"))
    scores, facts = datasets.run("synthetic", datasets.Config())
    assert_proper(records.Record("datasets", (), scores), "all")
    assert {key.arm for key in scores} == {*datasets.ARMS}
    assert facts["ordinal"]["levels"] > 1
    extra = {"datasets": {"synthetic": facts}}
    told = datasets.told_of(records.Record("datasets", (), scores, extra=extra))
    assert f"synthetic {facts['ordinal']['levels']}" in told[0]


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


def test_negatives_of_training_users_do_not_depend_on_their_held_out_events():
    log = events()
    parts = split.newcomers(log)
    held = np.random.default_rng(1).random(len(parts.train_rows)) < 0.3
    parts = dataclasses.replace(parts, train_rows=parts.train_rows[~held])
    others = np.setdiff1d(np.arange(len(log)), parts.train_rows)
    is_valid = np.isin(log.user, parts.valid["user_cold"].owner)
    changed = events(others[~is_valid[others]])
    assert (changed.item != log.item).sum() > 100
    (grown, made), (other, again) = (
        negatives.with_negatives(table, parts) for table in (log, changed)
    )
    for name in ("user", "item", "label"):
        of = lambda table, rows, name=name: getattr(table, name)[rows]
        np.testing.assert_array_equal(of(grown, made.train_rows), of(other, again.train_rows))
    drawn = made.train_rows[made.train_rows >= len(log)]
    pair = lambda rows: set(zip(grown.user[rows].tolist(), grown.item[rows].tolist(), strict=True))
    assert not pair(drawn) & pair(parts.train_rows), "a training event is no negative"
    assert pair(drawn) & pair(others), "held-out events are not avoided"
