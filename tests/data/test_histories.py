"""A log of many files comes out of Beam as its users, each once, in the order of time."""

import numpy as np
import pytest

from metajax.data.builders import histories
from metajax.types import UserError


def test_a_line_is_an_event_a_header_none():
    assert list(histories.event("u7, i3, 4.5, 99", "x")) == [("u7", (99, "i3", 4.5))]
    assert list(histories.event("user,item,label,time", "x")) == []
    assert list(histories.event("", "x")) == []
    for line in ("u7,i3,4.5", "u7,i3,good,99", "u7,i3,4.5,9,9"):
        with pytest.raises(UserError, match="log: a line is not user,item,label,time"):
            list(histories.event(line, "log"))


def test_a_history_is_in_the_order_of_time():
    key, example = histories.history(("u", [(5, "b", 1.0), (2, "c", 0.0), (5, "a", 3.0)]))
    assert key == example["user_id"] == "u"
    assert example["item_id"] == ["c", "a", "b"]
    np.testing.assert_array_equal(example["label"], np.float32([0, 3, 1]))
    np.testing.assert_array_equal(example["time"], [2, 5, 5])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_a_small_log_through_the_local_runner(tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{rng.integers(12)}", f"i{rng.integers(30)}", rng.integers(1, 6), t)
        for t in rng.permutation(200).tolist()
    ]
    for number in range(3):
        lines = ["user,item,label,time", *(",".join(map(str, r)) for r in rows[number::3])]
        (tmp_path / f"part-{number}.csv").write_text("\n".join(lines) + "\n")
    folder = histories.prepare(str(tmp_path / "part-*.csv"), tmp_path / "out")
    users = histories.source(folder)
    expected: dict[str, list] = {}
    for user, item, label, time in sorted(rows, key=lambda r: r[3]):
        expected.setdefault(user, []).append((item, float(label), time))
    assert len(users) == len(expected) == 12
    for example in (users[i] for i in range(len(users))):
        items = [item.decode() for item in example["item_id"]]
        made = list(zip(items, example["label"].tolist(), example["time"].tolist(), strict=True))
        assert made == expected.pop(example["user_id"].decode())
    assert histories.prepare(str(tmp_path / "part-*.csv"), tmp_path / "out") == folder
    (tmp_path / "bad.csv").write_text("u1,i1,5\n")
    with pytest.raises(UserError, match="a line is not user,item,label,time"):
        histories.prepare(str(tmp_path / "bad.csv"), tmp_path / "out")


def test_without_beam_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(histories.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="apache-beam is not installed"):
        histories.prepare("x-*.csv", tmp_path)
