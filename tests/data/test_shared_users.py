"""Two logs of the same people: who is in both, and what is refused."""

import numpy as np
import pytest

from metajax.data import shared_users
from metajax.data.sources import crossdomain
from metajax.data.table import Features, Interactions
from metajax.types import UserError


def log(name: str, user: list[str], item: list[int], genre: list[int] | None = None):
    ids, codes = np.unique(user, return_inverse=True)
    features = Features()
    if genre:
        features = features.with_column("genre", np.array(genre)[:, None], 4)
    return Interactions(
        name, codes.astype(np.int32), np.array(item, np.int32), np.ones(len(user), np.float32),
        None, ids, np.arange(max(item) + 1), Features(), features, (0.0, 1.0),
    )  # fmt: skip


def test_people_of_both_logs_come_first_and_keep_their_rows():
    first = log("a", ["eve", "ann", "bob"], [0, 1, 2])
    second = log("b", ["bob", "zoe", "eve", "eve"], [0, 1, 2, 3])
    pair = shared_users.paired(first, second)
    assert pair.shared == 2
    assert pair.source.user_ids.tolist() == ["bob", "eve", "ann"]
    assert pair.target.user_ids.tolist() == ["bob", "eve", "zoe"]
    assert pair.source.user.tolist() == [1, 2, 0] and pair.target.user.tolist() == [0, 2, 1, 1]


def test_two_logs_without_a_shared_user_get_one_line():
    with pytest.raises(UserError, match="no user is in both a and b: users are matched by their"):
        shared_users.paired(log("a", ["ann"], [0]), log("b", ["zoe"], [0]))


def test_a_category_is_a_domain_without_the_items_of_the_other():
    table = log("films", ["a", "a", "b"], [0, 1, 2], [1, 2, 1])
    found = shared_users.of_category(table, "genre", 1, 2, "films-1")
    assert found.item_ids.tolist() == [0, 2] and found.user.tolist() == [0, 1]
    with pytest.raises(UserError, match="no item has this genre"):
        shared_users.of_category(table, "genre", 3, 2, "films-3")


def test_four_domains_share_their_people(data_dir):
    if not (data_dir / "amazon-four-domains").is_dir():
        pytest.skip("no amazon-four-domains")
    beauty = crossdomain.four_domains(data_dir, "amazon-beauty")
    home = crossdomain.four_domains(data_dir, "amazon-home")
    assert (len(beauty), beauty.num_users, beauty.num_items) == (50_329, 4_474, 10_379)
    assert (len(home), home.num_users, home.num_items) == (89_885, 7_144, 16_258)
    assert shared_users.paired(beauty, home).shared == 1_994
    every = crossdomain.four_domains(data_dir)
    items = 10_379 + 14_188 + 11_837 + 16_258
    assert (len(every), every.num_users, every.num_items) == (287_677, 9_624, items)
