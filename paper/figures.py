"""The figures of the paper, as wide as a column and readable in grey."""

import pathlib

from metajax.benchmark.baselines import A1, A2, A3, A4, A7
from metajax.benchmark.boosting import A8
from metajax.benchmark.mixture import A10, MIXED
from metajax.results import intervals, plots, records, tables
from paper.claims import sinusoid_scores
from paper.edition import PRIMARY, Results
from paper.field import curves
from paper.mixture import NEAREST, last_at_home

RIDGE = "A6 ridge head"


def figures(r: Results, folder: pathlib.Path) -> None:
    """Saves the figures of the paper."""
    methods = [m for m in r.methods() if not r.diverged(m)]
    curve(r.base, (A1, A2, A7, A3, A4, A8, r.base.method), folder / "k-shot.svg")
    plots.learning(r.base, folder / "learning.svg")
    rows = [(m.name, r.gap(m, "A2 fold-in")) for m in methods]
    plots.forest(rows, folder / "forest.svg", "squared error of new users minus fold-in's (A2)")
    plots.arms(costs(r), folder / "cost.svg", "RMSE of new users")
    if r.sinusoid:
        sinusoid(list(r.sinusoid.values())[len(r.sinusoid) // 2], folder / "sinusoid.svg")
    if field := curves(r):
        curve(field, (A2, A4, A7, A8, "A6 MAML", RIDGE, A10, MIXED), folder / "field-curves.svg")
    if found := last_at_home(r):
        path = folder / "fresh-curves.svg"
        curve(found.record, (A2, A4, A7, A8, RIDGE, A10, MIXED), path)
        label = "squared error, mixture minus the arm"
        gaps = found.by_ratings("user_cold", PRIMARY)
        nearest = {k: {arm: of[arm] for arm in NEAREST if arm in of} for k, of in gaps.items()}
        plots.gaps_by_shots(nearest, folder / "fresh-by-ratings.svg", label)


def curve(record: records.Record, arms: tuple[str, ...], path: pathlib.Path) -> None:
    """Saves the RMSE of new users by their number of ratings, of the arms that are there."""
    kept = [arm for arm in dict.fromkeys(arms) if arm in record.names()]
    plots.k_shot(record, "user_cold", path, arms=kept, metric=PRIMARY)


def costs(r: Results) -> list[tuple[str, intervals.Interval]]:
    """Every arm with the gradient steps that a new user costs, and its RMSE; the lowest first."""
    found = []
    arms = [(r.base, arm) for arm in r.base.names(records.BASELINE)]
    for record, arm in [*arms, *((r.ratings[m.record], m.arm) for m in r.methods())]:
        if tables.diverged(record, "user_cold", arm, metric=PRIMARY):
            continue
        told = record.arm(arm)
        steps = told.gradients.per_task if told.gradients else None
        inner = record.config.get("inner_steps", 0)
        fallback = told.settings.get("steps", inner if told.role == records.METHOD else 0)
        count = int(fallback if steps is None else steps)
        cost = f"{count} step{'s' * (count != 1)}"
        error = records.interval(record.of("user_cold", arm, "all", PRIMARY), PRIMARY)
        found.append((f"{records.label(arm)}, {cost}", error))
    return sorted(found, key=lambda row: row[1].mean)


def sinusoid(record: records.Record, path: pathlib.Path) -> None:
    """Saves the error of each learner after 0 to 10 adaptations."""
    steps = sorted(int(had.removeprefix("steps=")) for had in record.conditions())
    curves = {n: sinusoid_scores(record, f"steps={n}") for n in steps}
    arms = [a for a in record.names() if a != "oracle"]
    with plots.page(path, 2.9) as axes:
        for i, arm in enumerate(arms):
            means = [float(curves[n][arm].mean()) for n in steps]
            axes.plot(steps, means, label=arm, markevery=(i % 2, 2), **plots.look(i))
        axes.set_yscale("log")
        axes.set_xlabel(f"gradient steps on a new sine ({record.scenario})")
        axes.set_ylabel("mean squared error")
        axes.grid(alpha=0.25, linewidth=0.4)
        plots.legend(axes, len(arms))
