"""MovieLens readers: published counts on the real files, small files in both layouts, errors."""

import io

import numpy as np
import pytest

from metajax.data.sources import movielens, named
from metajax.types import UserError

U_DATA = "7\t20\t5\t881250949\n3\t10\t1\t881250950\n7\t10\t4\t881250951\n"
FLAGS = "|".join("1" if place in (3, 5) else "0" for place in range(19))  # Animation, Comedy
NO_GENRE = "|".join("1" if place == 0 else "0" for place in range(19))


def write_100k(folder):
    folder.mkdir()
    (folder / "u.data").write_text(U_DATA)
    (folder / "u.user").write_text("3|17|M|writer|32067\n7|55|F|artist|V1G4L\n9|30|M|none|1\n")
    items = f"10|Caf\xe9 (1996)|01-Jan-1996||url|{FLAGS}\n20|unknown||||{NO_GENRE}\n"
    (folder / "u.item").write_bytes(items.encode("latin-1"))


def write_1m(folder, ratings="6::20::5::978300760\n2::10::3::978300761\n2::20::1::978300762\n"):
    folder.mkdir()
    (folder / "ratings.dat").write_text(ratings)
    (folder / "users.dat").write_text("2::M::56::16::70072\n6::F::1::10::48067\n")
    movies = "10::Am\xe9lie (1998)::Drama|Comedy\n20::Heat (1995)::Drama\n30::Unseen (2000)::War\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))


def compact(folder, **changes):
    columns = {
        "user_id": np.array([6, 2, 2], np.uint16),
        "movie_id": np.array([20, 10, 20], np.uint16),
        "rating": np.array([5, 3, 1], np.uint8),
        "timestamp": np.array([978300760, 978300761, 978300762], np.int32),
    } | changes
    (folder / "ratings.dat").unlink()
    np.savez(folder / "ratings.npz", **columns)


def names(features, column, row, vocabulary):
    """The category names of a row: indices count from 1 in the sorted vocabulary."""
    return [sorted(vocabulary)[code - 1] for code in features.columns[column][row] if code]


def test_100k_small(tmp_path):
    write_100k(tmp_path / "ml-100k")
    table = movielens.ml_100k(tmp_path)
    np.testing.assert_array_equal(table.user_ids, [3, 7])
    np.testing.assert_array_equal(table.item_ids, [10, 20])
    np.testing.assert_array_equal(table.user, [1, 0, 1])
    np.testing.assert_array_equal(table.item, [1, 0, 0])
    np.testing.assert_array_equal(table.label, [5, 1, 4])
    np.testing.assert_array_equal(table.time, [881250949, 881250950, 881250951])
    np.testing.assert_array_equal(table.item_year, [1996, 0])
    assert list(table.item_titles) == ["Café", "unknown"]
    profile = table.user_features
    assert names(profile, "age", 0, {"1", "50"}) == ["1"]  # 17 years and 55, which is not 56
    assert profile.sizes == {"gender": 3, "age": 3, "occupation": 3, "zip": 3}
    items = table.item_features
    assert names(items, "genre", 0, {"Animation", "Comedy"}) == ["Animation", "Comedy"]
    assert not items.columns["genre"][1].any()
    np.testing.assert_array_equal(items.columns["year"], [[1], [0]])


def test_1m_layouts_agree(tmp_path):
    write_1m(tmp_path / "ml-1m")
    original = movielens.ml_1m(tmp_path / "ml-1m")
    compact(tmp_path / "ml-1m")
    packed = movielens.ml_1m(tmp_path)
    assert original.checksum() == packed.checksum()
    assert original.state is None and packed.state is None
    np.testing.assert_array_equal(original.user, [1, 0, 0])
    np.testing.assert_array_equal(original.item, [1, 0, 1])
    assert list(original.item_titles) == ["Amélie", "Heat"]  # the unrated third is no item
    assert names(original.item_features, "genre", 0, {"Comedy", "Drama"}) == ["Drama", "Comedy"]
    np.testing.assert_array_equal(original.item_features.columns["decade"], [[1], [1]])


def test_1m_states_and_content(tmp_path):
    folder = tmp_path / "ml-1m"
    write_1m(folder)
    compact(folder, melu_state=np.array([1, 2, 0], np.uint8))
    (folder / "melu").mkdir()
    (folder / "melu" / "movies_extra.csv").write_text(
        "movie_id,title,year,rated,released,genres,directors,actors\n"
        '10,A,1998,R,1 May,"Drama, Romance",N/A,"Zoe, Abe, Zoe"\n20,H,1995,N/A,1 May,Drama,M,\n'
    )
    table = movielens.ml_1m(folder)
    assert table.state is not None
    np.testing.assert_array_equal(table.state, [1, 2, 0])
    columns = table.item_features.columns
    np.testing.assert_array_equal(columns["rated"], [[1], [0]])
    np.testing.assert_array_equal(columns["director"], [[0], [1]])
    np.testing.assert_array_equal(columns["actor"], [[2, 1], [0, 0]])
    np.testing.assert_array_equal(columns["genre_imdb"], [[1, 2], [1, 0]])


