"""Pictures of results, readable in grey and at the width of a column (3.3 inches).

Arms differ in line style and marker before they differ in color. The suffix of the path decides the
format: png, svg, pdf.
"""

import contextlib
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metajax.results import intervals, reliability, tables
from metajax.results import records as report
from metajax.types import UserError

MARKERS = "osD^vPX*<>hpd8"
STYLES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (8, 2)),
    (0, (3, 1)),
)
COLORS = ("#b2182b", "#00798c", "#d9a400", "#20405f", "#7a5195", "#4f9d69", "#8d6a9f", "#444444")
COLUMN = 3.3
BESIDE_NAMES = 30
"""Characters of an axis label that fit below a plot with names at its left."""
BESIDE = 0.08
"""Places between two arms at the same number of ratings."""
TEXT: Any = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "legend.fontsize": 6,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "svg.hashsalt": "metajax",
}
DPI = 300
"""Dots per inch of a picture in dots."""


@contextlib.contextmanager
def page(path: pathlib.Path, height: float = 2.4) -> Iterator[Any]:
    """The axes of a figure as wide as a column; it is saved to ``path`` when the context ends."""
    import matplotlib  # a quarter of a second that a page of help need not wait for
    from matplotlib.figure import Figure

    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        yield figure.subplots()
        path.parent.mkdir(parents=True, exist_ok=True)
        still = {"Date": None} if path.suffix in (".svg", ".pdf") else None
        if path.suffix == ".pdf":
            still = {"CreationDate": None}
        figure.savefig(path, dpi=DPI, metadata=still)


