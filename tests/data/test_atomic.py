"""RecBole atomic files: side information joined by id, and one clear line for bad files."""

import numpy as np
import pytest

from metajax.data.logs import read
from metajax.types import UserError


def put(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_atomic_files(tmp_path):
    put(
        tmp_path,
        "d.inter",
        "user_id:token\titem_id:token\trating:float\n7\tb\t5\n3\ta\t1\n3\tb\t2\n",
    )
    put(
        tmp_path,
        "d.user",
        "user_id:token\tjob:token\theight:float\n3\tchef\t1.5\n7\t\t\n9\tpoet\t2\n",
    )
    put(
        tmp_path,
        "d.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tvec:float_seq\n"
        'b\tThe "B\t1995\tWar Drama\t1 2\nc\tC\t1996\tNoir\t9\n',
    )
    table = read.load(tmp_path / "d.inter")
    assert table.user_ids.tolist() == [3, 7] and table.item_ids.tolist() == ["a", "b"]
    columns = table.user_features.columns
    np.testing.assert_array_equal(columns["job"], [[1], [0]])
    np.testing.assert_array_equal(columns["height"], np.array([[1.5], [0]], np.float32))
    assert table.user_features.sizes == {"job": 2}
    columns = table.item_features.columns
    np.testing.assert_array_equal(columns["class"], [[0, 0], [2, 1]])
    np.testing.assert_array_equal(columns["vec"], [[0, 0], [1, 2]])
    assert table.item_titles is not None and table.item_titles.tolist() == ["", 'The "B']
    np.testing.assert_array_equal(table.item_year, [0, 1995])
    assert table.item_features.sizes == {"class": 3, "release_year": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id:token\tage\n3\t4\n", "the column 'age' has no type"),
        ("user_id:token\tage:float\n3\told\n", "the age 'old' is not a number"),
        ("user_id:token\tage:float\n3\tinf\n", "the age holds a value that is not finite"),
        ("user_id:token\tage:float\n3\n", "row 1 has 1 .*the header 2"),
    ],
)
def test_bad_atomic_sides(tmp_path, text, message):
    path = put(tmp_path, "d.inter", "user_id:token\titem_id:token\n7\tb\n3\ta\n")
    put(tmp_path, "d.user", text)
    with pytest.raises(UserError, match=message):
        read.load(path)