def test_ids_absent_from_the_side_tables_have_no_features(tmp_path):
    write_1m(tmp_path / "ml-1m", "6::20::5::978300760\n8::40::3::978300761\n")
    table = movielens.ml_1m(tmp_path)
    np.testing.assert_array_equal(table.user_ids, [6, 8])
    assert not any(column[1].any() for column in table.user_features.columns.values())
    assert not any(column[1].any() for column in table.item_features.columns.values())
    assert table.item_titles is not None and table.item_titles[1] == ""


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("6::20::5::978300760\n2::10::3", r"line 2 has 3 field\(s\) instead of 4; .* cut short"),
        ("6::20::5::978300760\n2::10::3::9783", "last line is cut short"),
        ("6::20::5::978300760\n2::10::6::978300761\n", "rating 6 in row 2 lies outside the scale"),
        ("6::20::five::978300760\n", "line 1: the rating 'five' is not a number"),
        ("6::20::nan::978300760\n", "line 1: the rating 'nan' is not a number"),
        ("6::2.5::4::978300760\n", "movie id 2.5 is not a whole number"),
        ("\n", "the file is empty"),
    ],
)
def test_damaged_ratings(tmp_path, ratings, message):
    write_1m(tmp_path / "ml-1m", ratings)
    with pytest.raises(UserError, match=message) as caught:
        movielens.ml_1m(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rating": np.array([5, np.nan, 1])}, "row 2: the rating is not a number"),
        ({"rating": np.array([5, 1])}, "differ in length"),
        ({"rating": np.array([5, 0, 1])}, "rating 0 in row 2 lies outside"),
        ({"melu_state": np.zeros(2, np.uint8)}, "column state has 2 rows"),
    ],
)
def test_damaged_arrays(tmp_path, changes, message):
    write_1m(tmp_path / "ml-1m")
    compact(tmp_path / "ml-1m", **changes)
    with pytest.raises(UserError, match=message):
        movielens.ml_1m(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.99])
def test_npz_cut_short(tmp_path, keep):
    write_1m(tmp_path / "ml-1m")
    compact(tmp_path / "ml-1m")
    path = tmp_path / "ml-1m" / "ratings.npz"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="not a complete npz file"):
        movielens.ml_1m(tmp_path)


def test_npz_without_an_array(tmp_path):
    write_1m(tmp_path / "ml-1m")
    buffer = io.BytesIO()
    np.savez(buffer, user_id=np.ones(1))
    (tmp_path / "ml-1m" / "ratings.npz").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="no array movie_id"):
        movielens.ml_1m(tmp_path)


@pytest.mark.parametrize("file", ["u.data", "u.user", "u.item"])
def test_missing_file_says_where_to_put_it(tmp_path, file):
    write_100k(tmp_path / "ml-100k")
    (tmp_path / "ml-100k" / file).unlink()
    with pytest.raises(UserError, match=f"put it at .*ml-100k/{file}.*METAJAX_DATA"):
        movielens.ml_100k(tmp_path)


def test_damaged_side_table(tmp_path):
    write_100k(tmp_path / "ml-100k")
    (tmp_path / "ml-100k" / "u.user").write_text("3|17|M|writer\n")
    with pytest.raises(UserError, match="line 1 has 4 field"):
        movielens.ml_100k(tmp_path)
    (tmp_path / "ml-100k" / "u.user").write_text("three|17|M|writer|1\n")
    with pytest.raises(UserError, match="id 'three' is not a whole number"):
        movielens.ml_100k(tmp_path)


def test_missing_folder_and_unknown_name(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no data folder .*METAJAX_DATA"):
        named.load_named("ml-1m", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no folder .*--data-dir"):
        movielens.ml_1m(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"'ml-2m'; the known ones are .*ml-100k.*ml-1m"):
        named.load_named("ml-2m", tmp_path)
    write_100k(tmp_path / "ml-100k")
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    assert named.data_folder() == tmp_path
    assert len(named.load_named("ml-100k")) == 3
    assert named.data_folder(tmp_path / "ml-100k") == tmp_path / "ml-100k"


def test_real_100k(data_dir):
    table = movielens.ml_100k(data_dir)
    assert (table.num_users, table.num_items, len(table)) == (943, 1682, 100_000)
    counts = np.bincount(table.label.astype(int))
    np.testing.assert_array_equal(counts[1:], [6110, 11370, 27145, 34174, 21201])
    assert np.bincount(table.user).min() == 20
    assert table.time is not None
    days = table.time[[table.time.argmin(), table.time.argmax()]].astype("datetime64[s]")
    assert [str(day)[:10] for day in days] == ["1997-09-20", "1998-04-22"]
    gender = np.bincount(table.user_features.columns["gender"][:, 0])
    np.testing.assert_array_equal(gender, [0, 273, 670])  # F before M
    assert table.user_features.sizes["occupation"] == 21 + 1


def test_real_1m(data_dir):
    table = movielens.ml_1m(data_dir)
    assert (table.num_users, table.num_items, len(table)) == (6040, 3706, 1_000_209)
    counts = np.bincount(table.label.astype(int))
    np.testing.assert_array_equal(counts[1:], [56174, 107557, 261197, 348971, 226310])
    assert table.state is not None and table.item_year is not None
    np.testing.assert_array_equal(np.bincount(table.state), [640448, 163702, 157456, 38603])
    # MeLU's cold movies are those released after 1997: its states against our years.
    np.testing.assert_array_equal(np.isin(table.state, (2, 3)), table.item_year[table.item] > 1997)
    assert table.user_features.sizes["occupation"] == 21 + 1
    assert table.user_features.sizes["age"] == 7 + 1
    assert table.item_features.sizes["rated"] == 6 + 1