def look(i: int) -> dict[str, Any]:
    """Line style, marker and color of the i-th line of a figure, as options of matplotlib."""
    return {
        "linestyle": STYLES[i % len(STYLES)],
        "marker": MARKERS[i % len(MARKERS)],
        "color": COLORS[(i + 3 * (i // len(COLORS))) % len(COLORS)],
    }


def legend(axes: Any, count: int) -> None:
    """The legend above the axes, where it hides no line."""
    columns = 2 if count > 2 else 1
    axes.figure.legend(loc="outside upper center", ncols=columns, frameon=False, handlelength=3.2)


def banded(
    axes: Any, i: int, x: Any, found: Sequence[intervals.Interval], name: str, **how: Any
) -> None:
    """Draws the i-th line, through means at ``x``, with their intervals as a band."""
    axes.plot(x, [r.mean for r in found], label=name, **how, **look(i))
    low, high = [r.low for r in found], [r.high for r in found]
    axes.fill_between(x, low, high, color=look(i)["color"], alpha=0.1, linewidth=0)


def finish(axes: Any, x: str, y: str, lines: int) -> None:
    """Names both axes, and draws the grid and the legend of so many lines."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, linewidth=0.4)
    legend(axes, lines)


def _keep_readable(axes: Any, values: Sequence[float]) -> None:
    """Cuts the axis off above what has diverged, and says so, so that the rest stays readable."""
    finite = [v for v in values if np.isfinite(v)]
    inside = [v for v in finite if v <= 2.5 * float(np.median(finite))]
    if inside and len(inside) < len(values):
        margin = 0.1 * (max(inside) - min(inside)) + 1e-9
        axes.set_ylim(min(inside) - margin, max(inside) + 2 * margin)
        told = f"off the scale: up to {max(finite):.2g}"
        axes.text(0.98, 0.97, told, transform=axes.transAxes, ha="right", va="top", fontsize=6)


def k_shot(
    record: report.Record,
    scenario: str,
    path: pathlib.Path,
    metric: str = "mae",
    arms: Sequence[str] | None = None,
) -> None:
    """Saves the curve of a metric over the number of support ratings, one line per arm.

    Intervals are bars, and the arms stand beside each other, so that none hides another's.
    """
    conditions = [(str(k), f"k={k}") for k in record.shots] + [("all", "all")]
    places = np.arange(len(conditions))
    shown = list(arms or record.names())
    means: list[float] = []
    with page(path, 2.9) as axes:
        for i, arm in enumerate(shown):
            results = [
                report.interval(record.of(scenario, arm, name, metric), metric)
                for _, name in conditions
            ]
            means += [r.mean for r in results]
            width = 1.8 if arm == record.method else 1.0
            beside = places + BESIDE * (i - (len(shown) - 1) / 2)
            axes.plot(beside, [r.mean for r in results], label=arm, linewidth=width, **look(i))
            low, high = [r.low for r in results], [r.high for r in results]
            axes.vlines(beside, low, high, color=look(i)["color"], linewidth=0.7, alpha=0.6)
        _keep_readable(axes, means)
        axes.set_xticks(places, [label for label, _ in conditions])
        finish(
            axes,
            f"support ratings of the new user ({record.dataset})",
            "RMSE" if metric == "mse" else metric.upper(),
            len(shown),
        )


def gaps_by_shots(
    curves: Mapping[str, Mapping[str, intervals.Interval]],
    path: pathlib.Path,
    label: str,
    most: int = 5,
) -> None:
    """Saves paired differences over the number of support ratings, one line per arm, and 0.

    Args:
      curves: number of support ratings -> arm -> the method minus it; the same arms everywhere,
        the most ratings last.
      path: of the picture.
      label: of the difference.
      most: the arms that are shown: those nearest to the method after most ratings.
    """
    last = list(curves.values())[-1]
    shown = sorted(last, key=lambda arm: abs(last[arm].mean))[:most]
    places = np.arange(len(curves))
    with page(path, 2.9) as axes:
        for i, arm in enumerate(a for a in last if a in shown):
            banded(axes, i, places, [of[arm] for of in curves.values()], arm)
        axes.axhline(0.0, color="#666666", linewidth=0.7, linestyle="--")
        axes.set_xticks(places, list(curves))
        finish(axes, "support ratings of the new user", textwrap.fill(label, 40), len(shown))


def learning(record: report.Record, path: pathlib.Path, name: str = "valid") -> None:
    """Saves the validation score (or the loss) over the outer steps, with the seeds' range."""
    histories = {
        arm.name: np.asarray(arm.history[name]) for arm in record.arms if name in arm.history
    }
    if not histories:
        raise UserError(f"the record of {record.experiment} has no history of {name!r}")
    run, settings = record.config, {arm.name: arm.settings for arm in record.arms}
    with page(path) as axes:
        for i, (arm, values) in enumerate(histories.items()):
            values = np.atleast_2d(values)
            steps = settings[arm].get("num_steps") or run.get("num_steps", values.shape[1])
            x = steps * np.arange(1, values.shape[1] + 1) / values.shape[1]
            every = max(1, values.shape[1] // 8)
            axes.plot(x, values.mean(axis=0), label=arm, markevery=every, **look(i))
            band = (values.min(axis=0), values.max(axis=0))
            axes.fill_between(x, *band, color=look(i)["color"], alpha=0.12, linewidth=0)
        finish(
            axes,
            "outer step" if "num_steps" in run else "block of outer steps",
            "error on meta-validation" if name == "valid" else "outer loss",
            len(histories),
        )


def forest(rows: Sequence[tuple[str, intervals.Interval]], path: pathlib.Path, label: str) -> None:
    """Saves a forest plot: one paired difference with its interval per line, and a line at 0.

    A filled marker stands for an interval that excludes 0.
    """
    if not rows:
        raise UserError("no paired differences to plot; choose another --reference")
    places = np.arange(len(rows))[::-1]
    with page(path, 0.75 + 0.17 * len(rows)) as axes:
        for y, (_, d) in zip(places, rows, strict=True):
            clear = d.low > 0 or d.high < 0
            face = "black" if clear else "white"
            axes.plot([d.low, d.high], [y, y], color="black", linewidth=0.9)
            axes.plot([d.mean], [y], "s", markerfacecolor=face, color="black", markersize=3.8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.axvline(0.0, color="#666666", linewidth=0.7, linestyle="--")
        axes.set_yticks(places, [name for name, _ in rows])
        axes.set_xlabel(textwrap.fill(label, BESIDE_NAMES))
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)


def arms(rows: Sequence[tuple[str, intervals.Interval]], path: pathlib.Path, label: str) -> None:
    """Saves one mean with its interval per line, the first on top."""
    places = np.arange(len(rows))[::-1]
    bars = np.array([[r.mean - r.low, r.high - r.mean] for _, r in rows]).T
    with page(path, 0.8 + 0.2 * len(rows)) as axes:
        means = [r.mean for _, r in rows]
        axes.errorbar(means, places, xerr=bars, color="black", fmt="o", markersize=2.4)
        axes.set_yticks(places, [name for name, _ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(textwrap.fill(label, BESIDE_NAMES))
        axes.grid(axis="x", alpha=0.25, linewidth=0.4)


def pareto(
    points: Mapping[str, tuple[float, float]], path: pathlib.Path, cost: str, quality: str
) -> None:
    """Saves a plot of cost against error; a line joins the points that no other dominates."""
    names = sorted(points, key=lambda name: points[name])
    front, best = [], np.inf
    for name in names:
        if points[name][1] < best:
            front.append(name)
            best = points[name][1]
    with page(path, 2.9) as axes:
        axes.plot(*zip(*(points[n] for n in front), strict=True), color="#888888", linewidth=0.8)
        for i, name in enumerate(names):
            style = look(i) | {"linestyle": "none", "markersize": 5, "markeredgewidth": 0.8}
            fill = style["color"] if name in front else "white"
            axes.plot(*points[name], label=name, markerfacecolor=fill, **style)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(left=-0.2)
        finish(axes, cost, quality, len(names))


def profile(curves: Mapping[str, np.ndarray], path: pathlib.Path, label: str) -> None:
    """Saves performance profiles: the share of seeds x tasks above each threshold, a line per arm.

    Args:
      curves: arm -> scores, more is better, or their negatives where less is.
      label: of the axis of thresholds.
    """
    together = np.concatenate([v.ravel() for v in curves.values()])
    low, high = np.quantile(together, [0.01, 0.99])
    thresholds = np.linspace(low, high, 101)
    sign = -1.0 if together.max() <= 0 else 1.0
    with page(path, 2.9) as axes:
        for i, (arm, scores) in enumerate(curves.items()):
            shares = intervals.performance_profile(scores, thresholds)
            axes.plot(sign * thresholds, shares, label=arm, markevery=(3 * i, 25), **look(i))
        finish(axes, label, "share of seeds and tasks", len(curves))


def of_comparison(
    records: Mapping[str, report.Record],
    found: Sequence[Any],
    reference: str,
    metric: str,
    folder: pathlib.Path,
) -> list[pathlib.Path]:
    """Saves all figures for which the records have data, and returns their paths."""
    saved: list[pathlib.Path] = []
    named = lambda text: re.sub(r"[^\w.]+", "-", text)
    for scenario in dict.fromkeys(e.scenario for e in found):
        group = [e for e in found if e.scenario == scenario]
        base = next((e for e in group if e.arm == reference), None)
        if base is None:
            continue
        rows = [
            (
                f"{e.run}: {e.arm}" if len(records) > 1 else e.arm,
                report.difference(e.scores, base.scores),
            )
            for e in group
            if e is not base and reliability.pairs(e, base)
        ]
        if rows:
            saved.append(folder / f"forest-{named(scenario)}.png")
            forest(rows, saved[-1], f"{metric.upper()} - {reference}, {scenario.replace('_', '-')}")
        kept = [e for e in group if e is base or reliability.pairs(e, base)]
        kept = [e for e in kept if not np.isinf(e.scores).any()]
        curves = {
            f"{e.run}: {e.arm}" if len(records) > 1 else e.arm: reliability.oriented(scores, metric)
            for e, scores in zip(kept, reliability.common(kept), strict=True)
        }
        if base in kept:
            saved.append(folder / f"profile-{named(scenario)}.png")
            better = "below" if tables.lower_is_better(metric) else "above"
            profile(curves, saved[-1], f"{reliability.shown(metric)}, share {better}")
    for cost, field in reliability.COSTS.items():
        found_costs = reliability.costs(records, metric=metric)
        points = {f"{c.run}: {c.arm}" if len(records) > 1 else c.arm: c for c in found_costs}
        known = {n: (getattr(c, field), c.quality) for n, c in points.items()}
        known = {n: p for n, p in known.items() if np.isfinite(p).all()}
        if known and tables.lower_is_better(metric):
            saved.append(folder / f"pareto-{field.replace('_', '-')}.png")
            pareto(known, saved[-1], cost, f"{reliability.shown(metric)} of new users")
    for name, record in records.items():
        if record.shots:
            saved.append(folder / f"k-shot-{named(name)}.png")
            k_shot(record, "user_cold", saved[-1])
        if any("valid" in arm.history for arm in record.arms):
            saved.append(folder / f"learning-{named(name)}.png")
            learning(record, saved[-1])
    return saved
