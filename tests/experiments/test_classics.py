"""The page of the classics: operations counted by pencil, numbers that are those of records."""

import pathlib
import re

import numpy as np
import pytest

from experiments.classics.omniglot import omniglot
from experiments.pages import classics
from experiments.pages.classics import few_shot, projection
from metajax import benchmark
from metajax.results import records
from metajax.types import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_an_outer_step_of_maml_is_what_a_pencil_says():
    """Multiplications of the network's layers, and how often each is taken, second order included.

    The places are 14, 7, 4 and 2 squared; the first layer has no gradient by its input. With a
    kernel W, a support pass is forward, by W and by x; its derivative along the outer gradient
    takes both products of each of these again. The head is counted with the rest.
    """
    layers = [196 * 9 * 64] + [n * 9 * 64 * 64 for n in (49, 16, 4)] + [64 * 5]
    image = 2 * sum(layers)
    method = classics.published_method(5, 1)
    found = projection.cost(method, classics.blank(), compiles=False).flops
    per_task = found / method.num_tasks / image
    forward_and_backward, second_order = 3, 9
    most = 5 * second_order + 5 * forward_and_backward
    assert 0.8 * most <= per_task <= most + 0.1


def test_the_projection_is_its_own_arithmetic():
    device = projection.Device("toy", peak=1e9, share=0.5, launch=1e-3)
    found = projection.Cost(flops=1e6, launches=4)
    assert found.seconds(device) == pytest.approx(0.002 + 0.004)
    said = projection.sentence(found, 10_000, device)
    assert "2.0 + 4.0 ms" in said and "1 minutes for 10,000 steps" in said


def test_cells_show_ours_and_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"run python -m experiments omniglot --publish"):
        classics.main(classics.Config(from_records=True))
    for arm, share, count in (("MAML, layer norm", 0.5, 600), ("FOMAML", 0.25, 20)):
        name = records.Key("5-way 1-shot", arm, "test", "accuracy")
        scores = {name: np.full((1, count), share)}
        record = records.Record("omniglot", (), scores, scenario="5-way 1-shot", method=arm)
        records.write(tmp_path, f"omniglot-5w1s-{share}", record)
    rows = classics.omniglot_table().splitlines()[2:]
    quoted = few_shot.published("omniglot")
    assert rows[0].startswith("| MAML, layer norm | 50.00 [50.00, 50.00] |")
    first = f"25.00 [25.00, 25.00] on 20 tasks ({quoted['5-way 1-shot|FOMAML']})"
    assert rows[1].startswith(f"| FOMAML | {first} | — ({quoted['5-way 5-shot|FOMAML']}) |")


def test_the_command_writes_over_its_page(tmp_path, monkeypatch, capsys):
    """The page is a file, and so is no folder of a run that must be empty or made."""
    page = tmp_path / "classics.md"
    page.write_text((ROOT / "docs" / "classics.md").read_text())
    monkeypatch.setattr(classics, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"{classics.START}\n{classics.END}\n")
    monkeypatch.setattr("sys.argv", ["classics", "--page", str(page)])
    benchmark.cli(classics.main, classics.Config)
    assert f"wrote {page}" in capsys.readouterr().out
    assert page.read_text() == (ROOT / "docs" / "classics.md").read_text()


def test_readme_and_page_are_what_the_records_say():
    readme = (ROOT / "README.md").read_text()
    assert classics.put_block(readme) == readme, "run python -m experiments classics"
    with pytest.raises(UserError, match="the README has no lines"):
        classics.put_block("# metajax")
    page = (ROOT / "docs" / "classics.md").read_text()
    for name, table in classics.tables().items():
        assert table in page, f"{name}: run python -m experiments classics"
    found = projection.cost(classics.published_method(5, 1), classics.blank(), compiles=False)
    assert f"5-way 1-shot: {found.flops / 1e9:.1f} GFLOP" in page
    assert re.search(r"5-way 1-shot: .* minutes for 60,000 steps", page)


def test_every_method_of_the_table_has_a_quoted_number():
    quoted = few_shot.published("omniglot")
    for label, _ in omniglot.ARMS.values():
        if label != "ANIL":
            assert all(f"{s}|{label}" in quoted for s in classics.SETTINGS)
