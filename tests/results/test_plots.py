"""Figures: as wide as a column, told apart without color, the same bytes for the same record."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import figure
from small_records import record

from metajax.results import intervals, plots, records
from metajax.types import UserError


def width_of(path) -> int:
    return struct.unpack(">I", path.read_bytes()[16:20])[0]


@pytest.fixture
def drawn(monkeypatch):
    """The lines of each figure, caught when it is saved."""
    caught = []
    save = figure.Figure.savefig

    def keep(figure, path, **options):
        caught.append([line for axes in figure.axes for line in axes.get_lines()])
        save(figure, path, **options)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return caught


def test_the_k_shot_curve_is_a_column_wide_and_holds_the_means(tmp_path, drawn):
    plots.k_shot(record(), "user_cold", tmp_path / "k.png")
    assert width_of(tmp_path / "k.png") == round(3.3 * 300)
    lines = {line.get_label(): list(line.get_ydata()) for line in drawn[0]}
    assert lines["A6 MAML"] == pytest.approx([1.0245] * 3)
    assert lines["A2 fold-in"] == pytest.approx([1.2245] * 3)


def test_an_arm_that_diverges_does_not_hide_the_others(tmp_path, drawn):
    made = record()
    made.scores[records.Key("user_cold", "A4 fine-tuned", "k=5", "mae")] += 1e9
    plots.k_shot(made, "user_cold", tmp_path / "k.png")
    axes = drawn[0][0].axes
    assert axes.get_ylim()[1] < 2.0
    assert [text.get_text() for text in axes.texts] == ["off the scale: up to 1e+09"]


def test_an_arm_whose_predictions_are_not_finite_does_not_stop_the_curve(tmp_path, drawn):
    made = record()
    made.scores[records.Key("user_cold", "A4 fine-tuned", "k=5", "mae")] += float("inf")
    plots.k_shot(made, "user_cold", tmp_path / "k.png")
    finite = {line.get_label(): np.isfinite(line.get_ydata()).all() for line in drawn[0]}
    assert not finite["A4 fine-tuned"] and finite["A6 MAML"]


def test_no_two_arms_look_alike_in_grey():
    looks = {(str(plots.look(i)["linestyle"]), plots.look(i)["marker"]) for i in range(14)}
    assert len(looks) == 14 and len({marker for _, marker in looks}) == 14
    assert len({style for style, _ in looks}) == 8


def test_learning_curves_show_the_mean_of_the_seeds_over_the_steps(tmp_path, drawn):
    plots.learning(record(), tmp_path / "l.png")
    joint = drawn[0][0]
    assert list(joint.get_xdata()) == [100, 200, 300]
    assert list(joint.get_ydata()) == pytest.approx([0.95, 0.8, 0.65])
    with pytest.raises(UserError, match="no history of 'accuracy'"):
        plots.learning(record(), tmp_path / "m.png", "accuracy")


def test_the_forest_fills_only_what_excludes_zero(tmp_path, drawn):
    clear = intervals.Interval(0.2, 0.1, 0.3, 0.01, 9, 0)
    unclear = intervals.Interval(0.0, -0.1, 0.1, 0.9, 9, 0)
    plots.forest([("clear", clear), ("unclear", unclear)], tmp_path / "f.png", "MAE")
    faces = [line.get_markerfacecolor() for line in drawn[0] if line.get_marker() == "s"]
    assert faces == ["black", "white"]
    with pytest.raises(UserError, match="no paired differences"):
        plots.forest([], tmp_path / "g.png", "MAE")


def test_the_pareto_front_joins_the_undominated(tmp_path, drawn):
    points = {
        "cheap": (0.0, 0.9),
        "dominated": (5.0, 0.95),
        "good": (10.0, 0.5),
        "costly": (20.0, 0.5),
    }
    plots.pareto(points, tmp_path / "p.png", "gradients", "MAE")
    front = drawn[0][0]
    assert list(front.get_xdata()) == [0.0, 10.0] and list(front.get_ydata()) == [0.9, 0.5]


def test_the_same_record_gives_the_same_bytes(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        for name in ("a", "b"):
            plots.k_shot(record(), "user_cold", tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_importing_the_pictures_leaves_the_backend_to_the_user():
    """A window of the user's own stays possible after the library is imported."""
    code = (
        "import matplotlib; before = dict.__getitem__(matplotlib.rcParams, 'backend');"
        "import metajax.benchmark.harness, experiments.classics.sinusoid.report;"
        "assert dict.__getitem__(matplotlib.rcParams, 'backend') is before"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
