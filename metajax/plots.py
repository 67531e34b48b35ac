"""Pictures of results, readable in grey and at the width of a column."""

import pathlib

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from metajax import report

MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":")
COLORS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#7a5195", "#66a182", "#8d6a9f", "#444444")


def k_shot(record: report.Record, scenario: str, path: pathlib.Path, metric: str = "mae") -> None:
    """Saves the curve of a metric over the number of support ratings, one line per arm."""
    conditions = [(str(k), f"k={k}") for k in record.facts["shots"]] + [("all", "all")]
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    places = range(len(conditions))
    for i, arm in enumerate(record.facts["arms"]):
        results = [
            report.interval(record.of(scenario, arm, name, metric), metric)
            for _, name in conditions
        ]
        color = COLORS[i % len(COLORS)]
        is_method = arm == record.facts["method"]
        axes.plot(
            places,
            [r.mean for r in results],
            STYLES[i % len(STYLES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            color=color,
            linewidth=2.0 if is_method else 1.2,
            label=arm,
        )
        axes.fill_between(
            places, [r.low for r in results], [r.high for r in results], color=color, alpha=0.10
        )
    axes.set_xticks(list(places), [label for label, _ in conditions])
    axes.set_xlabel("support ratings of the new user")
    axes.set_ylabel(metric.upper())
    axes.set_title(f"{record.facts['data']['name']}, {scenario.replace('_', '-')}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)
