"""Readers of the other published sets: their published counts, and small damaged files."""

import numpy as np
import pytest

from metajax.data.sources import crossdomain, named, published
from metajax.types import UserError

# name -> users, items, rows: from the descriptions of the sets.
COUNTS = {
    "movietweetings-100k": (16_554, 10_506, 100_000),
    "ciaodvd": (17_615, 16_121, 72_665),
    "amazon-musical-instruments": (1_429, 900, 10_261),
    "amazon-grocery": (14_681, 8_687, 121_892),
    "douban-book": (2_110, 6_777, 96_041),
    "douban-music": (1_672, 5_567, 69_709),
    "amazon-cloth": (41_829, 17_943, 187_880 + 3_156 + 3_085),
    "amazon-sport": (27_328, 12_655, 163_291 + 3_589 + 3_546),
    "jester5k": (5_000, 100, 363_209),
    "msweb": (32_711 + 5_000, 286, 98_654 + 15_191),
}
RATINGS = {
    "ciaodvd": [2_651, 4_685, 10_074, 22_560, 32_695],
    "amazon-musical-instruments": [217, 250, 772, 2_084, 6_938],
    "douban-book": [1_605, 4_207, 21_018, 38_975, 30_236],
    "douban-music": [1_478, 3_215, 13_031, 24_805, 27_180],
}
DAYS = {
    "movietweetings-100k": ("2013-02-28", "2013-09-01"),
    "ciaodvd": ("2000-05-31", "2013-11-28"),
    "amazon-musical-instruments": ("2004-09-18", "2014-07-22"),
    "amazon-grocery": ("2000-08-09", "2014-07-22"),
}


def test_every_reader_has_its_counts_checked():
    assert set(named.READERS) == set(COUNTS) | {"ml-100k", "ml-1m"}


@pytest.mark.parametrize("name", COUNTS)
def test_real_counts(data_dir, name):
    table = named.load_named(name, data_dir)
    assert (table.num_users, table.num_items, len(table)) == COUNTS[name]
    assert table.name == name
    assert len(np.unique(table.user)) == table.num_users
    if name in RATINGS:
        counts = np.bincount(table.label.astype(int), minlength=6)
        np.testing.assert_array_equal(counts[1:], RATINGS[name])
    if name in DAYS:
        assert table.time is not None
        ends = np.array([table.time.min(), table.time.max()]).astype("datetime64[s]")
        assert tuple(str(end)[:10] for end in ends) == DAYS[name]


def test_real_sides(data_dir):
    tweets = published.movietweetings_100k(data_dir)
    assert (tweets.item_features.columns["genre"] == 0).all(axis=1).sum() == 66
    assert all(len(text) == 7 for text in tweets.item_ids)
    trust = published.ciaodvd_trust(data_dir)
    assert trust.shape == (40_133, 2) and len(np.unique(trust)) == 4_658
    assert published.ciaodvd(data_dir).item_features.sizes == {"genre": 17 + 1}
    web = published.msweb(data_dir)
    assert web.state is not None and web.item_titles is not None
    np.testing.assert_array_equal(np.bincount(web.state), [98_654, 15_191])
    assert web.item_titles[list(web.item_ids).index(1000)] == "regwiz"
    jester = published.jester5k(data_dir)
    assert abs(jester.label.mean() - 0.916) < 5e-4
    assert np.bincount(jester.user).min() >= 36


def test_real_shared_users(data_dir):
    for first, second, shared in (
        (crossdomain.douban_book, crossdomain.douban_music, 1_566),
        (crossdomain.amazon_cloth, crossdomain.amazon_sport, 9_828),
    ):
        one, two = first(data_dir), second(data_dir)
        assert crossdomain.shared_users(one, two) == shared
        assert len(np.intersect1d(one.user_ids, two.user_ids)) == shared
    cloth = crossdomain.amazon_cloth(data_dir)
    assert cloth.state is not None
    train = np.unique(cloth.user[cloth.state == 0])
    assert not np.isin(np.arange(8_838, 9_828), train).any()  # the cold-start users of cloth


def test_real_omniglot(data_dir):
    small, large = published.omniglot(data_dir), published.omniglot(data_dir, 105)
    assert small["images"].shape == (32_460, 28, 28)
    assert large["images"].shape == (32_460, 105, 105)
    places = np.floor((np.arange(28) + 0.5) * 105 / 28).astype(int)
    np.testing.assert_array_equal(large["images"][:, places][:, :, places], small["images"])
    assert np.bincount(small["class_id"]).tolist() == [20] * 1_623
    assert int((~small["evaluation"]).sum()) == 19_280
    with pytest.raises(UserError, match="choose 28 or 105"):
        published.omniglot(data_dir, 64)


