"""The figures of the paper, as wide as a column and readable in grey."""

import pathlib

from metajax.results import plots, records
from paper.claims import sinusoid_scores
from paper.edition import PRIMARY, Results
from paper.fresh import mixtures_by_ratings


def figures(r: Results, folder: pathlib.Path) -> None:
    """Saves the figures of the paper."""
    methods = r.methods()
    closed = [a for a in ("A1 bias", "A2 fold-in", "A7 hier. Bayes") if a in r.base.names()]
    shown = [*closed, "A3 joint", "A4 fine-tuned", r.base.method]
    plots.k_shot(r.base, "user_cold", folder / "k-shot.svg", arms=shown, metric=PRIMARY)
    plots.learning(r.base, folder / "learning.svg")
    rows = [(m.name, r.gap(m, "A2 fold-in")) for m in methods]
    plots.forest(rows, folder / "forest.svg", "squared error of new users minus fold-in's (A2)")
    points: dict[str, tuple[float, float]] = {}
    arms = [(r.base, a) for a in r.base.names()]
    for record, arm in [*arms, *((r.ratings[m.record], m.arm) for m in methods)]:
        told = record.arm(arm)
        steps = told.gradients.per_task if told.gradients else None
        inner = record.config.get("inner_steps", 0)
        fallback = told.settings.get("steps", inner if told.role == records.METHOD else 0)
        cost = fallback if steps is None else steps
        error = records.interval(record.of("user_cold", arm, "all", PRIMARY), PRIMARY).mean
        points[arm] = (float(cost), error)
    plots.pareto(points, folder / "pareto.svg", "gradient steps per new user", "RMSE of new users")
    if r.sinusoid:
        sinusoid(list(r.sinusoid.values())[len(r.sinusoid) // 2], folder / "sinusoid.svg")
    mixtures = mixtures_by_ratings(r)
    here = [one for one in mixtures if one.told["dataset"] == r.base.dataset]
    for found in (here or mixtures)[-1:]:
        curves, label = (
            found.by_ratings("user_cold", PRIMARY),
            "squared error, mixture minus the arm",
        )
        plots.gaps_by_shots(curves, folder / "fresh-by-ratings.svg", label)
    for name, record in r.tables.items():
        if name.startswith("tables-T2"):
            named = ("A1 bias", "A2 fold-in", "A4 fine-tuned", "A7 hier. Bayes")
            most = [a for a in record.names() if a in named]
            most += [a for a in ("A6 MAML", record.method) if a in record.names()]
            path, arms = folder / "field-curves.svg", list(dict.fromkeys(most))
            plots.k_shot(record, "user_cold", path, arms=arms, metric=PRIMARY)


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
