"""The shop's log has the truth it claims, and comes out the same however it was interrupted."""

import dataclasses
import json

import numpy as np
import pytest

from metajax.data.worlds import commerce, shop
from metajax.types import UserError

SMALL = commerce.World(num_users=400, num_items=600, events=(5, 12), seed=3)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Nine pieces instead of two."""
    monkeypatch.setattr(commerce, "USERS", 70)
    monkeypatch.setattr(commerce, "ITEMS", 200)
    commerce._catalogue.cache_clear()


@pytest.fixture
def made(tmp_path):
    return shop.generate(SMALL, tmp_path)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_each_user_is_shown_items_once_and_in_the_number_asked(made):
    length = np.diff(made.offsets)
    assert made.offsets[-1] == len(made.item) == len(made.label)
    assert (length.min(), length.max()) == (5, 12)
    for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True):
        assert len(set(made.item[a:b].tolist())) == b - a


def test_what_is_shown_first_follows_the_power_law():
    """The share of rank r is the integral of x ** -.8 from r to r + 1 over that from 1 to V + 1."""
    world = dataclasses.replace(SMALL, num_users=20_000)
    rng = np.random.default_rng(0)
    first = commerce._shown(world, rng, 20_000, 1)[:, 0]
    count = np.bincount(first, minlength=600)
    x = np.linspace(1.0, 2.0, 100_001)
    best = np.trapezoid(x**-0.8, x) / (5 * (601**0.2 - 1))
    item = int(np.argmax(commerce.exposure(world)))
    assert commerce.exposure(world)[item] == pytest.approx(best, rel=1e-6)
    assert commerce.exposure(world).sum() == pytest.approx(1.0)
    expected = 20_000 * commerce.exposure(world)
    assert np.abs((count - expected) / np.sqrt(expected)).max() < 4.5


def test_chances_are_those_of_the_stored_vectors(made):
    """At a user's last event, from the stored taste: a sum over directions, written out."""
    last = made.offsets[1:] - 1
    item = made.item[last]
    product = np.einsum("ud,ud->u", made.latent[item], made.taste) / 4.0
    score = -0.5 + made.quality[item] + 1.5 * product
    np.testing.assert_allclose(made.chance[last], sigmoid(score), atol=1e-3)


def test_labels_are_drawn_with_their_chances(made):
    chance = np.asarray(made.chance, float)
    deviation = (made.label - chance).sum() / np.sqrt((chance * (1 - chance)).sum())
    assert abs(deviation) < 4
    assert set(np.unique(made.label)) == {0, 1}


def test_tastes_spread_by_tau_along_a_falling_spectrum(tmp_path):
    world = dataclasses.replace(SMALL, num_users=4_000, tau=2.0)
    found = shop.generate(world, tmp_path)
    weight = np.arange(1, 17) ** -1.5
    expected = 4.0 * 16 * weight / weight.sum()
    variance = found.taste.var(axis=0)
    np.testing.assert_allclose(variance, expected, rtol=6 * np.sqrt(2 / 4000))


def test_without_spread_everyone_is_alike(tmp_path):
    found = shop.generate(dataclasses.replace(SMALL, tau=0.0), tmp_path)
    assert np.ptp(found.taste, axis=0).max() == 0.0
    order = np.argsort(found.item, kind="stable")
    item, chance = found.item[order], np.asarray(found.chance)[order]
    same = item[1:] == item[:-1]
    assert same.sum() > 100 and (chance[1:] == chance[:-1])[same].all()


def test_features_show_the_vector_but_for_its_hidden_part(made):
    """Regressed on the atanh of its features, a vector keeps about a fifth of its variance."""
    x = np.arctanh(np.clip(np.asarray(made.content, float), -0.95, 0.95))
    z = np.asarray(made.latent, float)
    left = z - x @ np.linalg.lstsq(x, z, rcond=None)[0]
    assert 0.15 < left.var() / z.var() < 0.35


def test_a_killed_generation_goes_on_to_the_same_log(tmp_path, made, monkeypatch):
    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        shop.generate(SMALL, tmp_path / "again", kill)
    with pytest.raises(UserError, match="4 of 9 pieces missing"):
        shop.load(tmp_path / "again")
    again = []
    users = commerce._users
    monkeypatch.setattr(commerce, "_users", lambda w, n, size: again.append(n) or users(w, n, size))
    whole = shop.generate(SMALL, tmp_path / "again")
    assert again == [2, 3, 4, 5]
    assert whole.digest == made.digest
    for name in commerce.shapes(SMALL):
        np.testing.assert_array_equal(getattr(whole, name), getattr(made, name))


def test_a_changed_byte_is_found(tmp_path):
    found = shop.generate(SMALL, tmp_path)
    assert shop.verify(tmp_path) == []
    labels = np.load(tmp_path / "label.npy", mmap_mode="r+")
    labels[found.offsets[75]] ^= 1
    labels.flush()
    assert shop.verify(tmp_path) == ["users-00001"]


def test_other_seeds_are_other_logs_and_another_world_is_refused(tmp_path, made):
    other = shop.generate(dataclasses.replace(SMALL, seed=4), tmp_path / "other")
    assert other.digest != made.digest
    with pytest.raises(UserError, match="holds another world"):
        shop.generate(dataclasses.replace(SMALL, tau=0.5), tmp_path)
    told = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(told | {"version": 0}))
    with pytest.raises(UserError, match="another version"):
        shop.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"events": (9, 5)}, "fewest first"),
        ({"num_items": 40}, "too few for 12 events"),
        ({"tau": -1.0}, "tau not negative"),
    ],
)
def test_impossible_worlds_are_refused(tmp_path, change, told):
    with pytest.raises(UserError, match=told):
        shop.generate(dataclasses.replace(SMALL, **change), tmp_path)


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(UserError, match="generate it first"):
        shop.load(tmp_path)