def test_movietweetings_small(tmp_path):
    folder = tmp_path / "movietweetings-100k"
    folder.mkdir()
    (folder / "ratings.dat").write_text("4::0000042::10::1365029107\n2::1234567::0::1365029108\n")
    (folder / "movies.dat").write_text("0000042::Été (2013)::Drama|War\n1234567::B (1999)::\n")
    table = published.movietweetings_100k(tmp_path)
    assert table.item_ids.tolist() == ["0000042", "1234567"]
    assert table.item_titles is not None and table.item_titles.tolist() == ["Été", "B"]
    np.testing.assert_array_equal(table.label, [10, 0])
    np.testing.assert_array_equal(table.user, [1, 0])
    np.testing.assert_array_equal(table.item_features.columns["genre"], [[1, 2], [0, 0]])
    (folder / "movies.dat").write_bytes("0000042::\xc9t\xe9 (2013)::Drama\n".encode("latin-1"))
    with pytest.raises(UserError, match="not utf-8"):
        published.movietweetings_100k(tmp_path)


def test_ciaodvd_small(tmp_path):
    (tmp_path / "movie-ratings.txt").write_text("5,9,2,1,4,2000-01-02\n3,7,17,2,1,1970-01-01\n")
    table = published.ciaodvd(tmp_path)
    np.testing.assert_array_equal(table.time, [10_958 * 86_400, 0])  # 30 years, 7 leap days, 1 day
    np.testing.assert_array_equal(table.item_features.columns["genre"], [[1], [2]])  # Anime, Comedy
    for bad, message in (
        ("5,9,2,1,4,2000-13-02\n", "2000-13-02"),
        ("5,9,2,1\n", r"line 1 has 4 field\(s\) instead of 6"),
        ("5,9,18,1,4,2000-01-02\n", "genre lies outside 1..17"),
        ("5,9,2,1,x,2000-01-02\n", "could not convert"),
    ):
        (tmp_path / "movie-ratings.txt").write_text(bad)
        with pytest.raises(UserError, match=message) as caught:
            published.ciaodvd(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"trusts.txt is missing; put it at .*ciaodvd/trusts.txt"):
        published.ciaodvd_trust(tmp_path)


def test_douban_small(tmp_path):
    (tmp_path / "book_ratings.dat").write_text("1\t8\t5\n9\t8\t1\n4\t2\t3\n")
    (tmp_path / "music_ratings.dat").write_text("9\t8\t2\n2\t8\t2\n4\t8\t2\n")
    book, music = crossdomain.douban_book(tmp_path), crossdomain.douban_music(tmp_path)
    assert book.user_ids.tolist() == [4, 9, 1]
    assert music.user_ids.tolist() == [4, 9, 2]
    np.testing.assert_array_equal(book.user, [2, 1, 0])
    np.testing.assert_array_equal(music.user, [1, 2, 0])
    assert crossdomain.shared_users(book, music) == 2
    assert crossdomain.shared_users(book, book) == 3


def test_msweb_small(tmp_path):
    text = 'A,7,1,"a, b","/x"\nA,9,1,"c","/y"\nC,"11",11\nV,9,1\nV,7,1\nC,"12",12\nV,9,1\n'
    (tmp_path / "anonymous-msweb.data").write_text(text)
    (tmp_path / "anonymous-msweb.test").write_text('C,"11",11\nV,7,1\n')
    table = published.msweb(tmp_path)
    assert table.user_ids.tolist() == ["data-11", "data-12", "test-11"]
    assert table.item_titles is not None and table.item_titles.tolist() == ["a, b", "c"]
    np.testing.assert_array_equal(table.item, [1, 0, 1, 0])
    np.testing.assert_array_equal(table.state, [0, 0, 0, 1])
    for bad, message in (("C,11,11\nV,\n", "line 2 is damaged"), ("I,4\n", "no visits")):
        (tmp_path / "anonymous-msweb.test").write_text(bad)
        with pytest.raises(UserError, match=message):
            published.msweb(tmp_path)


@pytest.mark.parametrize("name", [*COUNTS, "ml-100k", "ml-1m"])
def test_absent_set_names_the_file_to_get(tmp_path, name):
    with pytest.raises(UserError, match=r"is missing; put it at .*METAJAX_DATA") as caught:
        named.load_named(name, tmp_path)
    assert "\n" not in str(caught.value)
